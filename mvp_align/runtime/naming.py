"""Default names of runs: they tell apart what differs, are safe as names of folders, and follow
from the settings alone.

`config.py` gives `run.name` the default `DEFAULT_NAME`; `${default_name:train.beta}` adds the value
of a setting to it.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import PurePath

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from mvp_align.runtime.folders import find_config

DEFAULT_NAME = "${default_name:}"
LONGEST = 120
"""Characters of a name. File systems take 255, and trackers name files after it."""
LONGEST_PART = 60
PRESETS = {
    "model": ("id", "revision"),
    "prompt": ("template", "chat", "date"),
    "generation.prompt": ("template", "chat", "date"),
}
"""Groups whose `name` says what these settings beside it are: a command that changes one of them
must not go on under the preset's name."""
SOURCES = ("train", "val", "test")


def name_by_content(config: DictConfig) -> None:
    """Where a command changes a preset's model or prompt, give it a name of its own in place of the
    preset's."""
    for group, keys in PRESETS.items():
        node = OmegaConf.select(config, group)
        preset = _read_preset(group.rpartition(".")[2], node.name)
        content = [node.get(key) for key in keys]
        default = OmegaConf.get_type(node)
        if preset is not None and content != [
            preset.get(key, getattr(default, key)) for key in keys
        ]:
            node.name = _tagged(_stem(node.id) if group == "model" else node.name, content)


def _read_preset(group: str, name: str) -> DictConfig | None:
    path = find_config(f"{group}/{name}.yaml")
    if path is None:
        return None
    preset = OmegaConf.load(path)
    assert isinstance(preset, DictConfig)
    return preset


def _default_name(*keys: str, _root_: DictConfig) -> str:
    """recipe-model-data-prompt[-from_ADAPTER][-setting_value...]-seed, with the values of `keys`.

    The seed comes last: trackers group runs by the name without it.
    """
    parts = [_root_.recipe, _root_.model.name, _data_name(_root_), _root_.prompt.name]
    if _root_.adapter is not None:
        parts.append(f"from_{_adapter_name(_root_.adapter)}")
    parts += [f"{_short_key(key, _root_)}_{_value_of(key, _root_)}" for key in keys]
    name = "-".join([*(_safe(str(part)) for part in parts), str(_root_.seed)])
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 7]}-{_digest(name)}"


OmegaConf.register_new_resolver("default_name", _default_name, replace=True)


def _data_name(config: DictConfig) -> str:
    """The preset's, or the first file's and a hash over all where a command names its own files."""
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
    """The run's that trained it, with a hash unless it lies in outputs/: two adapters never have
    one name."""
    path = PurePath(_normal(adapter))
    run = path.parent.name if path.name == "adapter" else path.name
    return run if path == PurePath("outputs", run, "adapter") else _tagged(run, str(path))


def _normal(source: str | None) -> str:
    """One spelling for `a.json` and `./a.json`."""
    if source is None or source.startswith(("hf:", "sample:")):
        return source or ""
    return os.path.normpath(source)


def _short_key(key: str, config: DictConfig) -> str:
    """`beta` for train.beta, but `train.batch_size`, because evals has one as well."""
    if "@" in key:  # prompt@generation.prompt
        return key.partition("@")[2]
    last = key.rpartition(".")[2]
    return key if Counter(name.rpartition(".")[2] for name in leaf_keys(config))[last] > 1 else last


def _value_of(key: str, config: DictConfig) -> str:
    """A setting's value, or the option of a group."""
    choices = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    value = choices[key] if key in choices else OmegaConf.select(config, key)
    return "+".join(map(str, value)) if OmegaConf.is_list(value) else str(value)


def leaf_keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """`train.beta` and so on, of every setting that holds a value."""
    for key in map(str, config):
        node = config._get_node(key)
        if isinstance(node, DictConfig):
            yield from leaf_keys(node, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _stem(path: str) -> str:
    """The last part of a path or id, without the extension of a data file."""
    return re.sub(r"\.(jsonl?|csv|tsv|parquet)(\.gz)?$", "", path.rstrip("/").rpartition("/")[2])


def _tagged(name: str, content: object) -> str:
    return f"{_safe(name)}-{_digest(content)}"


def _safe(text: str) -> str:
    """Letters, digits and `._+-` alone, and no more than a reader takes in; a hash tells apart what
    is lost."""
    kept = re.sub(r"[^A-Za-z0-9._+-]+", "_", text).strip("._-") or "_"
    return text if kept == text and len(text) <= LONGEST_PART else f"{kept[:40]}-{_digest(text)}"


def _digest(content: object) -> str:
    return sha256(repr(content).encode()).hexdigest()[:6]
