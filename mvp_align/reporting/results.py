"""Rows as a reader meets them: base beside tuned, with words and units. The terminal and the page both show these."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mvp_align.evaluation.profiles import PREFIX
from mvp_align.evaluation.rows import Row
from mvp_align.schema import DIMENSIONS

NATS = ("opa/margin", "opa/chosen_shift")
"""In nats a token; every other metric is a share."""

CEILING = "opa/value_blind_ceiling"
LABELS = {
    "opa/length_only": "  length alone",
    "opa/prompt_free": "  without prompt",
    CEILING: "  value-blind ceiling",
    "opa/mean": "OPA (mean of acc@d)",
    "opa/margin": "mean margin, nats",
    "opa/chosen_shift": "chosen shift, nats",
}
SAME_FOR_EVERY_MODEL = ("opa/length_only", CEILING)
FIRST = ("opa/acc@0", "opa/length_only", "opa/prompt_free", CEILING)
BREAKDOWNS = {
    "dimension": "By value dimension",
    "level": "By stated level",
    "dimension,level": "By dimension and level",
    "user_type": "By user type",
}
"""What is always broken down, with its heading; the rest (countries, ages) stands in the full table of the page."""

Section = tuple[str, list["Line"]]
"""A heading, and acc@0 of each group under it."""


@dataclass(frozen=True)
class Line:
    """One metric, or one group of people, before and after. `n` and `users` are of the tuned row where there is one."""

    label: str
    metric: str
    base: Row | None
    tuned: Row | None
    lift: Row | None = None
    ceiling: Row | None = None
    counted: bool = True
    """False on lines that share the counts of the line above."""

    @property
    def counts(self) -> Row | None:
        return (self.tuned or self.base) if self.counted else None


class Results:
    """A run's rows, found by what they are about."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self.index = {(row.stage, row.set, row.metric, row.group_by, row.group): row for row in self.rows}

    def sets(self) -> list[str]:
        """Sets that are no part of another, in the file's order."""
        return unique(row.set.partition("/")[0] for row in self.rows)

    def parts(self, set_name: str) -> list[str]:
        """`ufp4/helpfulness` and so on, for `ufp4`."""
        return unique(row.set for row in self.rows if row.set.startswith(f"{set_name}/"))

    def sections(self, set_name: str) -> list[Section]:
        """The breakdowns of a set that are always shown. Its parts, where it has some, are its user types."""
        parts = [self.line(part, "opa/acc@0", label=part.partition("/")[2]) for part in self.parts(set_name)]
        sections = [(title, self.groups(set_name, group_by)) for group_by, title in BREAKDOWNS.items()]
        if parts:
            sections[-1] = (BREAKDOWNS["user_type"], parts)
        return [(title, lines) for title, lines in sections if lines]

    def line(self, set_name: str, metric: str, group_by: str = "", group: str = "", *, label: str = "") -> Line:
        def find(stage: str, name: str) -> Row | None:
            return self.index.get((stage, set_name, name, group_by, group))

        base, tuned = find("base", metric), find("tuned", metric)
        if metric in SAME_FOR_EVERY_MODEL and self.has_both_stages(set_name):
            base, tuned = base or tuned, tuned or base
        return Line(
            label=label or LABELS.get(metric) or metric.removeprefix("opa/"),
            metric=metric,
            base=base,
            tuned=tuned,
            lift=find("tuned", f"{metric}_lift"),
            ceiling=find("tuned", CEILING) or find("base", CEILING) if metric == "opa/acc@0" else None,
            counted=metric not in FIRST[1:],
        )

    def has_both_stages(self, set_name: str) -> bool:
        return {"base", "tuned"} <= {row.stage for row in self.rows if row.set == set_name}

    def summary(self, set_name: str) -> list[Line]:
        """A line a metric of the whole set: acc@0 with what to read it against, then the others."""
        found = unique(row.metric for row in self.rows if row.set == set_name and not row.group_by)
        shown = [name for name in found if not name.endswith("_lift") and not name.startswith(PREFIX)]
        ordered = [name for name in FIRST if name in shown] + [name for name in shown if name not in FIRST]
        lines = [line for name in ordered if (line := self.line(set_name, name)).base or line.tuned]
        if share := share_of_ceiling(self.line(set_name, "opa/acc@0")):
            lines.insert(1 + max(i for i, line in enumerate(lines) if line.metric == CEILING), share)
        return lines

    def groups(self, set_name: str, group_by: str) -> list[Line]:
        """acc@0 of each group: dimensions in the benchmark's order, levels as High, Low, others as in the file."""
        found = unique(
            row.group
            for row in self.rows
            if row.set == set_name and row.group_by == group_by and row.metric == "opa/acc@0"
        )
        order = {name: place for place, name in enumerate((*DIMENSIONS, "High", "Low"))}
        names = {group: group.split(",") if "," in group_by else [group] for group in found}  # crossed: "safety,Low"
        found.sort(key=lambda group: [order.get(name, len(order)) for name in names[group]])
        return [self.line(set_name, "opa/acc@0", group_by, group, label=" ".join(names[group])) for group in found]


def share_of_ceiling(acc: Line) -> Line | None:
    """acc@0 over the ceiling of a model that ignores who asks; None without one, or where it excludes nothing (1)."""
    if acc.ceiling is None or not 0 < acc.ceiling.value < 1:
        return None
    ceiling = acc.ceiling.value

    def over(row: Row | None) -> Row | None:
        if row is None:
            return None
        return Row(row.stage, row.set, "share_of_ceiling", "", "", row.value / ceiling, None, None, row.n, row.users)

    return Line("  share of the ceiling", "share_of_ceiling", over(acc.base), over(acc.tuned), counted=False)


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def shown(row: Row | None, *, change: bool = False, unit: str = " %") -> str:
    """`58.8 % [51.2, 66.0]`, `-0.51 [-0.60, -0.40]` in nats, or `-`; a `change`, as lifts are, is signed, in points."""
    if row is None or not math.isfinite(row.value):
        return "-"
    nats, change = is_nats(row.metric), change or row.metric.endswith("_lift")
    text = number(row.value, nats=nats, sign=change) + ("" if nats or change else unit)
    if row.low is None or row.high is None:
        return text
    return f"{text} [{number(row.low, nats=nats)}, {number(row.high, nats=nats)}]"


def is_nats(metric: str) -> bool:
    name = metric.partition("_vs_")[0].removesuffix("_lift")
    return name in NATS or name.endswith("/margin")


def number(value: float, *, nats: bool = False, sign: bool = False) -> str:
    digits = 2 if nats else 1
    rounded = round(value if nats else 100 * value, digits) + 0.0  # the sum turns -0.0 into 0.0
    return f"{rounded:+.{digits}f}" if sign else f"{rounded:.{digits}f}"


def prompt_sets(sets: Sequence[str], data_format: str) -> list[str]:
    """Those of `sets` whose records name no person, so that `users` counts prompts: UF-P-4's schema carries none."""
    return [name for name in sets if name == "ufp4" or (name == "in_domain" and data_format == "ufp4")]
