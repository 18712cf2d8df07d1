"""Tree attention over a packed row: answers share their prompt but do not see each other.

A packed row is one sequence of tokens that holds any number of prompts and answers back to back,
without padding. Linear layers run on the whole row. Attention runs segment by segment, each against
exactly the keys that the segment sees. On GPUs with FlashAttention, all segments go through one
16-bit call, because one call per segment would leave the GPU idle between them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

SHARED = "shared_prompt"
"""Name of this attention in transformers' registry."""

Span = tuple[int, int]
"""First token, and one past the last."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive tokens `own`: each sees all of `context`, itself, and the `own` tokens before."""

    context: tuple[Span, ...]
    own: Span
    pieces: tuple[int, ...]
    """Indices of the layout's pieces that make up context and own."""


@dataclass(frozen=True, slots=True)
class VarlenInputs:
    """The segments as variable-length sequences for the FlashAttention kernel.

    The last query of each segment sees its last key, which is the alignment that the kernel uses
    for causal masks.
    """

    keys: Tensor
    """Indices into the row [context and own of all segments], int64, segment by segment."""
    cu_seqlens_q: Tensor
    """[segments + 1], int32, starts at 0. Offsets into the row."""
    cu_seqlens_k: Tensor
    """[segments + 1], int32, starts at 0. Offsets into `keys`."""
    max_seqlen_q: int
    max_seqlen_k: int

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "VarlenInputs":
        return replace(
            self,
            keys=change(self.keys),
            cu_seqlens_q=change(self.cu_seqlens_q),
            cu_seqlens_k=change(self.cu_seqlens_k),
        )


@dataclass(frozen=True)
class Layout:
    """A packed row as segments, in order, and the piece lengths to cut it into.

    Every span is a run of whole pieces. Splitting once keeps the backward pass linear: the gradient
    of each separate slice would be as long as the row.
    """

    segments: tuple[Segment, ...]
    pieces: tuple[int, ...]
    varlen: VarlenInputs

    @cached_property
    def masks(self) -> tuple[Tensor | None, ...]:
        """Each segment's mask, boolean [1, 1, own, context + own]; None if causality is enough.

        Only attention segment by segment needs them, in every layer.
        """
        return tuple(map(self._mask, self.segments))

    def _mask(self, part: Segment) -> Tensor | None:
        seen, length = sum(end - first for first, end in part.context), part.own[1] - part.own[0]
        if not seen:
            return None
        size, device = (1, 1, length, seen + length), self.varlen.keys.device
        return torch.ones(size, dtype=torch.bool, device=device).tril(seen)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Layout":
        return replace(self, varlen=self.varlen.mapped(change))


def lay_out(spans: Sequence[tuple[tuple[Span, ...], Span]]) -> Layout:
    """Build the layout, on the CPU, from each segment's context and own tokens.

    The own tokens of consecutive segments are adjacent and together fill the row.
    """
    cuts = sorted({edge for context, own in spans for span in (*context, own) for edge in span})
    number = {cut: place for place, cut in enumerate(cuts)}

    def segment(context: tuple[Span, ...], own: Span) -> Segment:
        pieces = (
            place for first, end in (*context, own) for place in range(number[first], number[end])
        )
        return Segment(context, own, tuple(pieces))

    return Layout(
        tuple(segment(context, own) for context, own in spans),
        tuple(end - first for first, end in pairwise(cuts)),
        _varlen_inputs(spans),
    )


def _varlen_inputs(spans: Sequence[tuple[tuple[Span, ...], Span]]) -> VarlenInputs:
    keys = [(*context, own) for context, own in spans]
    queries = [end - first for _, (first, end) in spans]
    seen = [sum(end - first for first, end in part) for part in keys]

    def ends(lengths: Sequence[int]) -> Tensor:
        return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)

    gathered = torch.cat([torch.arange(*seen) for part in keys for seen in part])
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
    """Attend over the segments of a packed row [1, heads, tokens, head width] with SDPA.

    Without a `layout`, do what transformers' SDPA does.
    """
    if layout is None:
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return output, None
    if takes_varlen(query) and not options.get("dropout"):
        return _attend_varlen(query, key, value, layout.varlen, options.get("scaling")), None
    if torch.compiler.is_compiling():  # a graph of all segments would be another one for each batch
        return _attend_masked(query, key, value, layout.varlen, **options), None
    queries = query.split([part.own[1] - part.own[0] for part in layout.segments], dim=2)
    keys, values = key.split(layout.pieces, dim=2), value.split(layout.pieces, dim=2)
    outputs = [
        sdpa_attention_forward(
            module,
            queries[number],
            torch.cat([keys[piece] for piece in part.pieces], dim=2),
            torch.cat([values[piece] for piece in part.pieces], dim=2),
            layout.masks[number],
            **options,
        )[0]
        for number, part in enumerate(layout.segments)
    ]
    return torch.cat(outputs, dim=1), None


def _varlen_kernel() -> Callable[..., Tensor] | None:
    """Return torch's causal varlen FlashAttention (torch 2.11 and later), or None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    kernel: Callable[..., Any] = varlen_attn
    known = signature(kernel).parameters
    if "window_size" not in known:
        return None
    # before 2.13 the kernel has no flag for keys shared between heads
    grouped = {"enable_gqa": True} if "enable_gqa" in known else {}
    return partial(kernel, window_size=(-1, 0), **grouped)


VARLEN = _varlen_kernel()


def takes_varlen(query: Tensor) -> bool:
    """Return whether the varlen FlashAttention kernel is available and supports this query."""
    if VARLEN is None or not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    width = query.shape[-1]
    return _has_flash(query.device.index) and width % 8 == 0 and width <= 256


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
@cache
def _has_flash(device: int) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _attend_varlen(
    query: Tensor, key: Tensor, value: Tensor, row: VarlenInputs, scale: float | None
) -> Tensor:
    """Run the kernel: [1, heads, tokens, head width] -> [1, tokens, heads, head width].

    Keys and values may have fewer heads than the queries.
    """
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


def _attend_masked(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    row: VarlenInputs,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> Tensor:
    """Attend in one call with a mask [tokens, keys], with shapes as in `_attend_varlen`.

    A query and a key see each other within a segment, if the key is not nearer to its end than the
    query is.
    """
    segment_q, left_q = _segments(row.cu_seqlens_q, query.shape[2])
    segment_k, left_k = _segments(row.cu_seqlens_k, row.keys.shape[0])
    mask = (segment_q[:, None] == segment_k) & (left_q[:, None] <= left_k)
    output = nn.functional.scaled_dot_product_attention(
        query,
        key.index_select(2, row.keys),
        value.index_select(2, row.keys),
        attn_mask=mask[None, None],
        dropout_p=dropout,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2)


def _segments(ends: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return each token's segment, and how many tokens of it are left, from cumulated lengths."""
    at = torch.arange(count, device=ends.device)
    segment = torch.searchsorted(ends.long(), at, right=True)
    return segment, ends[segment] - at


AttentionInterface.register(SHARED, attend)
AttentionMaskInterface.register(SHARED, sdpa_mask)


def can_share(model: PreTrainedModel) -> bool:
    """Return whether this attention can replace `model`'s, judging by its class and config.

    That requires SDPA through transformers' registry, full causal attention (no sliding window),
    and rotary positions, since models with other position encodings ignore position ids.
    """
    config = model.config.get_text_config()
    rotary = getattr(config, "rope_parameters", None) is not None
    if not (rotary and model._supports_attention_backend and config._attn_implementation == "sdpa"):
        return False
    kinds = getattr(config, "layer_types", None)
    windowed = getattr(config, "sliding_window", None) is not None and getattr(
        config, "use_sliding_window", True
    )
    return all(kind == "full_attention" for kind in kinds) if kinds else not windowed
