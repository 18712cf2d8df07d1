"""Chat models from `conf/<group>/<name>.yaml`, or from a user's file with the same fields."""

import difflib
import re
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from mvp_align.errors import UserError
from mvp_align.generation.endpoint import VARIABLE, Endpoint
from mvp_align.runtime.folders import config_options, find_config
from mvp_align.runtime.yaml_files import read_yaml

TAKEN = ("temperature", "model", "messages", "response_format", "stream")
"""Parameter names that have another meaning in a request."""


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.]+", text):
        raise PydanticCustomError("name", "letters, digits, _ and . make a name")
    return text


def _parameter(text: str) -> str:
    if not VARIABLE.fullmatch(text) or text in TAKEN:
        raise PydanticCustomError("parameter", "the name of a parameter belongs there")
    return text


ModelName = Annotated[str, AfterValidator(_name)]


@dataclass(config=ConfigDict(extra="forbid"))
class ChatModel:
    """A model behind an endpoint, what is sent to it, and what it costs."""

    name: ModelName
    """Letters, digits, _ and . only."""
    endpoint: Endpoint
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.0
    """null does not send it, for models that reject it."""
    max_tokens: PositiveInt | None = 360
    """Longest reply, including reasoning.

    null does not send it, so the cost of a reply has no limit.
    """
    max_tokens_parameter: Annotated[str, AfterValidator(_parameter)] = "max_tokens"
    """The server's name for the limit: max_completion_tokens for OpenAI's reasoning models."""
    usd_per_million_input: NonNegativeFloat = 0.0
    usd_per_million_output: NonNegativeFloat = 0.0
    """Prices change: set your own."""

    def parameters_up_to(self, longest: int | None) -> dict[str, float | int]:
        """Return the parameters to send for a reply of at most `longest` tokens."""
        sent = {"temperature": self.temperature, self.max_tokens_parameter: longest}
        return {name: value for name, value in sent.items() if value is not None}


Model = TypeVar("Model", bound=ChatModel)


def read_chat_model(
    group: str, name: str, shape: type[Model], also_known: tuple[str, ...] = ()
) -> Model:
    """Load `name` from `conf/<group>/` or from a YAML file, as `--<group> NAME` asks.

    Raises UserError listing all problems.
    """
    own_file = name.endswith((".yaml", ".yml"))
    path = Path(name) if own_file else find_config(f"{group}/{name}.yaml")
    if path is None or not path.is_file():
        known = [*config_options(group), *also_known]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--{group} {name}: no such {group}. Known: {', '.join(known)}, or the path of a YAML"
            f" file.{hint}"
        )
    return read_yaml(path, shape, name=path.stem)
