"""Everything that log-probabilities, and a reproducible run, depend on."""

from pathlib import Path

import torch
import transformers
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel

from mvp_align import __version__
from mvp_align.modeling.base import LOADED, quantization_of
from mvp_align.modeling.compiled import is_compiled
from mvp_align.modeling.fingerprint import adapter_fingerprint, fingerprint
from mvp_align.modeling.source import cache_root
from mvp_align.scoring.cache import LogpCache, open_cache
from mvp_align.scoring.methods import method_name


def logps_folder() -> Path:
    return cache_root() / "logps"


def logp_cache(model: nn.Module, folder: Path, adapter: str | None = None) -> LogpCache:
    """Open the log-probs in `folder` that belong to this base model, or to its `adapter`.

    Raises UserError if `folder` is not writable.
    """
    return open_cache(folder, identity(model, adapter))


def identity(model: nn.Module, adapter: str | None = None) -> dict[str, str]:
    """Return what log-probs of the base, or of its `adapter`, depend on besides the tokens."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(inner, PreTrainedModel)
    return {
        "model": str(getattr(inner, LOADED, inner.name_or_path)),
        "weights": fingerprint(model),
        "adapter": adapter_fingerprint(model, adapter) if adapter else "none",
        "dtype": str(inner.dtype).removeprefix("torch."),
        "quantization": quantization_of(inner),
        "attention": method_name(inner),
        "device": inner.device.type,
        "kernels": f"torch {torch.__version__}" + ", layers compiled" * is_compiled(inner),
        "code": f"mvp-align {__version__}, transformers {transformers.__version__}",
    }
