"""torch.compile for a model's repeated layers, one graph for all of them and for any length.

Eager, a decoder layer is dozens of small kernels beside its products, and below a few thousand
tokens a pass the processor hands them out more slowly than a GPU works. Compiled, norms, rotary
positions, activations, residuals and casts become a handful. Layers are compiled one by one, since
they are alike: the first one's graph serves all. Number of tokens and of segments are symbols in
it, so that no batch is compiled again.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from mvp_align.errors import UserError
from mvp_align.modeling.source import cache_root

VARIANTS = 32
"""Graphs of one layer: with and without gradients, adapter, checkpointing, autocast. torch's own
limit is 8, and a run that reached it in its last evaluation would be lost."""


def compile_layers(model: PreTrainedModel) -> None:
    """Compile the repeated layers of `model`, each at its first call.

    Graphs are kept in the cache folder, for later runs. Raises UserError if the model has no
    layers that transformers knows as repeated.
    """
    layers = [one for one in model.modules() if isinstance(one, GradientCheckpointingLayer)]
    if not layers:
        raise UserError(
            f"hardware.compile=true: {type(model).__name__} has no layers that can be compiled one"
            " by one. Leave hardware.compile out."
        )
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_root() / "inductor"))
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)
    for layer in layers:
        layer.compile(dynamic=True, fullgraph=True)


def is_compiled(model: nn.Module) -> bool:
    return any(module._compiled_call_impl is not None for module in model.modules())


def compile_seconds() -> float:
    """Return the seconds that this process has compiled for."""
    from torch._dynamo.utils import calculate_time_spent

    return float(calculate_time_spent().get("total_wall_time", 0.0))


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run compiled layers eagerly inside, for calls that are no passes over packed answers."""
    if not is_compiled(model):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


@contextmanager
def explain_failed_compilation(model: nn.Module) -> Iterator[None]:
    """Turn an error of the compiler into a UserError."""
    if not is_compiled(model):
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        brief = " ".join(str(error).split())[:300]
        raise UserError(
            f"hardware.compile=true: torch cannot compile the layers of {type(model).__name__}"
            f" ({type(error).__name__}: {brief}). Leave hardware.compile out; on a CPU it needs a"
            " C++ compiler (apt install g++), on a GPU triton."
        ) from error
