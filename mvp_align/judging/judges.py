"""Judges from `conf/judge/<name>.yaml`, or from a user's file with the same fields."""

import difflib
import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from mvp_align.errors import UserError
from mvp_align.generation.endpoint import VARIABLE, Endpoint
from mvp_align.runtime.folders import config_options, find_config
from mvp_align.runtime.yaml_files import read_yaml

SEMANTIC = "semantic"
"""The judge without a server: MiniLM similarity, computed here."""


TAKEN = ("temperature", "model", "messages", "response_format", "stream")
"""Parameter names that have another meaning in a request."""


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.]+", text) or text == SEMANTIC:
        raise PydanticCustomError(
            "name", f"letters, digits, _ and . make a name, and it is not {SEMANTIC}"
        )
    return text


def _parameter(text: str) -> str:
    if not VARIABLE.fullmatch(text) or text in TAKEN:
        raise PydanticCustomError("parameter", "the name of a parameter belongs there")
    return text


@dataclass(config=ConfigDict(extra="forbid"))
class Judge:
    """A judge model, as described by a YAML file."""

    name: Annotated[str, AfterValidator(_name)]
    """Used in file names and reports: letters, digits, _ and . only."""
    endpoint: Endpoint
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """null does not send it, for models that reject it."""
    max_tokens: PositiveInt | None = 360
    """Longest reply, including reasoning.

    null does not send it, so the cost of a reply has no limit.
    """
    yes_no_tokens: PositiveInt | None = 8
    """Longest reply to a yes/no question."""
    max_tokens_parameter: Annotated[str, AfterValidator(_parameter)] = "max_tokens"
    """The server's name for the limit: max_completion_tokens for OpenAI's reasoning models."""
    usd_per_million_input: NonNegativeFloat = 0.0
    usd_per_million_output: NonNegativeFloat = 0.0
    """Prices change: set your own."""

    def longest(self, ask: str) -> int | None:
        """Return the token limit for replies to `ask` (scores or yes_no), or None."""
        return self.yes_no_tokens if ask == "yes_no" else self.max_tokens

    def parameters(self, ask: str) -> dict[str, float | int]:
        """Return the parameters to send with the messages."""
        sent = {"temperature": self.temperature, self.max_tokens_parameter: self.longest(ask)}
        return {name: value for name, value in sent.items() if value is not None}


def read_judge(name: str) -> Judge:
    """Load the judge `name` from `conf/judge/` or from a YAML file.

    Raises UserError listing all problems.
    """
    own_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if own_file else find_config(f"judge/{name}.yaml")
    if path is None or not path.is_file():
        known = [*config_options("judge"), SEMANTIC]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--judge {name}: no such judge. Known: {', '.join(known)}, or the path of a YAML"
            f" file.{hint}"
        )
    return read_yaml(path, Judge, name=path.stem)


def read_panel(names: list[str]) -> list[Judge]:
    """Load one to five judges, with distinct names and models. Raises UserError."""
    judges = [read_judge(name) for name in names]
    if not 1 <= len(judges) <= 5:
        raise UserError(f"{len(judges)} judges: name one to five by --judge NAME.")
    for what, values in (
        ("name", [judge.name for judge in judges]),
        ("model", [judge.endpoint.model for judge in judges]),
    ):
        for value in values:
            if values.count(value) > 1:
                raise UserError(
                    f"Two judges have the {what} {value}: one voice would count twice. Leave one"
                    " out."
                )
    return judges
