"""Published figures agree with each other and the authors' charts, and show only if comparable."""

import json
from pathlib import Path

import pytest

from mvp_align.data.sample.published import BIRTH_COUNTRY
from mvp_align.metrics.published import published, published_opa, published_paa

LLAMA = "meta-llama/Llama-2-7b-hf"


def test_shares_add_up_and_figures_are_shares() -> None:
    for paa in published().paa:
        assert paa.paa + paa.l + paa.tie == pytest.approx(100, abs=0.02)
        assert 23_750 < paa.n <= 23_763
    for opa in published().opa:
        assert 0 < opa.base < 100 / 3 + 0.01  # an untouched model has margins below 2
        assert opa.base < opa.tuned < 100
    assert len(published().opa) == 8 and len(published().paa) == 5


def test_paa_by_model_agrees_with_the_chart_by_country(shared: Path) -> None:
    """The chart's countries, weighted by their people, come near the share of all answers."""
    chart = json.loads((shared / "reference" / "published_country_paa.json").read_text())
    weights = {
        country: BIRTH_COUNTRY[country] for country in chart["paa"] if country in BIRTH_COUNTRY
    }
    assert sum(weights.values()) > 1400
    for place, name in enumerate(chart["models"]):
        (figure,) = [one for one in published().paa if one.model.startswith(name)]
        pooled = sum(chart["paa"][country][place] * people for country, people in weights.items())
        assert 100 * pooled / sum(weights.values()) == pytest.approx(figure.paa, abs=1.5), name


@pytest.mark.parametrize(
    ("data", "model", "prompt", "set_name", "tuned"),
    [
        ("divervalue", LLAMA, "paper", "in_domain", 83.29),
        ("divervalue", LLAMA, "paper", "ufp4", 20.49),
        ("divervalue", LLAMA, "paper", "ufp4_sample", None),
        ("divervalue", LLAMA, "preference", "in_domain", None),
        ("divervalue", "meta-llama/Llama-2-7b-chat-hf", "paper", "in_domain", None),
        ("sample", LLAMA, "paper", "in_domain", None),
    ],
)
def test_opa_is_shown_for_the_same_data_model_and_prompt(
    data: str, model: str, prompt: str, set_name: str, tuned: float | None
) -> None:
    found = published_opa(data, model, prompt, set_name)
    assert (found.tuned if found else None) == tuned


@pytest.mark.parametrize(
    ("model", "paa"),
    [
        ("gpt-4o", 71.33),
        ("openai/gpt-4o-2024-08-06", 71.33),
        ("gpt-4o-mini", None),
        ("Claude-Sonnet-4.5", 79.27),
    ],
)
def test_paa_is_shown_for_the_same_model(model: str, paa: float | None) -> None:
    found = published_paa("divervalue", model)
    assert (found.paa if found else None) == paa
    assert published_paa("sample", model) is None
