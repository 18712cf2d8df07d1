"""A forward pass over rows of answers, along one of three methods, and the head that makes logits
of what it returns.

A packed or padded pass runs the layers alone and leaves the vocabulary head to answer tokens. That
is right for models whose logits are the head's, scaled or soft-capped as TRL knows it, and whose
padding changes nothing. Any other model is run as its own `forward` has it, a row at a time.
`mvp_align.scoring.methods` finds out which.
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
from mvp_align.scoring.packing import Batch, PackedSequence, apart, copies, pack, pad

Head = Callable[[Tensor], Tensor]
"""From hidden states [n, hidden] to logits [n, vocabulary]."""


class Method(StrEnum):
    PACKED = "packed"
    """All rows as one, without padding; prompts are shared."""
    PADDED = "padded"
    """A row an answer, padded to the right."""
    OWN = "own"
    """The model's own forward and logits, a row an answer, one at a time."""


@dataclass(frozen=True, slots=True)
class Routing:
    """Of a mixture of experts: how each layer routed the pass's tokens."""

    logits: tuple[Tensor, ...]
    """A layer each: [tokens, experts]."""
    copies: Tensor
    """[tokens]: in how many rows a token would be, were each answer a row of its own; of padding,
    0."""


@dataclass(frozen=True, slots=True)
class States:
    """What predicts the answers' n tokens, ordered by their answers."""

    hidden: Tensor
    """[n, hidden], for `head_of`; of the method OWN, logits [n, vocabulary]."""
    targets: Tensor
    owners: Tensor
    routing: Routing | None


@dataclass(frozen=True, slots=True)
class ChangedHead:
    """Logits that are scaled and soft-capped after the head: cap tanh(scale head(h) / cap), in
    fp32."""

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
    """`rows` of one answer each, but for packed ones. Gradients flow where they are enabled. Raises
    UserError for texts whose scores would depend on what ran before them."""
    weight = causal.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    device = weight.device
    if method is Method.OWN or _needs_own_pass(causal.config, rows):
        parts = [_run(causal, pad([row], device), None, method, routing) for row in apart(rows)]
        return parts[0] if len(parts) == 1 else _joined(parts)
    if method is Method.PADDED:
        return _run(causal, pad(rows, device), None, method, routing)
    return _run(causal, pack(rows, device), copies(rows) if routing else None, method, routing)


def _run(
    causal: PreTrainedModel, batch: Batch, held: Sequence[int] | None, method: Method, routing: bool
) -> States:
    """One pass. `held` are a packed batch's copies of each token."""
    options: dict[str, Any] = {"output_router_logits": True} if routing else {}
    if method is Method.OWN:
        output = _own_forward(causal, batch.ids, **options)
        states = output.logits
    else:
        output = _backbone(causal)(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=batch.mask,
            use_cache=False,
            # other models take no such argument
            **({"layout": batch.layout} if batch.layout else {}),
            **options,
        )
        states = output.last_hidden_state
    routed = None
    if routing:
        seen = batch.mask.flatten() if held is None else torch.tensor(held, device=batch.ids.device)
        routed = Routing(output.router_logits, seen)
    return States(states[batch.row_at, batch.position_at], batch.targets, batch.owners, routed)


def _own_forward(causal: PreTrainedModel, ids: Tensor, **options: Any) -> Any:
    """The class's forward on unpadded rows `ids`. The instance's may be TRL's, ours, or a door to
    all of a sharded model."""
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
    """The layers under the head. Llama 4 names a prefix that its text model does not have, and
    passes for its own base."""
    base = causal.base_model
    return getattr(causal, "model", base) if base is causal else base


def head_of(causal: PreTrainedModel, method: Method) -> Head:
    """What makes logits of the states that `run_rows` returned."""
    if method is Method.OWN:
        return nn.Identity()
    head = causal.get_output_embeddings()
    scale, cap = _logit_changes(causal.config.get_text_config())
    return head if (scale, cap) == (1.0, None) else ChangedHead(head, scale, cap)


def _logit_changes(config: PreTrainedConfig) -> tuple[float, float | None]:
    """Scale and soft cap of the logits by the keys that TRL reads
    (`trl.trainer.utils.add_fused_lm_head`): Cohere's, Falcon-H1's and HyperCLOVA X's factor,
    Granite's divisor, Gemma-2's cap."""
    for key in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        scale = getattr(config, key, None)
        if scale is not None:
            break
    else:
        scale = getattr(config, "logits_scaling", None) or 1.0
        if config.model_type != "hyperclovax":
            scale = 1 / scale
    return float(scale), getattr(config, "final_logit_softcapping", None)


def _needs_own_pass(config: PreTrainedConfig, rows: Sequence[PackedSequence]) -> bool:
    """Whether a row is so long that every other row of its pass would get other positions: LongRoPE
    takes one of two sets of frequencies for all of them, by the last position of any."""
    length = max(map(_longest, rows))
    limits = dict(_rotary_limits(config.get_text_config()))
    if length > limits.get("dynamic", math.inf):
        raise UserError(
            f"a text of {length} tokens is over the {limits['dynamic']} from which on this model's"
            f" rotary positions depend on the texts before: set data.max_tokens={limits['dynamic']}"
            " or less."
        )
    return length > limits.get("longrope", math.inf)


def _rotary_limits(config: PreTrainedConfig) -> Iterator[tuple[str, int]]:
    """Kinds of rotary positions that depend on a pass's length, and the length up to which they do
    not."""
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
    """Tokens of the longest answer with all that it sees."""
    return max(
        len(row.prefix) + len(branch.context) + len(ids)
        for branch in row.branches
        for _, ids in branch.answers
    )


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """`train` or `eval`, and after it each module as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.train(training)
    try:
        yield
    finally:
        for module, was_training in before:
            module.training = was_training
