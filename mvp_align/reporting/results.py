"""Rows as shown in the terminal and the report: base next to tuned, with labels and units."""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mvp_align.data.sets import SETS, names_people
from mvp_align.metrics.drift import NEUTRAL
from mvp_align.metrics.metric import BETTER, DEFF, GAP, LIFT, SUPPRESSED, WORSE, WORST
from mvp_align.metrics.names import derivation, is_derived, measure
from mvp_align.metrics.opa import ACC, CEILING, SHARE_OF_CEILING, WORST_GROUP
from mvp_align.metrics.profile_ablation import CHOICES_PREFIX, PREFIX
from mvp_align.metrics.rows import Row
from mvp_align.metrics.table import METRICS
from mvp_align.metrics.variables import STATED, VARIABLES, crossed_name
from mvp_align.reporting.leading import leading_metric, spoken
from mvp_align.reporting.table import PLAIN, SHARE, measured
from mvp_align.schema import DIMENSIONS

SAME_FOR_EVERY_MODEL = tuple(metric.name for metric in METRICS if metric.same_for_every_model)
FIRST = (ACC, *(metric.name for metric in METRICS if metric.beside == ACC))
BREAKDOWNS = {one.name: f"By {one.label}" for one in VARIABLES if one.section}
"""Breakdowns that are always shown. Others (countries, ages) are in the report's full table."""
PEOPLE = {one.name: one.label for one in VARIABLES if one.extremes}
"""Attributes of users, with labels."""
KNOWN = frozenset(one.name for one in VARIABLES)

CROSSED = re.compile(r",(?! )")
"""Separator in crossed groups, as in `safety,High`. PRISM's own names have a space after commas."""

T = TypeVar("T", bound=Hashable)
PROMPT_SETS = "prompt_sets"
"""Key of notes.json for the sets whose records name no user, so that `users` counts prompts."""

BLIND = (
    "acc@0 of the model that ignores who is asking and is the best such model for the whole set;"
    " one that sides with a group passes that group's figure without seeing anybody"
)
"""What the value-blind ceiling of a group is."""

Section = tuple[str, list["Line"]]
"""A heading, and acc@0 of each group under it."""


@dataclass(frozen=True)
class Line:
    """One metric, or one group of users, before and after training.

    `n` and `users` are those of the tuned row if there is one.
    """

    label: str
    metric: str
    base: Row | None
    tuned: Row | None
    lift: Row | None = None
    ceiling: Row | None = None
    counted: bool = True
    """False for lines that share the counts of the line above."""

    @property
    def counts(self) -> Row | None:
        return (self.tuned or self.base) if self.counted else None


@dataclass(frozen=True)
class GroupGap:
    """Inequality between the groups of one breakdown.

    `worst` is the group with the lowest acc@0 (of the tuned model if there is one), `gap` the
    distance to the highest, and `suppressed` the number of groups with too few users to be shown.
    """

    label: str
    worst: Row | None
    gap: Row | None
    suppressed: Row | None


class Results:
    """Lookup of a run's rows by stage, set, metric and group."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)
        self.index = {
            (row.stage, row.set, row.metric, row.group_by, row.group): row for row in self.rows
        }

    def sets(self) -> list[str]:
        """Return the sets that are not part of another one, in the file's order."""
        return unique(row.set.partition("/")[0] for row in self.rows)

    def lead(self, set_name: str) -> str:
        return leading_metric(self.rows, set_name)

    def parts(self, set_name: str) -> list[str]:
        """Return a set's parts: `ufp4/helpfulness` and so on for `ufp4`."""
        return unique(row.set for row in self.rows if row.set.startswith(f"{set_name}/"))

    def sections(self, set_name: str) -> list[Section]:
        """Return the breakdowns of a set that are always shown.

        A set's parts are its user types.
        """
        parts = [
            self.line(part, self.lead(part), label=part.partition("/")[2])
            for part in self.parts(set_name)
        ]
        found = {group_by: self.groups(set_name, group_by) for group_by in BREAKDOWNS}
        if parts:
            found["user_type"] = parts
        return [(BREAKDOWNS[group_by], lines) for group_by, lines in found.items() if lines]

    def line(
        self, set_name: str, metric: str, group_by: str = "", group: str = "", *, label: str = ""
    ) -> Line:
        def find(stage: str, name: str) -> Row | None:
            return self.index.get((stage, set_name, name, group_by, group))

        base, tuned = find("base", metric), find("tuned", metric)
        if metric in SAME_FOR_EVERY_MODEL and self.has_both_stages(set_name):
            base, tuned = base or tuned, tuned or base
        return Line(
            label=label or label_of(metric),
            metric=metric,
            base=base,
            tuned=tuned,
            lift=find("tuned", f"{metric}{LIFT}"),
            ceiling=find("tuned", CEILING.name) or find("base", CEILING.name)
            if metric == ACC
            else None,
            counted=metric not in FIRST[1:],
        )

    def has_both_stages(self, set_name: str) -> bool:
        return {"base", "tuned"} <= {row.stage for row in self.rows if row.set == set_name}

    def summary(self, set_name: str) -> list[Line]:
        """Return one line per metric of the whole set: acc@0 and its baselines, then the others."""
        found = unique(row.metric for row in self.rows if row.set == set_name and not row.group_by)
        ablated = (PREFIX, CHOICES_PREFIX)  # a table of their own
        shown = [name for name in found if not (is_derived(name) or name.startswith(ablated))]
        ordered = [name for name in FIRST if name in shown] + [
            name for name in shown if name not in FIRST
        ]
        lines = [line for name in ordered if (line := self.line(set_name, name)).base or line.tuned]
        if share := _share_of_ceiling(self.line(set_name, ACC)):
            lines.insert(
                1 + max(i for i, line in enumerate(lines) if line.metric == CEILING.name), share
            )
        return lines

    def people_variables(self, set_name: str) -> dict[str, str]:
        """Return what tells people apart, the records' own variables too, with labels."""
        brought = unique(row.group_by for row in self.rows if row.set == set_name)
        own = [by for by in brought if by and "," not in by and not by.startswith(STATED)]
        return PEOPLE | {by: by.replace("_", " ") for by in own if by not in KNOWN}

    def group_gaps(self, set_name: str) -> list[GroupGap]:
        """Return one line per attribute of users for which a group was measured or suppressed."""
        lines, lead = [], self.lead(set_name)
        wanted = [f"{lead}{word}" for word in (WORST, GAP, SUPPRESSED)]
        for group_by, label in self.people_variables(set_name).items():
            found = {
                derivation(row.metric): row
                # rows of the tuned model replace those of the base
                for stage in ("base", "tuned")
                for row in self.rows
                if (row.stage, row.set, row.group_by) == (stage, set_name, group_by)
                and row.metric in wanted
            }
            if found:
                lines.append(
                    GroupGap(label, found.get(WORST), found.get(GAP), found.get(SUPPRESSED))
                )
        return lines

    def better_off(self, set_name: str) -> str:
        """Say how many users have more, and fewer, correct pairs than with the base, or ""."""
        better, worse = (
            self.index.get(("tuned", set_name, f"{ACC}{word}", "", "")) for word in (BETTER, WORSE)
        )
        if better is None or worse is None:
            return ""
        return (
            f"{shown(better)} have more of their pairs right than with the base model,"
            f" {shown(worse)} have fewer"
        )

    def worst_group(self, set_name: str, worst_by: str) -> str:
        """Say which group of `worst_by` is served worst, and how far from the best, or ""."""
        by = crossed_name(worst_by)
        for stage in ("tuned", "base"):
            whole = self.index.get((stage, set_name, WORST_GROUP.name, "", ""))
            worst = next((row for row in self.rows if _is_worst(row, stage, set_name, by)), None)
            if whole and worst:
                gap = self.index.get((stage, set_name, f"{WORST_GROUP.name}{GAP}", "", ""))
                name = ", ".join(CROSSED.split(worst.group)) if "," in by else worst.group
                return (
                    f"worst group of the {stage} model by {worst_by}: {name}, {shown(whole)},"
                    f" {shown(gap)} points to the best (intervals allow for the search)"
                )
        return ""

    def design_effect(self, set_name: str) -> str:
        """State the design effect, due to correlated answers of a user. Empty if unknown."""
        lead = self.lead(set_name)
        keys = ((stage, set_name, f"{lead}{DEFF}", "", "") for stage in ("tuned", "base"))
        found = [self.index.get(key) for key in keys]
        row = next((row for row in found if row), None)
        return (
            f"design effect of {spoken(lead)}: {shown(row)} (variance over that of as many"
            " unrelated answers)"
            if row
            else ""
        )

    def groups(self, set_name: str, group_by: str) -> list[Line]:
        """Return acc@0, or what else leads, of each group.

        Dimensions are in the benchmark's order, levels are High, Low, and others are in the file's
        order.
        """
        lead = self.lead(set_name)
        found = unique(
            row.group
            for row in self.rows
            if row.set == set_name and row.group_by == group_by and row.metric == lead
        )
        order = {name: place for place, name in enumerate((*DIMENSIONS, "High", "Low"))}
        names = {
            group: CROSSED.split(group) if "," in group_by else [group] for group in found
        }  # crossed, like "safety,Low"
        found.sort(key=lambda group: [order.get(name, len(order)) for name in names[group]])
        return [
            self.line(set_name, lead, group_by, group, label=" ".join(names[group]))
            for group in found
        ]


def _is_worst(row: Row, stage: str, set_name: str, by: str) -> bool:
    return (row.stage, row.set, row.metric, row.group_by) == (stage, set_name, ACC + WORST, by)


def suppressed_text(row: Row | None) -> str:
    if row is None:
        return ""
    groups = "1 group has" if row.value == 1 else f"{row.value:.0f} groups have"
    people = "1 person" if row.users == 1 else f"{row.users} people"
    return f"{groups} too few people to be shown: {people}, {row.n} pairs."


def _share_of_ceiling(acc: Line) -> Line | None:
    """Return acc@0 divided by the value-blind ceiling, or None without a ceiling below 1."""
    if acc.ceiling is None or not 0 < acc.ceiling.value < 1:
        return None
    ceiling = acc.ceiling.value

    def over(row: Row | None) -> Row | None:
        if row is None:
            return None
        name, value = SHARE_OF_CEILING.name, row.value / ceiling
        return replace(row, metric=name, value=value, low=None, high=None)

    return Line(
        label_of(SHARE_OF_CEILING.name),
        SHARE_OF_CEILING.name,
        over(acc.base),
        over(acc.tuned),
        counted=False,
    )


def label_of(metric: str) -> str:
    """Return a metric's label, indented if it belongs to the line above."""
    if is_derived(metric):
        return metric.removeprefix("opa/")
    found = measure(metric)
    return ("  " if found.beside else "") + found.label


def unique(names: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(names))


def shown(row: Row | None, *, unit: str = " %") -> str:
    """Format a value.

    For example `58.8 % [51.2, 66.0]`, `-0.51 [-0.60, -0.40]` in nats, `+3.0` for a change in
    points, `0.012` for a p-value, or `-` for None.
    """
    found = measured(row)
    if found is None:
        return "-"
    if found.style.factor == 1 or found.signed:
        return found.text
    value, _, bounds = found.text.partition(" ")
    return f"{value}{unit} {bounds}".rstrip()


def number(value: float, *, percent: bool = True, sign: bool = False) -> str:
    return (SHARE if percent else PLAIN).text(value, signed=sign)


def counted(set_name: str, prompts: Sequence[str]) -> str:
    """Return what `users` counts: people, prompts if records name no user, or neutral passages."""
    if set_name == NEUTRAL:
        return "passages"
    return "prompts" if set_name in prompts else "people"


def prompt_sets(
    sets: Sequence[str], data_format: str, noted: Sequence[str] | None = None
) -> list[str]:
    """Those of `sets` whose records name no person, so that `users` counts prompts. `noted` is what
    the run's notes.json says of it; without, it is told by the format of each set."""
    if noted is not None:
        return [name for name in sets if name in noted]
    return [name for name in sets if name in SETS and not names_people(name, data_format)]
