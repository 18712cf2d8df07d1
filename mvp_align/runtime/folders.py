"""Find presets and recipes: first in `./conf` and `./recipes`, then in the package. Find the
user's own metrics in `./metrics`.

A clone keeps the package's own at its top level; a wheel carries copies inside `mvp_align`.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

from mvp_align.errors import UserError

_PACKAGE = Path(__file__).parents[1]
_PACKAGED = _PACKAGE if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent

CONF_DIR = _PACKAGED / "conf"
"""The package's own configuration."""


def own_folder(name: str) -> Path | None:
    """Return `./conf`, `./recipes` or `./metrics`, or None if it does not exist or is the
    package's own."""
    own = Path.cwd() / name
    return own if own.is_dir() and own.resolve() != (_PACKAGED / name).resolve() else None


def find_config(relative: str) -> Path | None:
    """Return the file that Hydra would load for `model/llama2_7b.yaml`, or None."""
    paths = (folder / relative for folder in _folders("conf"))
    # pathlib's is_file raises where a name is too long for a file
    return next((path for path in paths if os.path.isfile(path)), None)  # noqa: PTH113


def config_groups() -> list[str]:
    return sorted(
        {path.name for folder in _folders("conf") for path in folder.iterdir() if path.is_dir()}
    )


def config_options(group: str) -> list[str]:
    """Return the valid names for `group=NAME`."""
    return sorted(
        {path.stem for folder in _folders("conf") for path in (folder / group).glob("*.yaml")}
    )


def recipe_files() -> dict[str, Path]:
    """`{"lora_dpo": Path(".../recipes/lora_dpo.py"), ...}`."""
    return {
        path.stem: path
        for folder in reversed([*_folders("recipes")])
        for path in sorted(folder.glob("*.py"))
        if not path.name.startswith("_")
    }


def load_recipe(name: str) -> ModuleType:
    """Load `recipes/NAME.py` by its path, since a wheel has it where no import finds it.

    Raises UserError for an unknown name.
    """
    files = recipe_files()
    if name not in files:
        raise UserError(f"recipes/{name}.py: no such file. There are: {', '.join(sorted(files))}.")
    return load_file(files[name], f"recipes.{name}")


def own_metric_files() -> list[Path]:
    """List the files in `./metrics` that import from `mvp_align.metrics`.

    Others are left alone: a folder called `metrics` may hold anything.
    """
    own = own_folder("metrics")
    return [
        path
        for path in sorted(own.glob("*.py") if own else ())
        if "mvp_align.metrics" in path.read_text(encoding="utf-8", errors="replace")
    ]


def load_file(path: Path, module_name: str) -> ModuleType:
    """Run a Python file as the module of that name, once. Raises whatever the file raises."""
    known = sys.modules.get(module_name)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # so that what it defines can be pickled
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module


def replaced_files() -> list[str]:
    """List the package's files, such as `conf/model/llama2_7b.yaml`, that files of the current
    directory override."""
    return [
        f"{name}/{path.relative_to(own)}"
        for name, pattern in (("conf", "*.yaml"), ("recipes", "*.py"))
        if (own := own_folder(name))
        for path in sorted(own.rglob(pattern))
        if (_PACKAGED / name / path.relative_to(own)).is_file() and not path.name.startswith("_")
    ]


def _folders(name: str) -> Iterator[Path]:
    if own := own_folder(name):
        yield own
    yield _PACKAGED / name


@cache
def packaged_settings(group: str, name: str) -> dict[str, Any]:
    """`conf/<group>/<name>.yaml` as it stands. Raises OSError if there is no such file."""
    text = (CONF_DIR / group / f"{name}.yaml").read_text("utf-8")
    settings: dict[str, Any] = yaml.safe_load(text)
    return settings
