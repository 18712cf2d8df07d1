"""The figures of a run's page, in headless Chromium: what is drawn is what metrics.jsonl has."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from browser_pages import WIDTHS, inaccessible, opened, wider_than_their_column
from finished_runs import HOSTILE, Measured, drawn_margins, finish_run, made_pairs

from mvp_align.metrics.rows import write_rows
from mvp_align.reporting.html import write_report
from mvp_align.runs.curve_points import CurvePoint, write_curves
from mvp_align.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

COUNTRIES = ("United States", "India", "Singapore", "Guadeloupe", "Atlantis", "Kenya", "Japan")
PAIRS = 420
ACC, LIFT = "opa/acc@0", "opa/acc@0_lift"


def grouped_run(folder: Path) -> RunFolder:
    """42 people, six of each country; Japan is left with three, and so is held back."""
    pairs = []
    for pair in made_pairs(PAIRS, people=42, countries=COUNTRIES):
        number = int(pair.user_id[1:])
        country = "Kenya" if pair.groups["birth_country"] == "Japan" and number % 2 else None
        genders = (HOSTILE, "שלום 🎉", "Female")
        groups = pair.groups | {"gender": genders[number % 3]}
        if country:
            groups |= {"birth_country": country}
        pairs.append(replace(pair, groups=groups))
    measured = {
        "in_domain": Measured(pairs, drawn_margins(PAIRS)),
        "ufp4": Measured(made_pairs(20), drawn_margins(20, seed=3)),
    }
    run = finish_run(folder, measured, name=HOSTILE)
    write_curves(
        run.curves,
        [
            CurvePoint(step, {"train/loss": 0.7 - step / 100, "train/rewards/chosen": -step / 9})
            for step in range(1, 30)
        ]
        + [CurvePoint(30, {"train/loss": 0.4, "eval/in_domain/opa/acc@0": 0.625})],
    )
    return run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(grouped_run(tmp_path_factory.mktemp("figures") / "run").path)


def metric_rows(report: Path, **wanted: str) -> list[dict[str, Any]]:
    """Rows of metrics.jsonl, read without our readers."""
    lines = map(json.loads, (report.parent / "metrics.jsonl").read_text("utf-8").splitlines())
    return [row for row in lines if all(row[key] == value for key, value in wanted.items())]


def choose_figure(page: Page, title: str, section: str = "set-1") -> str:
    """Show the figure of that title, and return its id once it is drawn."""
    choice = page.locator(f"section[aria-labelledby={section}] select[data-figures]")
    for select in choice.all():
        if title in select.locator("option").all_text_contents():
            select.select_option(label=title)
            name = select.input_value()
            return drawn_figure(page, name)
    raise AssertionError(f"there is no figure {title}")


def drawn_figure(page: Page, name: str) -> str:
    page.wait_for_selector(f"#{name} svg [aria-roledescription]", state="attached")
    page.wait_for_selector(f"#{name}[data-drawn=yes]")
    return name


def labels(page: Page, name: str, role: str = "value") -> list[str]:
    marks = page.locator(f"#{name} [aria-roledescription={role}]").all()
    return [mark.get_attribute("aria-label") or "" for mark in marks]


def values_by_place(page: Page, name: str) -> dict[str, float]:
    """What each mark's place says along the horizontal axis, read against the axis' own labels."""
    found = page.evaluate(
        """(name) => {
          const at = (mark) => new DOMMatrix(getComputedStyle(mark).transform).e;
          const place = (mark) => mark.getCTM().e;
          const texts = [...document.querySelectorAll(`#${name} .role-axis-label text`)];
          const marks = document.querySelectorAll(`#${name} [aria-roledescription=value]`);
          const ticks = [...document.querySelectorAll(`#${name} .role-axis-grid line`)];
          return [texts.map((text) => text.textContent), ticks.map(place),
                  [...marks].map((mark) => [mark.getAttribute("aria-label"), place(mark)])];
        }""",
        name,
    )
    texts, ticks, marks = found
    numbers = [float(text.replace("−", "-").removesuffix(" %")) / 100 for text in texts]
    assert len(numbers) == len(ticks) > 1
    slope = (numbers[-1] - numbers[0]) / (ticks[-1] - ticks[0])
    return {label: numbers[0] + (x - ticks[0]) * slope for label, x in marks}


@pytest.mark.parametrize(
    ("title", "by"), [("By gender", "gender"), ("By country of birth", "birth_country")]
)
def test_changes_stand_where_metrics_jsonl_has_them(
    browser: Browser, report: Path, title: str, by: str
) -> None:
    rows = metric_rows(report, set="in_domain", metric=LIFT, group_by=by)
    assert len(rows) > 2
    with opened(browser, report) as page:
        name = choose_figure(page, title)
        found = values_by_place(page, name)
    assert len(found) == len(rows)
    order = sorted(rows, key=lambda row: row["value"])
    for row, (label, value) in zip(order, found.items(), strict=True):
        assert label.startswith(f"{row['group']}: change ")
        assert label.endswith(f" points, {row['n']} pairs, {row['users']} people")
        shown = re.search(r"change ([-+][\d.]+) \[(-?[\d.]+), (-?[\d.]+)\]", label)
        assert shown is not None
        wanted = [100 * row[key] for key in ("value", "low", "high")]
        assert list(map(float, shown.groups())) == pytest.approx(wanted, abs=0.051)
        assert value == pytest.approx(row["value"], abs=2e-3)


def test_base_and_tuned_stand_where_metrics_jsonl_has_them(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        found = values_by_place(page, drawn_figure(page, "set1-groups"))
    rows = [
        row
        for by in ("", "dimension", "level", "dimension,level")
        for row in metric_rows(report, set="in_domain", metric=ACC, group_by=by)
    ]
    assert len(found) == len(rows) > 12
    for row in rows:
        name = row["group"].replace(",", " ") or "everyone"
        label = next(one for one in found if one.startswith(f"{name}: {row['stage']} "))
        assert found[label] == pytest.approx(row["value"], abs=2e-3)


def test_the_map_draws_every_country_once_and_hatches_what_is_held_back(
    browser: Browser, report: Path
) -> None:
    rows = metric_rows(report, set="in_domain", metric=ACC, group_by="birth_country", stage="tuned")
    assert "Japan" not in {row["group"] for row in rows}
    with opened(browser, report) as page:
        name = choose_figure(page, "acc@0, tuned model")
        countries = {one.partition(":")[0]: one for one in labels(page, name, "country")}
        caption = page.inner_text(f"#{name} figcaption")
        assert page.locator(f"#{name} [aria-label^=Japan]").get_attribute("fill") == "url(#hatch)"
    assert countries["Japan"] == "Japan: too few people to be shown"
    for row in rows:
        said = countries.get(row["group"]) or caption[caption.index(f"{row['group']}: ") :]
        assert f"{100 * row['value']:.1f} %" in said
        assert f"{row['n']} pairs, {row['users']} people" in said
    assert {row["group"] for row in rows} - countries.keys() == {"Guadeloupe", "Atlantis"}


def test_what_is_held_back_is_nowhere_a_number(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        for title in ("By country of birth", "By region of birth"):
            name = choose_figure(page, title)
            assert not [one for one in labels(page, name) if one.startswith("Japan")]
        text = page.inner_text("section[aria-labelledby=set-1]")
    assert "By country of birth: 1 group has too few people to be shown: 3 people" in text


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_whole_page_fits_and_everybody_can_read_it(
    browser: Browser, report: Path, width: int, dark: bool
) -> None:
    with opened(browser, report, width=width, dark=dark) as page:
        page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
        drawn_figure(page, "curve-1")
        assert wider_than_their_column(page) == []
        assert inaccessible(page) == []


def test_curves_have_what_was_logged_or_say_why_not(browser: Browser, report: Path) -> None:
    with opened(browser, report) as page:
        assert labels(page, drawn_figure(page, "curve-1"), "line") == [
            "train/loss: 0.69 at step 1, 0.4 at step 30, lowest 0.4 at step 30,"
            " highest 0.69 at step 1"
        ]
        assert labels(page, drawn_figure(page, "curve-2")) == [
            "eval/in_domain/opa/acc@0, step 30: 62.5 %"
        ]
    run = RunFolder(report.parent, resumed=False)
    kept = run.curves.read_bytes()
    run.curves.unlink()
    try:
        assert "This run has no curves.jsonl" in write_report(run.path).read_text("utf-8")
    finally:
        run.curves.write_bytes(kept)
        write_report(run.path)


def odd_runs() -> dict[str, dict[str, Measured]]:
    margins = drawn_margins(12)
    answers = {"tuned": [f"It says {number}." for number in range(12)]}
    return {
        "one person": {"in_domain": Measured(made_pairs(12, people=1), margins)},
        "one pair": {"in_domain": Measured(made_pairs(1), {"tuned": [0.0]})},
        "base alone": {"in_domain": Measured(made_pairs(12), {"base": margins["base"]})},
        "answers alone": {"in_domain": Measured(made_pairs(12), answers=answers)},
    }


@pytest.mark.parametrize("kind", odd_runs())
def test_a_run_of_any_kind_has_a_page(browser: Browser, tmp_path: Path, kind: str) -> None:
    run = finish_run(tmp_path / "run", odd_runs()[kind])
    with opened(browser, write_report(run.path), width=390) as page:
        drawn_figure(page, "sets")
        assert wider_than_their_column(page) == []
        assert "nan" not in page.inner_text("body").casefold().split()


def test_a_run_without_a_row_has_a_page(browser: Browser, tmp_path: Path) -> None:
    run = finish_run(tmp_path / "run", odd_runs()["one person"])
    write_rows(run.metrics, [])
    with opened(browser, write_report(run.path)) as page:
        assert page.inner_text("h1") == "This run has no results."
        assert page.locator("figure").count() == 0
