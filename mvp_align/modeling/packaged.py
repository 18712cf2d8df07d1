"""Models whose weights come in an installed Python package (the embedded model).

Nothing here imports torch, because a finished run is reported before torch is loaded.
"""

import importlib.util
from pathlib import Path

from mvp_align.config import Model

GGUF = "gguf:"


def public_name(model: Model) -> str:
    """Return the name of the base that an adapter records: one that others can load.

    That is `model.id`, or for a packaged copy the original on the Hub.
    """
    return model.id.partition("@")[2] or model.id if model.id.startswith(GGUF) else model.id


def packaged_gguf(model: Model) -> Path | None:
    """Return the GGUF file that `model.id` names, without importing its package.

    Returns None for every other id, and if the package is not installed.
    """
    if not model.id.startswith(GGUF):
        return None
    package, _, file = model.id.removeprefix(GGUF).partition("@")[0].partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return path if path.is_file() else None


def loaded_id(model: Model) -> str:
    """Return what this machine loads: `model.id`, or the Hub's original without the package."""
    return model.id if packaged_gguf(model) else public_name(model)
