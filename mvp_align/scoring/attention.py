"""Attention over a packed row, in which a token sees its own ancestors only: prompts are shared,
answers kept apart.

Any number of prompts and answers lie one after the other in one row of tokens, without padding.
Linear layers take it as it is; attention runs over a segment of it at a time, against exactly the
keys that the segment sees. GPUs that have FlashAttention take all segments in one call, in 16 bits:
a call a segment would keep them waiting for the next one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED = "shared_prompt"
"""The name of this attention in transformers' registry."""

Span = tuple[int, int]
"""First token and one after the last."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Neighbouring tokens `own`, each of which sees all of `context`, itself and those of `own`
    before it."""

    context: tuple[Span, ...]
    own: Span
    mask: Tensor | None
    """Boolean [1, 1, own, context + own]; None where there is no context, and causality says it
    all."""
    pieces: tuple[int, ...]
    """The layout's pieces that make up context and own."""


@dataclass(frozen=True, slots=True)
class VarlenInputs:
    """The segments as sequences of unlike length, whose last query sees the last key, as the kernel
    has causality."""

    keys: Tensor
    """Tokens of the row [context and own of all segments], int64, segment by segment."""
    cu_seqlens_q: Tensor
    """[segments + 1], int32, the first one 0: in the row."""
    cu_seqlens_k: Tensor
    """[segments + 1], int32, the first one 0: in `keys`."""
    max_seqlen_q: int
    max_seqlen_k: int


@dataclass(frozen=True, slots=True)
class Layout:
    """A packed row as segments, in order, and cut into `pieces`: lengths, such that every span is a
    run of whole pieces.

    Cutting once keeps the backward pass linear: the gradient of a slice would be as long as the
    row.
    """

    segments: tuple[Segment, ...]
    pieces: tuple[int, ...]
    varlen: VarlenInputs


def lay_out(spans: Sequence[tuple[tuple[Span, ...], Span]], device: torch.device) -> Layout:
    """From the context and the own tokens of each segment; own tokens follow one another and fill
    the row."""
    cuts = sorted({edge for context, own in spans for span in (*context, own) for edge in span})
    number = {cut: place for place, cut in enumerate(cuts)}

    def segment(context: tuple[Span, ...], own: Span) -> Segment:
        seen, length = sum(end - first for first, end in context), own[1] - own[0]
        mask = (
            torch.ones(1, 1, length, seen + length, dtype=torch.bool, device=device).tril(seen)
            if seen
            else None
        )
        pieces = (
            place for first, end in (*context, own) for place in range(number[first], number[end])
        )
        return Segment(context, own, mask, tuple(pieces))

    return Layout(
        tuple(segment(context, own) for context, own in spans),
        tuple(end - first for first, end in pairwise(cuts)),
        _varlen_inputs(spans, device),
    )


def _varlen_inputs(
    spans: Sequence[tuple[tuple[Span, ...], Span]], device: torch.device
) -> VarlenInputs:
    keys = [[token for seen in (*context, own) for token in range(*seen)] for context, own in spans]
    queries, seen = [end - first for _, (first, end) in spans], [len(tokens) for tokens in keys]

    def ends(lengths: Sequence[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)

    gathered = torch.tensor([token for tokens in keys for token in tokens], device=device)
    return VarlenInputs(gathered, ends(queries), ends(seen), max(queries), max(seen))


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    layout: Layout | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """SDPA over the segments of a packed row [1, heads, tokens, head width]; over anything else, as
    transformers has it."""
    if layout is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    if takes_varlen(query) and not options.get("dropout"):
        return _attend_varlen(query, key, value, layout.varlen, options.get("scaling")), None
    queries = query.split([part.own[1] - part.own[0] for part in layout.segments], dim=2)
    keys, values = key.split(layout.pieces, dim=2), value.split(layout.pieces, dim=2)
    outputs = [
        sdpa_attention_forward(
            module,
            queries[number],
            torch.cat([keys[piece] for piece in part.pieces], dim=2),
            torch.cat([values[piece] for piece in part.pieces], dim=2),
            part.mask,
            **options,
        )[0]
        for number, part in enumerate(layout.segments)
    ]
    return torch.cat(outputs, dim=1), None


def _varlen_kernel() -> Callable[..., Tensor] | None:
    """Causal FlashAttention over sequences of unlike length, as torch has it from 2.11 on."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    kernel: Callable[..., Any] = varlen_attn
    known = signature(kernel).parameters
    if "window_size" not in known:
        return None
    # before 2.13 nobody asks whether heads share keys
    grouped = {"enable_gqa": True} if "enable_gqa" in known else {}
    return partial(kernel, window_size=(-1, 0), **grouped)


VARLEN = _varlen_kernel()


def takes_varlen(query: Tensor) -> bool:
    """Whether FlashAttention's kernel for sequences of unlike length is here, and made for such a
    query."""
    if VARLEN is None or not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    width = query.shape[-1]
    return _has_flash(query.device.index) and width % 8 == 0 and width <= 256


@cache
def _has_flash(device: int) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, row: VarlenInputs, scale: float | None
) -> Tensor:
    """[1, heads, tokens, head width], of keys and values maybe fewer heads -> [1, tokens, heads,
    head width]."""
    assert VARLEN is not None
    output: Tensor = VARLEN(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1).index_select(0, row.keys),
        value[0].transpose(0, 1).index_select(0, row.keys),
        row.cu_seqlens_q,
        row.cu_seqlens_k,
        row.max_seqlen_q,
        row.max_seqlen_k,
        scale=scale,
    )
    return output[None]


AttentionInterface.register(SHARED, attend)
AttentionMaskInterface.register(SHARED, sdpa_mask)


def can_share(model: PreTrainedModel) -> bool:
    """Whether this attention may stand in for `model`'s, by its class and config: it is SDPA
    through transformers' registry, sees all tokens before its own, and has rotary positions (others
    ignore position ids)."""
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) is not None
    if not (rotary and model._supports_attention_backend and config._attn_implementation == "sdpa"):
        return False
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
    return all(kind == "full_attention" for kind in kinds) if kinds else not windowed
