"""Weights in an installed Python package (the embedded model): what `model.id` names, and what is
loaded for it.

Nothing here imports torch: a finished run is told before it.
"""

import importlib.util
from pathlib import Path

from mvp_align.config import Model

GGUF = "gguf:"


def public_name(model: Model) -> str:
    """What an adapter names as its base: `model.id`, or the Hub's original of the packaged copy,
    which others can load."""
    return model.id.partition("@")[2] or model.id if model.id.startswith(GGUF) else model.id


def packaged_gguf(model: Model) -> Path | None:
    """The GGUF file that `model.id` names, found without importing its package; None for every
    other id, and where the package is not installed."""
    if not model.id.startswith(GGUF):
        return None
    package, _, file = model.id.removeprefix(GGUF).partition("@")[0].partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / file
    return path if path.is_file() else None


def loaded(model: Model) -> str:
    """What is really loaded on this machine: `model.id`, or the Hub's original where the packaged
    copy is not installed."""
    return model.id if packaged_gguf(model) else public_name(model)
