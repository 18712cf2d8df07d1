"""Does it matter who is asking? The profile ablation, and that of earlier choices, as table lines
and verdicts."""

from dataclasses import dataclass

from mvp_align.metrics.profile_ablation import (
    CHOICES_PREFIX,
    CONTRASTS,
    LEVEL,
    OTHER,
    OWN,
    PREFIX,
    VALUES_OVER_SHUFFLED,
)
from mvp_align.metrics.rows import Row
from mvp_align.reporting.results import Line, Results, shown

KINDS = {
    "none": "question alone",
    "demographics": "demographics",
    "values": "stated values",
    "given": "the given profile",
    "shuffled": "another person's values",
}
OTHERS = {"none": "question alone", "demographics": "demographics", "shuffled": "another person's"}
OVER_SHUFFLED = (VALUES_OVER_SHUFFLED, f"{PREFIX}given_vs_shuffled_lift")
HEADING = "Does it matter who is asking?"
CHOICES_HEADING = "Do a person's earlier choices help?"


@dataclass(frozen=True, slots=True)
class Ablation:
    """One table of the same pairs under several prompts, and what it shows in words."""

    heading: str
    caption: str
    shown: str
    """What differs between the lines: the title of their column."""
    lines: list[Line]
    verdict: str


def ablations(results: Results, set_name: str) -> list[Ablation]:
    """Return what was measured of profiles and of earlier choices."""
    found = [
        Ablation(
            HEADING,
            "acc@0 of the same pairs under several profiles; lifts in points",
            "profile shown",
            profile_lines(results, set_name),
            verdict(results, set_name),
        ),
        Ablation(
            CHOICES_HEADING,
            "acc@0 of the same pairs with earlier choices shown; lifts in points",
            "choices shown",
            choice_lines(results, set_name),
            choices_verdict(results, set_name),
        ),
    ]
    return [one for one in found if one.lines]


def profile_lines(results: Results, set_name: str) -> list[Line]:
    """Return acc@0 under each kind of profile, then the contrasts; empty if none was measured."""
    free_text = (
        {"shuffled": "another profile"} if results.line(set_name, f"{PREFIX}given").counts else {}
    )
    lines = [
        results.line(set_name, f"{PREFIX}{kind}", label=label)
        for kind, label in {**KINDS, **free_text}.items()
    ]
    for kind, other in CONTRASTS:
        label = f"{KINDS[kind]} over {({**OTHERS, **free_text})[other]}"
        lines.append(results.line(set_name, f"{PREFIX}{kind}_vs_{other}_lift", label=label))
        if other == "shuffled":
            nats = f"{PREFIX}{kind}/margin_vs_{other}_lift"
            lines.append(results.line(set_name, nats, label="  in mean margin, nats"))
    for group in ("another", "same"):
        label = f"  where that one wants {group} level"
        lines.append(results.line(set_name, VALUES_OVER_SHUFFLED, LEVEL, group, label=label))
    return [line for line in lines if line.base or line.tuned]


def verdict(results: Results, set_name: str) -> str:
    """State what the lift of a user's own values over another's shows; empty without one.

    It claims no more certainty than the interval has.
    """
    lines = [results.line(set_name, metric) for metric in OVER_SHUFFLED]
    row = next((row for line in lines if (row := line.tuned or line.base)), None)
    if row is None:
        return ""
    own, other = (
        ("own values", "values")
        if row.metric == VALUES_OVER_SHUFFLED
        else ("own profile", "profile")
    )
    found = (
        f"{shown(row)} points of acc@0 for showing a person's {own} and not another person's"
        f" {other}"
    )
    return _certainty(row, found, "It does to", "who is asking")


def _certainty(row: Row, found: str, affirmed: str, subject: str) -> str:
    """Put `found`, the lift of `row`, no surer than its interval is."""
    if row.low is None or row.high is None:
        return f"One user alone, so there is no interval: {found} ({row.stage} model)."
    if row.low > 0:
        return f"{affirmed} the {row.stage} model: {found}."
    if row.high < 0:
        return f"The {row.stage} model is misled by {subject}: {found}."
    return f"Not shown for the {row.stage} model: {found}, which spans 0."


def choice_lines(results: Results, set_name: str) -> list[Line]:
    """Return the few-shot curve: acc@0 with so many earlier choices, then the contrasts."""
    counts = _counts(results, set_name)
    lines = [results.line(set_name, f"{CHOICES_PREFIX}none", label="none")]
    for whose, label in ((OWN, "of their own"), (OTHER, "of another person's")):
        lines += [
            results.line(set_name, f"{CHOICES_PREFIX}{whose}{count}", label=f"{count} {label}")
            for count in counts
        ]
    for count in counts:
        own, other = f"{CHOICES_PREFIX}{OWN}{count}", f"{OTHER}{count}"
        over_other, label = f"{own}_vs_{other}_lift", f"{count} of their own over"
        lines += [
            results.line(set_name, f"{own}_vs_none_lift", label=f"{label} none"),
            results.line(set_name, over_other, label=f"{label} another's"),
            results.line(set_name, f"{own}/margin_vs_{other}_lift", label="  in mean margin, nats"),
        ]
        lines += [
            results.line(
                set_name, over_other, LEVEL, group, label=f"  where that one wants {group} level"
            )
            for group in ("another", "same")
        ]
    return [line for line in lines if line.base or line.tuned]


def _counts(results: Results, set_name: str) -> list[int]:
    """Return the counts above 0 of `evals.choices`."""
    start = f"{CHOICES_PREFIX}{OWN}"
    found = {row.metric.removeprefix(start) for row in results.rows if row.set == set_name}
    return sorted(int(text) for text in found if text.isdecimal())


def choices_verdict(results: Results, set_name: str) -> str:
    """State what the most of a person's own choices add over another's; empty without any."""
    counts = _counts(results, set_name)
    if not counts:
        return ""
    most = counts[-1]
    line = results.line(set_name, f"{CHOICES_PREFIX}{OWN}{most}_vs_{OTHER}{most}_lift")
    row = line.tuned or line.base
    if row is None:
        return ""
    found = (
        f"{shown(row)} points of acc@0 for showing {most} earlier choices of a person's own and not"
        " another person's"
    )
    return _certainty(row, found, "They help", "earlier choices")
