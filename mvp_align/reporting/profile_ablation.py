"""Does it matter who is asking? The profile ablation as table lines and a verdict."""

from mvp_align.metrics.profile_ablation import CONTRASTS, LEVEL, PREFIX, VALUES_OVER_SHUFFLED
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
    if row.low is None or row.high is None:
        return f"One user alone, so there is no interval: {found} ({row.stage} model)."
    if row.low > 0:
        return f"It does to the {row.stage} model: {found}."
    if row.high < 0:
        return f"The {row.stage} model is misled by who is asking: {found}."
    return f"Not shown for the {row.stage} model: {found}, which spans 0."
