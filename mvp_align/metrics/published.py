"""What the benchmark's authors published, as reference beside a run that can be compared with it;
never a `Row`.

A figure is shown only where the run used the same data and model. The published OPA was trained and
scored with the paper's prompt; its seeds, library versions and tokens (their trainer appended EOS)
were not ours.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from pydantic import TypeAdapter
from typing_extensions import override

DATA = "divervalue"
"""`data.name` of the runs that published figures can stand beside."""
PROMPT = "paper"
FILE = Path(__file__).with_suffix(".yaml")


@dataclass(frozen=True, slots=True)
class PublishedOpa:
    """OPA (`opa/mean`) of one model on one set, in %; `tuned_sd` over the authors' seeds."""

    model: str
    ids: tuple[str, ...]
    set: str
    base: float
    tuned: float
    tuned_sd: float
    note: str = ""
    """How it was trained, where that is not what a run here does."""

    @override
    def __str__(self) -> str:
        note = f" ({self.note})" * bool(self.note)
        return f"{self.model} {self.base:.2f} % -> {self.tuned:.2f} ± {self.tuned_sd:.2f} %{note}"


@dataclass(frozen=True, slots=True)
class PublishedPaa:
    """PAA (label W), L and TIE of one model's answers, in % of `n` instances of the whole
    benchmark."""

    model: str
    ids: tuple[str, ...]
    paa: float
    l: float  # noqa: E741 (the label's name)
    tie: float
    n: int

    @override
    def __str__(self) -> str:
        return (
            f"{self.model} W {self.paa:.2f} %, L {self.l:.2f} %, TIE {self.tie:.2f} % of {self.n:,}"
        )


@dataclass(frozen=True, slots=True)
class Published:
    source: str
    opa: tuple[PublishedOpa, ...]
    paa: tuple[PublishedPaa, ...]


@cache
def published() -> Published:
    """All figures of the data file."""
    return TypeAdapter(Published).validate_python(yaml.safe_load(FILE.read_text("utf-8")))


def published_opa(data: str, model_id: str, prompt: str, set_name: str) -> PublishedOpa | None:
    """The figure to put beside a run on `set_name` with these settings; None where none is
    comparable."""
    if data != DATA or prompt != PROMPT:
        return None
    return next(
        (one for one in published().opa if one.set == set_name and model_id in one.ids), None
    )


def published_paa(data: str, model_id: str) -> PublishedPaa | None:
    """The figure of this very model's answers; None for others. `model_id` may have an owner before
    it and a date after."""
    if data != DATA:
        return None
    name = model_id.rpartition("/")[2].lower()
    return next(
        (
            one
            for one in published().paa
            if any(name == known or _dated(name, known) for known in one.ids)
        ),
        None,
    )


def _dated(name: str, known: str) -> bool:
    """`gpt-4o-2024-08-06` is a `gpt-4o`; `gpt-4o-mini` is none."""
    rest = name.removeprefix(f"{known}-")
    return rest != name and rest.replace("-", "").isdigit()
