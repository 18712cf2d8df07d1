"""`evaluate` with the adapter of a run takes model, data and prompt from that run, unless the
command names them."""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mvp_align.runs.stored_config import read_config

_NAMED_BY = {"model": ("model", "model.id"), "data": ("data",), "prompt": ("prompt",)}
"""Overrides after which a part of the config is the command's own. Others, as `data.limit=50`,
change that one setting of the run's."""


def adopt_run(config_name: str, config: DictConfig, words: Sequence[str]) -> None:
    """Put them into `config`, which `words` composed. Raises UserError where the run's config.yaml
    cannot be read."""
    parts = _parts_not_named(config_name, words)
    run = _run_of(config)
    if run is None or not parts:
        return
    stored = read_config(run)
    kept = {
        key: OmegaConf.select(config, key)
        for key in _keys(words)
        if key.startswith(tuple(f"{part}." for part in parts))
    }
    for part in parts:
        config[part] = OmegaConf.structured(getattr(stored, part))
    for key, value in kept.items():
        OmegaConf.update(config, key, value)


def adoption_line(config_name: str, config: DictConfig, words: Sequence[str]) -> str | None:
    """What is to be said of it, once `adopt_run` has been there."""
    parts = _parts_not_named(config_name, words)
    if config.adapter is None or not parts:
        return None
    taken = ", ".join(f"{part}={config[part].name}" for part in parts)
    if _run_of(config) is None:
        return (
            f"adapter={config.adapter} lies in no run folder, which would say what it was trained"
            f" with. evaluate takes its defaults: {taken}."
        )
    return f"evaluate takes from the run of adapter={config.adapter}: {taken}."


def _parts_not_named(config_name: str, words: Sequence[str]) -> list[str]:
    """An experiment names them all."""
    keys = _keys(words)
    if config_name != "evaluate" or "experiment" in keys:
        return []
    return [part for part, names in _NAMED_BY.items() if not keys & {*names}]


def _keys(words: Sequence[str]) -> set[str]:
    return {word.lstrip("+~").partition("=")[0] for word in words}


def _run_of(config: DictConfig) -> Path | None:
    """The folder of the run that trained the adapter: its config.yaml lies beside it."""
    if config.adapter is None:
        return None
    folder = Path(config.adapter).resolve()
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    return run if (run / "config.yaml").is_file() else None
