"""YAML files of the user's own, checked against a shape (a pydantic model or dataclass): all that
is wrong in one message, each with its place."""

import difflib
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from mvp_align.errors import UserError, combined_error

T = TypeVar("T")


def read_yaml(path: Path, shape: type[T], **defaults: object) -> T:
    """The settings in `path`, `${oc.env:NAME}` filled in, over `defaults`. Raises UserError with
    all that is wrong."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: `setting: value` lines belong there, and it holds none.")
    return validate_settings(
        shape, defaults | {str(key): value for key, value in content.items()}, str(path)
    )


def validate_settings(shape: type[T], values: dict[str, Any], what: str) -> T:
    """`values` as a `shape`. Raises UserError saying why `what` cannot be used."""
    adapter = TypeAdapter(shape)
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        known = _names(adapter.json_schema())
        problems = [_problem(one, known) for one in error.errors(include_url=False)]
        raise combined_error(problems, f"{what} cannot be used:") from None


def _names(schema: dict[str, Any]) -> list[str]:
    parts = [schema, *schema.get("$defs", {}).values()]
    return [name for part in parts for name in part.get("properties", ())]


def _problem(error: ErrorDetails, known: list[str]) -> str:
    """A value is shown where it is a number alone: a text may be a key that stands in the wrong
    place."""
    place, value = ".".join(map(str, error["loc"])), error["input"]
    if error["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        close = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
        return f"no setting {place}." + (f" Did you mean {close[0]}?" if close else "")
    shown = f"={value}" if isinstance(value, int | float) else ""
    return f"{place}{shown}: {error['msg'].rstrip('.')}."
