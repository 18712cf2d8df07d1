"""Properties of a recipe, read without running it.

Recipes import torch, and command lines are checked before that. A recipe is a file
`recipes/NAME.py` with a function `main(config)` and, at the top level,

    RECIPE = Recipe(trains_on="pairs", reference=True)

`mvp_align.runtime.folders` finds and loads it.
"""

import ast
import difflib
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mvp_align.errors import UserError
from mvp_align.runtime.folders import recipe_files

TRAINS_ON = ("pairs", "chosen", "nothing")


@dataclass(frozen=True, slots=True)
class Recipe:
    """What planning, validation and token counts depend on."""

    trains_on: Literal["pairs", "chosen", "nothing"]
    """Both answers of a pair, only the chosen one, or nothing (an evaluation)."""
    reference: bool = False
    """Whether the loss uses log-probs of a frozen reference."""
    weights: bool = True
    """Whether it loads a model. One that does not asks a server (`model.api`)."""

    def __post_init__(self) -> None:
        if self.trains_on not in TRAINS_ON:
            raise ValueError(f"trains_on is one of {', '.join(TRAINS_ON)}")

    @property
    def trains(self) -> bool:
        return self.trains_on != "nothing"


def recipe_names() -> list[str]:
    """Return the names of recipes that train, in alphabetical order.

    Skips files that cannot be parsed, because a folder called `recipes` may hold anything.
    """
    names = []
    for name, path in recipe_files().items():
        with suppress(UserError):
            if (found := _read(path)) and found.trains:
                names.append(name)
    return sorted(names)


def recipe_problem(name: str) -> str | None:
    """Return what is wrong with `recipe=NAME`, or None.

    Raises UserError if the file exists and cannot be parsed.
    """
    path = recipe_files().get(name)
    found = _read(path) if path else None
    if found and found.trains:
        return None
    known = recipe_names()
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    meant = f" Did you mean '{close[0]}'?" if close else ""
    return f"no such recipe. Known: {', '.join(known)}.{meant}"


def recipe_named(name: str) -> Recipe:
    """Return a recipe's properties. Raises UserError if no file of that name has a RECIPE."""
    path = recipe_files().get(name)
    found = _read(path) if path else None
    if found is None:
        raise UserError(f"recipe={name}: {recipe_problem(name)}")
    return found


@cache
def _read(path: Path) -> Recipe | None:
    try:
        body = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError) as error:
        raise UserError(f"{path} is no Python that can be read: {error}.") from None
    for node in body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "RECIPE":
            words = node.value.keywords if isinstance(node.value, ast.Call) else []
            try:
                return Recipe(**{str(word.arg): ast.literal_eval(word.value) for word in words})
            except (TypeError, ValueError) as error:
                raise UserError(
                    f"{path}, line {node.lineno}: RECIPE must name its fields in plain values, as"
                    f' Recipe(trains_on="pairs", reference=True) does ({error}).'
                ) from None
    return None
