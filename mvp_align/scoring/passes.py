"""Forward passes over rows of answers by one of three methods, and the head that makes logits.

A packed or padded pass runs only the layers, and runs the vocabulary head on answer tokens alone.
That is correct for models whose logits are the head's output, scaled or soft-capped in the ways TRL
knows, and for which padding changes nothing. Any other model runs its own `forward`, one row at a
time. `mvp_align.scoring.methods` finds out which method is correct.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from mvp_align.errors import UserError
from mvp_align.modeling.compiled import explain_failed_compilation, uncompiled
from mvp_align.scoring.packing import (
    Batch,
    PackedSequence,
    one_answer_per_row,
    pack,
    pad,
)

Head = Callable[[Tensor], Tensor]
"""Maps hidden states [n, hidden] to logits [n, vocabulary]."""


class Method(StrEnum):
    PACKED = "packed"
    """All rows as one, without padding; prompts are shared."""
    PADDED = "padded"
    """One row per answer, padded on the right."""
    OWN = "own"
    """The model's own forward and logits, one row per answer, one at a time."""


@dataclass(frozen=True, slots=True)
class Routing:
    """How each layer of a mixture of experts routed the tokens of a pass."""

    logits: tuple[Tensor, ...]
    """One tensor [tokens, experts] per layer."""
    copies: Tensor
    """[tokens]: how many rows would contain the token with one row per answer; 0 for padding."""


@dataclass(frozen=True, slots=True)
class States:
    """What predicts the answers' n tokens, ordered by answer."""

    hidden: Tensor
    """[n, hidden], for `head_of`. With OWN, logits [n, vocabulary]."""
    targets: Tensor
    owners: Tensor
    routing: Routing | None


@dataclass(frozen=True, slots=True)
class ChangedHead:
    """A head with scaled and soft-capped logits: cap tanh(scale head(h) / cap), in fp32."""

    head: nn.Module
    scale: float
    cap: float | None

    def __call__(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.head(hidden).float() * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def run_rows(
    causal: PreTrainedModel,
    rows: Sequence[PackedSequence],
    method: Method,
    *,
    routing: bool = False,
) -> States:
    """Run `rows` by `method`. Rows hold one answer each, except packed ones.

    Gradients flow if enabled. Raises UserError for texts whose scores would depend on the texts
    before them.
    """
    weight = causal.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    device = weight.device
    if method is Method.OWN or needs_own_pass(causal.config, rows):
        parts = [
            run_batch(causal, pad([row]).to(device), method, routing=routing)
            for row in one_answer_per_row(rows)
        ]
        return parts[0] if len(parts) == 1 else _joined(parts)
    batch = pack(rows) if method is Method.PACKED else pad(rows)
    return run_batch(causal, batch.to(device), method, routing=routing)


def run_batch(
    causal: PreTrainedModel, batch: Batch, method: Method, *, routing: bool = False
) -> States:
    """Run one pass over a batch on the model's device. Gradients flow if enabled."""
    options: dict[str, Any] = {"output_router_logits": True} if routing else {}
    if method is Method.OWN:
        with uncompiled(causal):  # a row at a time, which the compiled graph is not for
            output = _own_forward(causal, batch.ids, **options)
        states = output.logits
    else:
        with explain_failed_compilation(causal):
            output = _backbone(causal)(
                input_ids=batch.ids,
                position_ids=batch.positions,
                attention_mask=batch.mask,
                use_cache=False,
                # other models do not accept this argument
                **({"layout": batch.layout} if batch.layout else {}),
                **options,
            )
        states = output.last_hidden_state
    routed = Routing(output.router_logits, batch.copies) if routing else None
    return States(states[batch.row_at, batch.position_at], batch.targets, batch.owners, routed)


def _own_forward(causal: PreTrainedModel, ids: Tensor, **options: Any) -> Any:
    """Run the class's own forward on unpadded `ids`.

    The instance's `forward` may be patched by TRL, by us, or by the wrapper of a sharded model.
    """
    forward = type(causal).forward
    if "use_cache" in signature(forward).parameters:
        options["use_cache"] = False
    return forward(causal, input_ids=ids, **options)


def _joined(parts: Sequence[States]) -> States:
    routings = [part.routing for part in parts if part.routing]
    layers = zip(*(routing.logits for routing in routings), strict=True)
    routed = (
        Routing(tuple(map(torch.cat, layers)), torch.cat([r.copies for r in routings]))
        if routings
        else None
    )
    hidden, targets, owners = (
        torch.cat([getattr(part, name) for part in parts])
        for name in ("hidden", "targets", "owners")
    )
    return States(hidden, targets, owners, routed)


def _backbone(causal: PreTrainedModel) -> nn.Module:
    """Return the layers below the head.

    Llama 4's base-model prefix does not exist in its text model, which therefore returns itself as
    its own base.
    """
    base = causal.base_model
    return getattr(causal, "model", base) if base is causal else base


def head_of(causal: PreTrainedModel, method: Method) -> Head:
    """Return the module that turns the states of `run_rows` into logits."""
    if method is Method.OWN:
        return nn.Identity()
    head = causal.get_output_embeddings()
    scale, cap = _logit_changes(causal.config.get_text_config())
    return head if (scale, cap) == (1.0, None) else ChangedHead(head, scale, cap)


def _logit_changes(config: PreTrainedConfig) -> tuple[float, float | None]:
    """Return scale and soft cap of the logits, by the keys that TRL reads.

    See `trl.trainer.utils.add_fused_lm_head`: the factors of Cohere, Falcon-H1 and HyperCLOVA X,
    Granite's divisor, and Gemma-2's cap.
    """
    for key in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, key, None)
        if scale is not None:
            break
    else:
        scale = getattr(config, "logits_scaling", None) or 1.0
        if config.model_type != "hyperclovax":
            scale = 1 / scale
    return float(scale), getattr(config, "final_logit_softcapping", None)


def needs_own_pass(config: PreTrainedConfig, rows: Sequence[PackedSequence]) -> bool:
    """Return whether a row is so long that it would change the positions of the others in its pass.

    LongRoPE uses one of two sets of frequencies for the whole pass, depending on its last position.
    """
    length = max(map(_longest, rows))
    limits = dict(rotary_limits(config.get_text_config()))
    if length > limits.get("dynamic", math.inf):
        raise UserError(
            f"a text of {length} tokens is over the {limits['dynamic']} from which on this model's"
            f" rotary positions depend on the texts before: set data.max_tokens={limits['dynamic']}"
            " or less."
        )
    return length > limits.get("longrope", math.inf)


def rotary_limits(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """Yield the kinds of rotary positions that depend on a pass's length, with the safe length."""
    rope = getattr(config, "rope_parameters", None) or {}
    for part in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        if part.get("rope_type") == "longrope":
            yield (
                "longrope",
                part.get("original_max_position_embeddings") or config.max_position_embeddings,
            )
        elif part.get("rope_type") == "dynamic":
            yield "dynamic", config.max_position_embeddings


def _longest(row: PackedSequence) -> int:
    """Return the length in tokens of the longest answer plus everything that it sees."""
    return max(
        len(row.prefix) + len(branch.context) + len(ids)
        for branch in row.branches
        for _, ids in branch.answers
    )


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set `train` or `eval` mode, and restore each module's mode afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
