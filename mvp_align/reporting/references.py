"""Published figures for runs that can be compared with them, kept apart from measured ones."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align.data.sets import UFP4, UFP4_SAMPLE
from mvp_align.errors import UserError
from mvp_align.metrics.published import published, published_opa, published_paa
from mvp_align.metrics.rows import Row


def published_lines(
    config: Any, environment: Mapping[str, Any], set_name: str, rows: Iterable[Row] = ()
) -> list[str]:
    """Return lines like `published (source), not measured here: ...`.

    They cover OPA and, if `rows` contain PAA by the authors' rules, PAA. Empty if the run's data,
    model or prompt differ. A converted model stands for the one that it was made from. `config` and
    `environment` are those in a run's folder, unchecked.
    """
    if not isinstance(config, DictConfig):
        return []
    keys = ("data.name", "model.id", "prompt.name")
    data, model, prompt = (str(OmegaConf.select(config, key)) for key in keys)
    model = converted_from(environment).partition(" at ")[0] or model
    lines = []
    if opa := published_opa(data, model, prompt, name_now(set_name, config)):
        lines.append(f"OPA (mean of acc@d), base -> tuned (± over the authors' seeds): {opa}")
    if any(row.metric.startswith("paa/dvb_") for row in rows) and (
        paa := published_paa(data, model)
    ):
        lines.append(f"PAA by three judges, on the whole benchmark: {paa}")
    return [f"published ({published().source}), not measured here: {line}" for line in lines]


def name_now(set_name: str, config: Any) -> str:
    """What the set of a run is called by now: where nobody gave UF-P-4's files, 0.1.0 scored the
    bundled stand-in by its name."""
    given = isinstance(config, DictConfig) and OmegaConf.select(config, "evals.ufp4") is not None
    return UFP4_SAMPLE if set_name == UFP4 and not given else set_name


def converted_from(environment: Mapping[str, Any]) -> str:
    """Return the repository and commit that a run's base was converted from, or ""."""
    record = environment.get("converted")
    if not isinstance(record, dict) or not record.get("repo"):
        return ""
    return f"{record['repo']} at {record.get('revision')}"


def config_of(run: Path) -> Any:
    """Return the unchecked config in a run's folder, or None if it cannot be read."""
    try:
        return readable_config(run)
    except UserError:
        return None


def readable_config(run: Path) -> DictConfig:
    """Return the unchecked config in a run's folder, every `${...}` resolved.

    Raises UserError with the reason if it cannot be read.
    """
    path = run / "config.yaml"
    try:
        config = OmegaConf.load(path)
        OmegaConf.resolve(config)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: byte {error.start} is not UTF-8.") from None
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        first = str(error).partition("\n")[0]
        raise UserError(f"{path} cannot be read: {first}.") from None
    if not isinstance(config, DictConfig):
        raise UserError(f"{path} cannot be read: settings belong there, not a list.")
    return config
