"""Let `evaluate` take model, data and prompt from the run of its adapter.

Whatever the command names itself is not taken.
"""

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from mvp_align.runs.stored_config import read_config

_NAMED_BY = {"model": ("model", "model.id"), "data": ("data",), "prompt": ("prompt",)}
"""Overrides that replace a whole part of the config. Any other, such as `data.limit=50`, changes
one setting of what the run has."""


def adopt_run(config_name: str, config: DictConfig, words: Sequence[str]) -> None:
    """Replace the parts of `config` that `words` do not name by those of the adapter's run.

    Raises UserError if the run's config.yaml cannot be read.
    """
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
    """Return a line on what `adopt_run` took and from where, or None if it took nothing."""
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
    """Return the parts that the command leaves to the run. An experiment names all of them."""
    keys = _keys(words)
    if config_name != "evaluate" or "experiment" in keys:
        return []
    return [part for part, names in _NAMED_BY.items() if not keys & {*names}]


def _keys(words: Sequence[str]) -> set[str]:
    return {word.lstrip("+~").partition("=")[0] for word in words}


def _run_of(config: DictConfig) -> Path | None:
    """Return the folder of the run that trained the adapter, found by the config.yaml beside it."""
    if config.adapter is None:
        return None
    folder = Path(config.adapter).resolve()
    run = folder.parent.parent if folder.parent.name == "checkpoints" else folder.parent
    return run if (run / "config.yaml").is_file() else None
