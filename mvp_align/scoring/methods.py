"""Which method of `mvp_align.scoring.passes` is right for a model: tried on a few tokens before its
first score.

No list of configs can know the next family. Four short answers go through the model's own forward,
each alone, and along the faster methods as these are really used; the first that says the same, up
to rounding, is taken. Models that sharding or planning has left without weights are judged by a
tiny copy of their config.
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
"""Nats a token by which a method may differ from the model's own logits: in fp32, and in units of a
coarser precision's last place. bf16 gets 0.25, fp16 0.03."""

Found = tuple[Method, str]
"""A method, and what spoke against the faster one that was tried before it."""

KNOWN: WeakKeyDictionary[PreTrainedModel, tuple[str, Method]] = WeakKeyDictionary()
"""With the attention that was in use."""

SHAPES: dict[str, Found | None] = {}
"""By config."""


class NoForward(UserError):
    """A model whose own forward does not run."""


def scoring_method(causal: PreTrainedModel) -> Method:
    """The method for this model, found at the first call for it and said once a class where it is a
    slower one. Where it is PACKED, the model has the attention of `mvp_align.scoring.attention`
    from here on: SDPA, wherever no row is packed.

    Raises UserError, in one line, for models that cannot be scored: their forward fails, or
    predicts from later tokens.
    """
    known = KNOWN.get(causal)
    if known is None or known[0] != _attention(causal):
        method, why = _found_method(causal)
        say(_spoken(type(causal).__name__, method, why))
        known = KNOWN[causal] = (_attention(causal), method)
    return known[1]


def _attention(causal: PreTrainedModel) -> str:
    return str(causal.config.get_text_config()._attn_implementation)


def method_name(causal: PreTrainedModel) -> str:
    """What a score's rounding depends on: the attention, and whose logits."""
    own = ", own logits of a row at a time" * (scoring_method(causal) is Method.OWN)
    return _attention(causal) + own


def _found_method(causal: PreTrainedModel) -> Found:
    first = _first_method(causal)
    weightless = is_sharded(causal) or causal.device.type == "meta"
    shape = shape_method(causal.config) if weightless or causal.dtype != torch.float32 else None
    if weightless:
        if shape is None:
            say(
                f"{type(causal).__name__}: how it is scored is taken from its class, and tried"
                " where it is loaded whole"
            )
        found = shape or (first, "")
        _with_attention(causal, found[0])
        return found
    # in a coarse precision's rounding, a small fault would pass
    if shape and _later(first, shape[0]) is not first:
        first = shape[0]
    method, why = tried_method(causal, first)
    return method, why or (shape[1] if shape else "")


def _first_method(causal: PreTrainedModel) -> Method:
    return Method.PACKED if _attention(causal) == SHARED or can_share(causal) else Method.PADDED


def shape_method(config: PreTrainedConfig) -> Found | None:
    """The method for models of this config, found on a tiny copy with random weights in fp32; None
    where no copy can be made that runs. Raises UserError for models that cannot be scored."""
    key = f"{config._attn_implementation} {config.to_json_string()}"
    if key not in SHAPES:
        tiny = tiny_copy(config)
        try:
            SHAPES[key] = tried_method(tiny, _first_method(tiny)) if tiny else None
        except NoForward:  # for want of what was cut away
            SHAPES[key] = None
    return SHAPES[key]


def tried_method(causal: PreTrainedModel, first: Method) -> Found:
    """The first method, from `first` on, that the model's own logits agree with."""
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
    """Our attention for packed rows; SDPA again for others, where ours was tried."""
    if (method is Method.PACKED) != (_attention(causal) == SHARED):
        causal.set_attn_implementation(SHARED if method is Method.PACKED else "sdpa")


def _probe(causal: PreTrainedModel) -> list[Answer]:
    """Two answers to each of two prompts that begin alike: packed, they make a row with branches;
    padded, rows of unlike length. Both answers to a prompt begin with the same token. Ids are
    drawn, the same each time; special ones, which some models take for padding, are left out."""
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
    """Raise UserError where the answer that follows changes what the model says of its first token.
    The bound is wide: one token's rounding is no mean of many."""
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
    """Log-probs of the answers' tokens [n], ordered by their answers."""
    states = run_rows(causal, rows, method)
    logits = head_of(causal, method)(states.hidden).float()
    return -nn.functional.cross_entropy(logits, states.targets, reduction="none")


def disagreement(
    causal: PreTrainedModel, answers: list[Answer], method: Method, expected: Tensor, limit: float
) -> str:
    """In words, what speaks against a method; empty where nothing does."""
    try:
        apart = _distance(
            _logps(causal, pack_answers(answers, method is Method.PACKED), method), expected
        )
    except Exception as error:  # whatever a family makes of arguments that it does not expect
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return f"fails ({_brief(error)})"
    return "" if apart <= limit else f"is {apart:.2g} nats a token off"


def _distance(found: Tensor, expected: Tensor) -> float:
    """Root mean square over those that are expected to be numbers: weights that make none are found
    by scoring."""
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
def say(line: str) -> None:
    """Once a process."""
    if line:
        print(line)


def _brief(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


def is_sharded(causal: PreTrainedModel) -> bool:
    """Whether FSDP2 has given its parameters' parts to several processes."""
    return any(isinstance(parameter, DTensor) for parameter in causal.parameters())
