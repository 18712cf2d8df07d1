"""Who judges: `conf/judge/<name>.yaml`, or a file of your own with the same fields."""

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from mvp_align.errors import UserError, listed
from mvp_align.generation.endpoint import VARIABLE, Endpoint
from mvp_align.runtime.naming import CONF_DIR, leaf_keys

JUDGES = CONF_DIR / "judge"
SEMANTIC = "semantic"
"""The judge that is no model behind a server: nearness in meaning, computed here."""


TAKEN = ("temperature", "model", "messages", "response_format", "stream")
"""Parameters that say something else."""


@dataclass
class Judge:
    """A model that judges, as a YAML file describes it."""

    name: str = ""
    """In file names and reports: letters, digits, _ and . only."""
    endpoint: Endpoint = field(default_factory=Endpoint)
    temperature: float | None = 0.0
    """null: not sent, for models that refuse it."""
    max_tokens: int | None = 360
    """Longest reply, reasoning included. null: not sent, so that nothing bounds what a reply
    costs."""
    yes_no_tokens: int | None = 8
    """The same where Yes or No is asked."""
    max_tokens_parameter: str = "max_tokens"
    """What the server calls it: max_completion_tokens for OpenAI's reasoning models."""
    usd_per_million_input: float = 0.0
    usd_per_million_output: float = 0.0
    """Prices change: set your own."""

    def longest(self, ask: str) -> int | None:
        """Tokens that a reply to a question of this kind (scores or yes_no) may take; None where
        nothing bounds them."""
        return self.yes_no_tokens if ask == "yes_no" else self.max_tokens

    def parameters(self, ask: str) -> dict[str, float | int]:
        """What is sent beside the messages."""
        sent = {"temperature": self.temperature, self.max_tokens_parameter: self.longest(ask)}
        return {name: value for name, value in sent.items() if value is not None}

    def problems(self) -> list[str]:
        found = [f"endpoint.{problem}" for problem in self.endpoint.problems()]
        if not re.fullmatch(r"[A-Za-z0-9_.]+", self.name) or self.name == SEMANTIC:
            found.append(
                f"name={self.name}: letters, digits, _ and . make a name, and it is not {SEMANTIC}."
            )
        if self.temperature is not None and not 0 <= self.temperature <= 2:
            found.append(
                f"temperature={self.temperature}: must be from 0 to 2, or null, which leaves it"
                " out."
            )
        for name in ("max_tokens", "yes_no_tokens"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                found.append(f"{name}={value}: must be above 0, or null, which leaves it out.")
        if not VARIABLE.fullmatch(self.max_tokens_parameter) or self.max_tokens_parameter in TAKEN:
            found.append(
                f"max_tokens_parameter={self.max_tokens_parameter}: the name of a parameter belongs"
                " there."
            )
        for name in ("usd_per_million_input", "usd_per_million_output"):
            if not getattr(self, name) >= 0:
                found.append(f"{name}={getattr(self, name)}: must be 0 or above.")
        return found


def read_judge(name: str) -> Judge:
    """The judge of `conf/judge/`, or of the YAML file, that `name` names. Raises UserError with all
    that is wrong."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else JUDGES / f"{name}.yaml"
    if not path.is_file():
        known = [*sorted(file.stem for file in JUDGES.glob("*.yaml")), SEMANTIC]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(
            f"--judge {name}: no such judge. Known: {', '.join(known)}, or the path of a YAML"
            f" file.{hint}"
        )
    shape = OmegaConf.structured(Judge(name=path.stem))
    try:
        judge = OmegaConf.to_object(OmegaConf.merge(shape, OmegaConf.load(path)))
    except ConfigKeyError as error:
        near = difflib.get_close_matches(
            str(error.key), [key.rpartition(".")[2] for key in leaf_keys(shape)], n=1
        )
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{path}: no setting {error.full_key or error.key}.{hint}") from None
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        where = f"{path}, {key}" if (key := getattr(error, "full_key", None)) else str(path)
        raise UserError(
            f"{where}: {str(error).splitlines()[0]}. mvp_align/judging/judges.py has the fields."
        ) from None
    assert isinstance(judge, Judge)
    if found := judge.problems():
        raise listed(found, f"{path} cannot be used:")
    return judge


def read_panel(names: list[str]) -> list[Judge]:
    """One to five judges, each another model under another name. Raises UserError."""
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
