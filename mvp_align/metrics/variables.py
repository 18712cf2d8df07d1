"""What results are broken down by: one table of group variables, their words, and where they are
shown."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from mvp_align.schema import DIMENSIONS, PreferencePair


@dataclass(frozen=True, slots=True)
class GroupVariable:
    """`name` is the `group_by` of rows; with a comma between two names it crosses them. Where there
    is no `group_of`, the records bring the variable (`PreferencePair.groups`): a record may bring
    others too, which have rows and nothing else."""

    name: str
    label: str
    """How a reader meets it: By `label`."""
    group_of: Callable[[PreferencePair], str | None] | None = None
    """The group of a pair; None where it is in none."""
    section: bool = False
    """The terminal and the page always show its groups."""
    extremes: bool = True
    """Its lowest group, and the gap to the highest, are a line of who is served worst."""
    in_summary: bool = False
    """So few groups that each is a number of its own in trackers, comparable over runs."""


def _stated_level(dimension: str, pair: PreferencePair) -> str | None:
    return pair.stated_values.level(dimension) if pair.stated_values else None


STATED = "stated_"
"""`stated_safety` is High or Low: what the person says of safety, whatever the question is
about."""

VARIABLES = (
    GroupVariable("dimension", "value dimension", section=True, extremes=False, in_summary=True),
    GroupVariable("level", "stated level", section=True, extremes=False, in_summary=True),
    GroupVariable("dimension,level", "dimension and level", section=True, extremes=False),
    GroupVariable("user_type", "user type", section=True, extremes=False),
    GroupVariable("region", "region of birth"),
    GroupVariable("birth_country", "country of birth"),
    GroupVariable("age", "age"),
    GroupVariable("gender", "gender"),
    GroupVariable("education", "education"),
    GroupVariable("employment_status", "employment"),
    GroupVariable("marital_status", "marital status"),
    GroupVariable("english_proficiency", "English"),
    *(
        GroupVariable(
            f"{STATED}{name}",
            f"stated {name}",
            group_of=partial(_stated_level, name),
            extremes=False,
        )
        for name in DIMENSIONS
    ),
)
"""`region` follows from `birth_country` under a map (`groups.with_region`)."""

CROSSINGS = tuple(one.name for one in VARIABLES if "," in one.name)


def crossed_name(by: str) -> str:
    """Return the `group_by` of rows for variables joined by `+`, as settings spell crossings."""
    return by.replace("+", ",")


def tags_of(pair: PreferencePair) -> dict[str, str]:
    """The group of a pair by each variable: what its record brings, then what is worked out."""
    found = dict(pair.groups)
    for variable in VARIABLES:
        if variable.group_of and (group := variable.group_of(pair)) is not None:
            found.setdefault(variable.name, group)
    return found
