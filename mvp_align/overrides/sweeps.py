"""Sweeps (`-m`): the command lines that a sweep stands for, and a folder for each run."""

from collections import defaultdict
from collections.abc import Iterator
from copy import deepcopy
from itertools import product

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf, open_dict

from mvp_align.config import Config
from mvp_align.overrides.adapter_run import adopt_run
from mvp_align.runtime.naming import DEFAULT_NAME, leaf_keys, name_by_content


def parse_overrides(words: list[str]) -> list[Override]:
    """Parse overrides. Raises HydraException if a word is not an override."""
    # this parser knows the options of glob(*)
    parser = OverridesParser.create(GlobalHydra.instance().config_loader())
    overrides: list[Override] = parser.parse_overrides(words)
    return overrides


def sweep_points(words: list[str]) -> list[list[str]]:
    """Return command lines that together try every value of every sweep.

    The first one uses all first values, and each other one replaces a single value. Raises
    HydraException if a word is not an override or a sweep has no value.
    """
    swept = [
        _sweep_values(override) if override.is_sweep_override() else [word]
        for word, override in zip(words, parse_overrides(words), strict=True)
    ]
    firsts = [values[0] for values in swept]
    others = [
        [*firsts[:i], other, *firsts[i + 1 :]]
        for i, values in enumerate(swept)
        for other in values[1:]
    ]
    return [firsts, *others]


def _sweep_values(override: Override) -> list[str]:
    """Split `seed=12,13` into `seed=12` and `seed=13`."""
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    if not values:
        raise ConfigCompositionException(f"{override.input_line} has no value to try.")
    return values


def compose(config_name: str, words: list[str]) -> DictConfig:
    """Compose one run's config, unresolved. Hydra's own part goes to HydraConfig instead."""
    composed = hydra.compose(config_name, words, return_hydra_config=True)
    HydraConfig.instance().set_config(composed)
    with open_dict(composed):
        del composed["hydra"]
    adopt_run(config_name, composed, words)
    name_by_content(composed)
    return composed


def name_override(words: list[str], configs: list[DictConfig]) -> list[str]:
    """Return a `run.name=...` override that adds missing swept values to the default name, or [].

    [] if the name already distinguishes all runs, or if the command or an experiment sets it.
    `configs` are those of `sweep_points`.
    """
    overrides = parse_overrides(words)
    given = {override.key_or_group for override in overrides} & {"run.name", "run.dir"}
    if given or any(config.run._get_node("name")._value() != DEFAULT_NAME for config in configs):
        return []
    first, *others = [config.run.name for config in configs]
    keys = []
    for override in overrides:
        if override.is_sweep_override():
            count = len(_sweep_values(override)) - 1
            names, others = [first, *others[:count]], others[count:]
            if len({*names}) < len(names):
                keys.append(override.get_key_element().lstrip("+"))
    return [f"run.name=${{default_name:{','.join(keys)}}}"] if keys else []


def shared_folders(config_name: str, words: list[str]) -> list[str]:
    """Describe runs of a sweep that would share a folder."""
    runs: dict[str, list[str]] = defaultdict(list)
    for values, folder in _run_folders(config_name, words):
        runs[folder].append(" ".join(values))
    known = {*leaf_keys(OmegaConf.structured(Config))}
    keys = [
        override.key_or_group for override in parse_overrides(words) if override.is_sweep_override()
    ]
    name = "-".join(["mine", *(f"${{{key}}}" for key in keys if key in known)])
    return [
        f"{len(points)} runs of this sweep would share {folder}, such as {points[0]} and"
        f" {points[1]}: let run.name tell them apart, as run.name='{name}'."
        for folder, points in runs.items()
        if len(points) > 1
    ]


def _run_folders(config_name: str, words: list[str]) -> Iterator[tuple[list[str], str]]:
    """Yield the values of each run of a sweep, and its folder.

    Groups are composed by Hydra. Settings are set in the composed config, which is twenty times
    faster.
    """
    overrides = parse_overrides(words)
    constant = [
        word
        for word, override in zip(words, overrides, strict=True)
        if not override.is_sweep_override()
    ]
    swept = [override for override in overrides if override.is_sweep_override()]
    known = {*leaf_keys(OmegaConf.structured(Config))}
    settings = [_sweep_values(override) for override in swept if override.key_or_group in known]
    groups = [_sweep_values(override) for override in swept if override.key_or_group not in known]
    for options in product(*groups):
        composed = hydra.compose(config_name, [*constant, *options], return_hydra_config=True)
        HydraConfig.instance().set_config(composed)
        for values in product(*settings):
            config = deepcopy(composed)
            for value in parse_overrides([*values]):
                OmegaConf.update(config, value.key_or_group, value.value(), merge=False)
            adopt_run(config_name, config, words)
            name_by_content(config)
            yield [*options, *values], str(config.run.dir)
