"""Which tables hold a population, and what their columns are called: `conf/population/*.yaml`."""

import difflib
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from mvp_align.errors import UserError
from mvp_align.runtime.folders import config_options, find_config
from mvp_align.runtime.yaml_files import read_yaml

SAMPLE = "sample:"
"""Names a table of the bundled, synthetic population."""

Column = Annotated[str, Field(min_length=1)]
"""A column's name; `stated_prefs.safety` is the entry `safety` of objects in `stated_prefs`."""


@dataclass(config=ConfigDict(extra="forbid"))
class PersonColumns:
    """Columns of the survey, by default PRISM's. null: the survey has no such column."""

    user_id: Column = "user_id"
    creativity: Column = "stated_prefs.creativity"
    fluency: Column = "stated_prefs.fluency"
    factuality: Column = "stated_prefs.factuality"
    diversity: Column = "stated_prefs.diversity"
    safety: Column = "stated_prefs.safety"
    personalisation: Column = "stated_prefs.personalisation"
    helpfulness: Column = "stated_prefs.helpfulness"
    age: Column | None = "age"
    """A range in words, or years as a number."""
    gender: Column | None = "gender"
    employment_status: Column | None = "employment_status"
    education: Column | None = "education"
    marital_status: Column | None = "marital_status"
    english_proficiency: Column | None = "english_proficiency"
    birth_country: Column | None = "location.birth_country"
    self_description: Column | None = "self_description"
    system_string: Column | None = "system_string"


@dataclass(config=ConfigDict(extra="forbid"))
class ConversationColumns:
    """Columns of the conversations, by default PRISM's."""

    conversation_id: Column = "conversation_id"
    user_id: Column = "user_id"
    opening_prompt: Column = "opening_prompt"
    turns: Column | None = "conversation_history"
    """A list of objects, or a JSON list as text; null: the table has opening prompts alone."""


@dataclass(config=ConfigDict(extra="forbid"))
class TurnColumns:
    """Keys of a turn, by default PRISM's. Whatever its role, a turn has one message."""

    role: Column = "role"
    """`user` for people; `model` or `assistant` for replies."""
    content: Column = "content"
    score: Column | None = "score"
    """What the person gave a reply; a higher one is better."""


@dataclass(config=ConfigDict(extra="forbid"))
class Population:
    """A survey, conversations of the same people, and what their columns are called."""

    survey: Annotated[str, Field(min_length=1)]
    """.jsonl, .csv, .tsv or .parquet; text files also gzipped. One row a person."""
    conversations: Annotated[str, Field(min_length=1)]
    """The same kinds of file. One row a conversation."""
    person: PersonColumns = Field(default_factory=PersonColumns)
    conversation: ConversationColumns = Field(default_factory=ConversationColumns)
    turn: TurnColumns = Field(default_factory=TurnColumns)


def read_population(name: str) -> Population:
    """Load `name` from `conf/population/`, or from a YAML file with the same fields.

    Raises UserError listing all problems, and where a table does not exist.
    """
    own_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if own_file else find_config(f"population/{name}.yaml")
    if path is None or not path.is_file():
        known = config_options("population")
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"{name}: no such population. Known: {', '.join(known)}, or the path of a YAML"
            f" file.{hint}"
        )
    population = read_yaml(path, Population)
    for setting in ("survey", "conversations"):
        if not table_path(getattr(population, setting)).is_file():
            raise UserError(
                f"{path}: {setting}: {getattr(population, setting)} is no file. Paths are looked"
                " for from where the command runs."
            )
    return population


def table_path(table: str) -> Path:
    if table.startswith(SAMPLE):
        return Path(__file__).with_name("sample") / table.removeprefix(SAMPLE)
    return Path(table)
