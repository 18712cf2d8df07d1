"""Default names of runs: unique, safe as folder names, and determined by the settings alone.

In `config.py`, `run.name` defaults to `DEFAULT_NAME`. `${default_name:train.beta}` appends the
value of a setting.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import is_dataclass
from hashlib import sha256
from pathlib import PurePath

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mvp_align.runtime.folders import find_config

DEFAULT_NAME = "${default_name:}"
LONGEST = 120
"""Maximum length of a name. File systems allow 255, and trackers name files after it."""
LONGEST_PART = 60
PRESETS = {
    "model": ("id", "revision"),
    "prompt": ("template", "chat", "date"),
    "generation.prompt": ("template", "chat", "date"),
}
"""Groups whose `name` describes these settings.

If a command changes one, the name must change, too.
"""
ADDED = ("choices", "choice")
"""Settings of prompts that count only where they differ, so that older runs keep their names."""
SOURCES = ("train", "val", "test")


def name_by_content(config: DictConfig) -> None:
    """Rename a preset's model or prompt if the command changes its content."""
    for group, keys in PRESETS.items():
        node = OmegaConf.select(config, group)
        preset = _read_preset(group.rpartition(".")[2], node.name)
        if preset is None:
            continue
        default = OmegaConf.get_type(node)
        usual = {
            key: preset.get(key, getattr(default, key)) for key in (*keys, *ADDED) if key in node
        }
        changed = [key for key in usual if node.get(key) != usual[key]]
        if changed:
            content = [node.get(key) for key in usual if key in (*keys, *changed)]
            node.name = _tagged(_stem(node.id) if group == "model" else node.name, content)


def _read_preset(group: str, name: str) -> DictConfig | None:
    path = find_config(f"{group}/{name}.yaml")
    if path is None:
        return None
    preset = OmegaConf.load(path)
    assert isinstance(preset, DictConfig)
    return preset


def _default_name(*keys: str, _root_: DictConfig) -> str:
    """Return recipe-model-data-prompt[-from_ADAPTER][-setting_value...]-seed.

    The settings are those in `keys`. The seed comes last, because trackers group runs by the name
    without it.
    """
    parts = [_root_.recipe, _root_.model.name, _data_name(_root_), _root_.prompt.name]
    if _root_.adapter is not None:
        parts.append(f"from_{_adapter_name(_root_.adapter)}")
    parts += [f"{_short_key(key, _root_)}_{_value_of(key, _root_)}" for key in keys]
    name = "-".join([*(_safe(str(part)) for part in parts), str(_root_.seed)])
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 7]}-{_digest(name)}"


OmegaConf.register_new_resolver("default_name", _default_name, replace=True)


def _data_name(config: DictConfig) -> str:
    """Return the preset's name.

    If a command names its own files, return the first file's and a hash.
    """
    data = config.data
    sources = [_normal(data.get(source)) for source in SOURCES]
    preset = _read_preset("data", data.name)
    if (
        preset is None
        or not any(sources)
        or sources == [_normal(preset.get(source)) for source in SOURCES]
    ):
        return str(data.name)
    name = _stem(sources[0] or sources[2] or sources[1]) if data.name == "files" else data.name
    return _tagged(name, sources)


def _adapter_name(adapter: str) -> str:
    """Name an adapter by the run that trained it, with a hash unless it is in outputs/.

    So two adapters never share a name.
    """
    path = PurePath(_normal(adapter))
    run = path.parent.name if path.name == "adapter" else path.name
    return run if path == PurePath("outputs", run, "adapter") else _tagged(run, str(path))


def _normal(source: str | None) -> str:
    """Normalise paths, so that `a.json` and `./a.json` are equal."""
    if source is None or source.startswith(("hf:", "sample:")):
        return source or ""
    return os.path.normpath(source)


def _short_key(key: str, config: DictConfig) -> str:
    """Return `beta` for train.beta, but `train.batch_size`, because evals has a batch_size, too."""
    if "@" in key:  # like prompt@generation.prompt
        return key.partition("@")[2]
    last = key.rpartition(".")[2]
    return key if Counter(name.rpartition(".")[2] for name in leaf_keys(config))[last] > 1 else last


def _value_of(key: str, config: DictConfig) -> str:
    """Return a setting's value, or a group's option."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    value = choices[key] if key in choices else OmegaConf.select(config, key)
    return "+".join(map(str, value)) if OmegaConf.is_list(value) else str(value)


def leaf_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield the key of every setting with a value, such as `train.beta` and `lora.rank_pattern`."""
    for key in map(str, config):
        node = config._get_node(key)
        # a mapping that is no dataclass is a value
        if isinstance(node, DictConfig) and is_dataclass(OmegaConf.get_type(node)):
            yield from leaf_keys(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _stem(path: str) -> str:
    """Return the last part of a path or id, without the extension of a data file."""
    return re.sub(r"\.(jsonl?|csv|tsv|parquet)(\.gz)?$", "", path.rstrip("/").rpartition("/")[2])


def _tagged(name: str, content: object) -> str:
    return f"{_safe(name)}-{_digest(content)}"


def _safe(text: str) -> str:
    """Replace all but letters, digits and `._+-`, and shorten; add a hash if anything was lost."""
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._-") or "_"
    return text if kept == text and len(text) <= LONGEST_PART else f"{kept[:40]}-{_digest(text)}"


def _digest(content: object) -> str:
    return sha256(repr(content).encode()).hexdigest()[:6]
