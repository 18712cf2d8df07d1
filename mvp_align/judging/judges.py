"""Judges from `conf/judge/<name>.yaml`, or from a user's file with the same fields."""

from typing import Annotated

from pydantic import AfterValidator, ConfigDict, PositiveInt
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from mvp_align.errors import UserError
from mvp_align.generation.chat_model import ChatModel, ModelName, read_chat_model

SEMANTIC = "semantic"
"""The judge without a server: MiniLM similarity, computed here."""


def _not_semantic(name: str) -> str:
    if name == SEMANTIC:
        raise PydanticCustomError("name", f"{SEMANTIC} is the judge without a server")
    return name


@dataclass(config=ConfigDict(extra="forbid"))
class Judge(ChatModel):
    """A judge model, as described by a YAML file. Its name is part of file names and reports."""

    name: Annotated[ModelName, AfterValidator(_not_semantic)]
    yes_no_tokens: PositiveInt | None = 8
    """Longest reply to a yes/no question."""

    def longest(self, ask: str) -> int | None:
        """Return the token limit for replies to `ask` (scores or yes_no), or None."""
        return self.yes_no_tokens if ask == "yes_no" else self.max_tokens

    def parameters(self, ask: str) -> dict[str, float | int]:
        """Return the parameters to send with the messages."""
        return self.parameters_up_to(self.longest(ask))


def read_judge(name: str) -> Judge:
    """Load the judge `name` from `conf/judge/` or from a YAML file.

    Raises UserError listing all problems.
    """
    return read_chat_model("judge", name, Judge, also_known=(SEMANTIC,))


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
