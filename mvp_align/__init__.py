"""Align LLaMA-family models with people's stated values, and show for whom it worked.

`__all__` is the public API. Each name is imported when it is first asked for, so that
`import mvp_align` loads neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mvp_align.data.readers import read_pairs
    from mvp_align.errors import UserError
    from mvp_align.metrics.groups import break_down, group_rows, headline_rows
    from mvp_align.schema import PreferencePair
    from mvp_align.training.answer_callback import PAACallback
    from mvp_align.training.callbacks import OODCallback, OPACallback

__version__ = "0.1.0"

__all__ = [
    "OODCallback",
    "OPACallback",
    "PAACallback",
    "PreferencePair",
    "UserError",
    "__version__",
    "break_down",
    "group_rows",
    "headline_rows",
    "read_pairs",
]

_MODULES = {
    "OODCallback": "mvp_align.training.callbacks",
    "OPACallback": "mvp_align.training.callbacks",
    "PAACallback": "mvp_align.training.answer_callback",
    "PreferencePair": "mvp_align.schema",
    "UserError": "mvp_align.errors",
    "break_down": "mvp_align.metrics.groups",
    "group_rows": "mvp_align.metrics.groups",
    "headline_rows": "mvp_align.metrics.groups",
    "read_pairs": "mvp_align.data.readers",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
