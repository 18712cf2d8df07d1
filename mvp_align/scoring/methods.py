"""Choose the scoring method that is right for a model, by testing it before the first score.

No list of configs covers the next model family. So four short answers go through the model's own
forward, one at a time, and through each faster method as it is really used. The fastest method that
agrees up to rounding wins. Models without weights of their own here (sharded, or planned on the
meta device) are tested on a tiny copy of their config.
"""

import random
from functools import cache
from itertools import accumulate
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedConfig, PreTrainedModel

from mvp_align.errors import UserError
from mvp_align.scoring.attention import SHARED, can_share
from mvp_align.scoring.packing import PackedSequence, pack_answers
from mvp_align.scoring.passes import Method, head_of, mode, run_rows
from mvp_align.scoring.shrink import tiny_copy
from mvp_align.scoring.tokens import Answer

EXACT, ROUNDINGS = 1e-4, 32
"""Largest difference from the model's own logits: nats per token in fp32, epsilons elsewhere.

In bf16 that is 0.25 nats per token, in fp16 0.03.
"""

Found = tuple[Method, str]
"""A method, and why the faster one tried before it failed."""

KNOWN: WeakKeyDictionary[PreTrainedModel, tuple[str, Method]] = WeakKeyDictionary()
"""The chosen method, and the attention implementation that it was chosen for."""

SHAPES: dict[str, Found | None] = {}
"""Methods by config."""


class NoForward(UserError):
    """The model's own forward fails."""


def scoring_method(causal: PreTrainedModel) -> Method:
    """Return the model's scoring method, and print a note once per class if it is a slower one.

    The method is found on the first call. If it is PACKED, this call switches the model to the
    attention of `mvp_align.scoring.attention`, which is plain SDPA for rows that are not packed.

    Raises a one-line UserError for models that cannot be scored: their forward fails, or they
    predict from later tokens.
    """
    known = KNOWN.get(causal)
    if known is None or known[0] != _attention(causal):
        method, why = _found_method(causal)
        print_once(_spoken(type(causal).__name__, method, why))
        known = KNOWN[causal] = (_attention(causal), method)
    return known[1]


def _attention(causal: PreTrainedModel) -> str:
    return str(causal.config.get_text_config()._attn_implementation)


def method_name(causal: PreTrainedModel) -> str:
    """Describe what a score's rounding depends on: the attention, and whose logits are used."""
    own = ", own logits of a row at a time" * (scoring_method(causal) is Method.OWN)
    return _attention(causal) + own


def _found_method(causal: PreTrainedModel) -> Found:
    first = _first_method(causal)
    weightless = is_sharded(causal) or causal.device.type == "meta"
    shape = shape_method(causal.config) if weightless or causal.dtype != torch.float32 else None
    if weightless:
        if shape is None:
            print_once(
                f"{type(causal).__name__}: how it is scored is taken from its class, and tried"
                " where it is loaded whole"
            )
        found = shape or (first, "")
        _with_attention(causal, found[0])
        return found
    # the tolerance of a coarse precision would hide a small fault
    if shape and _later(first, shape[0]) is not first:
        first = shape[0]
    method, why = tried_method(causal, first)
    return method, why or (shape[1] if shape else "")


def _first_method(causal: PreTrainedModel) -> Method:
    return Method.PACKED if _attention(causal) == SHARED or can_share(causal) else Method.PADDED


def shape_method(config: PreTrainedConfig) -> Found | None:
    """Return the method for models of this config, found on a tiny fp32 copy with random weights.

    Returns None if no such copy can be built and run. Raises UserError for models that cannot be
    scored.
    """
    key = f"{config._attn_implementation} {config.to_json_string()}"
    if key not in SHAPES:
        tiny = tiny_copy(config)
        try:
            SHAPES[key] = tried_method(tiny, _first_method(tiny)) if tiny else None
        except NoForward:  # the copy lacks something that was cut away
            SHAPES[key] = None
    return SHAPES[key]


def tried_method(causal: PreTrainedModel, first: Method) -> Found:
    """Return the first method, starting at `first`, that agrees with the model's own logits."""
    answers = _probe(causal)
    limit = max(EXACT, ROUNDINGS * torch.finfo(causal.dtype).eps)
    why = ""
    with mode(causal, training=False), torch.no_grad():
        expected = _own_logps(causal, answers)
        _check_causal(causal, answers, expected, limit)
        for method in (Method.PACKED, Method.PADDED):
            if _later(first, method) is method:
                _with_attention(causal, method)
                fault = disagreement(causal, answers, method, expected, limit)
                if not fault:
                    return method, why
                why = fault
    _with_attention(causal, Method.OWN)
    return Method.OWN, why


def _later(one: Method, other: Method) -> Method:
    order = list(Method)
    return max(one, other, key=order.index)


def _with_attention(causal: PreTrainedModel, method: Method) -> None:
    """Switch to our attention for PACKED; switch back to SDPA if ours was only tried."""
    if (method is Method.PACKED) != (_attention(causal) == SHARED):
        causal.set_attn_implementation(SHARED if method is Method.PACKED else "sdpa")


def _probe(causal: PreTrainedModel) -> list[Answer]:
    """Return two answers to each of two prompts that share a beginning.

    Packed, they form a row with branches; padded, rows of different lengths. Both answers to a
    prompt start with the same token. Token ids come from a fixed seed and exclude special tokens,
    which some models treat as padding.
    """
    draw, config = random.Random(0), causal.config.get_text_config()
    special: set[Any] = set()
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        token = getattr(config, name, None)
        special |= set(token) if isinstance(token, list) else {token}
    known = [token for token in range(min(config.vocab_size, 1000)) if token not in special]

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.choices(known, k=count))

    prefix = ids(20)
    prompts = (*prefix, *ids(1)), (*prefix, *ids(5))
    return [
        Answer((*prompt, *ids(count)), len(prompt) - 1)
        for prompt, counts in zip(prompts, ((8, 1), (4, 0)), strict=True)
        for count in counts
    ]


def _own_logps(causal: PreTrainedModel, answers: list[Answer]) -> Tensor:
    try:
        return _logps(causal, pack_answers(answers, share=False), Method.OWN)
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise NoForward(
            f"{type(causal).__name__} cannot be scored: its own forward fails on plain tokens"
            f" ({_brief(error)})."
        ) from error


def _check_causal(
    causal: PreTrainedModel, answers: list[Answer], expected: Tensor, limit: float
) -> None:
    """Raise UserError if the rest of an answer changes the prediction of its first token.

    The bound is wide because the rounding error of one token does not average out.
    """
    firsts = expected[list(accumulate((answer.tokens for answer in answers[:-1]), initial=0))]
    if _distance(firsts[::2], firsts[1::2]) <= 4 * limit:
        return
    cure = (
        " Its config has is_decoder=false."
        if getattr(causal.config, "is_decoder", None) is False
        else ""
    )
    raise UserError(
        f"{type(causal).__name__} is no causal language model: it predicts a token from those after"
        f" it.{cure}"
    )


def _logps(causal: PreTrainedModel, rows: list[PackedSequence], method: Method) -> Tensor:
    """Return log-probs of the answers' tokens [n], ordered by answer."""
    states = run_rows(causal, rows, method)
    logits = head_of(causal, method)(states.hidden).float()
    return -nn.functional.cross_entropy(logits, states.targets, reduction="none")


def disagreement(
    causal: PreTrainedModel, answers: list[Answer], method: Method, expected: Tensor, limit: float
) -> str:
    """Describe how `method` disagrees with `expected`; empty if it does not."""
    try:
        apart = _distance(
            _logps(causal, pack_answers(answers, method is Method.PACKED), method), expected
        )
    except Exception as error:  # model families fail in many ways on unexpected arguments
        if isinstance(error, torch.OutOfMemoryError | UserError):
            raise
        return f"fails ({_brief(error)})"
    return "" if apart <= limit else f"is {apart:.2g} nats a token off"


def _distance(found: Tensor, expected: Tensor) -> float:
    """Return the RMS difference over positions where `expected` is finite.

    Weights that produce NaN are reported later, by scoring.
    """
    numbers = expected.isfinite()
    return float((found - expected)[numbers].square().mean().sqrt()) if numbers.any() else 0.0


def _spoken(kind: str, method: Method, why: str) -> str:
    if method is Method.OWN:
        return f"{kind}: scored by its own logits, a row at a time, for the faster way {why}"
    if method is Method.PADDED:
        return (
            f"{kind}: its attention cannot keep answers of one row apart, so each answer carries"
            " its own prompt"
        )
    return ""


@cache
def print_once(line: str) -> None:
    """Print `line` once per process."""
    if line:
        print(line)


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def is_sharded(causal: PreTrainedModel) -> bool:
    """Return whether FSDP2 shards the model's parameters over several processes."""
    return any(isinstance(parameter, DTensor) for parameter in causal.parameters())
