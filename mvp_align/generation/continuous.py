"""transformers' continuous batching: answers enter and leave a running batch one by one.

A pass takes the next token of every answer that is being written and prompts of answers that are
next, within a budget of tokens. No answer waits for the longest one of its batch, nothing is
padded, and prompts that begin with the same whole pages share their keys and values.

Which answers share a pass decides their last bits. So prompts come in groups (see
`generation.local`): all of a group wait in the queue before its first pass, in one order, over an
empty cache of a size that depends on the group alone. Then the passes of a group are the same
whenever it runs.
"""

import math
import queue
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import (
    ContinuousBatchingConfig,
    ContinuousBatchingManager,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import GenerationOutput

from mvp_align.errors import UserError
from mvp_align.generation.sampling import ContinuousDraw
from mvp_align.modeling.compiled import uncompiled
from mvp_align.runtime import preemption
from mvp_align.scoring.attention import SHARED
from mvp_align.scoring.methods import EXACT, ROUNDINGS, is_sharded
from mvp_align.scoring.passes import mode, rotary_limits
from mvp_align.scoring.shrink import tiny_copy

PAGE = 16
"""Tokens of a page, the unit in which keys and values are stored and shared."""
FLASH_PAGE = 256
"""The same for FlashAttention, whose kernel takes whole multiples of it."""
TOKEN_BUDGET = 1024
"""Most tokens of a pass, unless as many answers are written at once. Longer prompts are split."""
SPARE = 1.25
"""Size of the cache over what `batch_size` answers of full length need.

transformers starts no further answer while less than 15 % is free.
"""
POLL_SECONDS = 0.2
"""Longest wait for an answer before looking for a stop request."""

PAGED: WeakKeyDictionary[PreTrainedModel, str] = WeakKeyDictionary()
"""The attention implementation under which a model's paged attention was found right."""
SHAPES: dict[str, str] = {}
"""What was found wrong with a tiny copy of a config; empty if nothing was."""

INSTEAD = "Use generation.engine=plain (--engine plain)."


def continuous_tokens(
    causal: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    uniforms: Tensor | None = None,
    temperature: float = 0.0,
) -> Generator[dict[int, list[int]]]:
    """Yield the written tokens of finished answers, by the prompt's number, as they finish.

    An answer ends with a token of `stops`, or at `max_new_tokens`. At most `batch_size` are written
    at once. With `uniforms` (float64 [prompts, max_new_tokens]) tokens are drawn at `temperature`,
    as plain `generate` draws them; without, the most probable one is taken.

    Ends early, with what is finished by then, if this process is asked to stop. Raises UserError if
    the keys and values of `batch_size` answers do not fit.
    """
    draw = None
    if uniforms is not None:
        draw = ContinuousDraw(uniforms.to(causal.device), temperature, [*map(len, prompts)])
    left, failed = len(prompts), ""
    with _running(causal, prompts, stops, max_new_tokens, batch_size, draw) as manager:
        while left and not failed and not preemption.request and manager.is_running():
            outputs = _results(manager, POLL_SECONDS)
            left -= len(outputs)
            failed = next((output.error for output in outputs if output.error), "")
            if found := _tokens(outputs):
                yield found
    stopped = _results(manager)
    if found := _tokens(stopped):
        yield found
    fatal = manager.background_thread_status.fatal_error
    if fatal is not None:
        raise fatal
    if failed:
        raise RuntimeError(failed)


def _results(manager: ContinuousBatchingManager, seconds: float = 0) -> list[GenerationOutput]:
    """Wait up to `seconds` for a result, and return all that are there."""
    waiting, found = manager.output_router.output_queue, []
    with suppress(queue.Empty):
        found.append(waiting.get(timeout=seconds) if seconds else waiting.get_nowait())
        while True:
            found.append(waiting.get_nowait())
    return found


def _tokens(outputs: Sequence[GenerationOutput]) -> dict[int, list[int]]:
    """Return the tokens of the answers that ended by themselves, by the prompt's number."""
    return {
        int(output.request_id): output.generated_tokens
        for output in outputs
        if output.error is None
    }


@contextmanager
def _running(
    causal: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    stops: Sequence[int],
    max_new_tokens: int,
    batch_size: int,
    draw: ContinuousDraw | None = None,
    *,
    logprobs: bool = False,
) -> Iterator[ContinuousBatchingManager]:
    """Answer `prompts` in a thread; stop it at the end, at once.

    The model's attention, its mode and torch's random state are restored. (The manager sets a seed,
    though no number is drawn from it.)
    """
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=list(stops) or -1
    )
    devices = [causal.device] if causal.device.type == "cuda" else []
    # what the thread writes to must be no inference tensors
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        torch.random.fork_rng(devices=devices),
        mode(causal, training=False),
        uncompiled(causal),
        _pageable_attention(causal),
    ):
        sizes = _sizes(causal, prompts, max_new_tokens, batch_size)
        sizes.return_logprobs = logprobs
        manager = causal.init_continuous_batching(settings, sizes)  # type: ignore[operator]
        if draw is not None:
            manager.logit_processor = ContinuousBatchingLogitsProcessorList(
                LogitsProcessorList([draw])
            )
            manager.logit_processor.tensors_required = 1
        try:
            manager.warmup()  # allocates the cache
        except MemoryError as error:
            raise UserError(
                f"generation.batch_size={batch_size}: the keys and values of so many answers of"
                f" {max(map(len, prompts)) + max_new_tokens} tokens do not fit beside the model"
                f" ({error}). Lower generation.batch_size or generation.max_new_tokens."
            ) from error
        for number, ids in enumerate(prompts):
            manager.add_request([*ids], str(number), eos_token_id=list(stops) or -1)
        manager.start()
        try:
            yield manager
        finally:
            manager.stop(hard_stop=True)


def _sizes(
    causal: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
) -> ContinuousBatchingConfig:
    """Return sizes that depend on the prompts and settings, not on the free memory.

    transformers' own defaults take most of it.
    """
    page = FLASH_PAGE if "flash" in attention(causal) else PAGE
    longest, at_once = max(map(len, prompts)) + max_new_tokens, min(batch_size, len(prompts))
    return ContinuousBatchingConfig(
        page_size=page,
        num_blocks=math.ceil(SPARE * at_once * math.ceil(longest / page)),
        max_batch_tokens=max(TOKEN_BUDGET, at_once),
        max_requests_per_batch=at_once,
        auto_switch_to_flash=False,  # the run's attention, and no kernel from the Hub
        disable_nccl_graph_mixing=False,  # about tensor parallelism; it would set a variable
        seed=0,
    )


def attention(causal: PreTrainedModel) -> str:
    return str(causal.config.get_text_config()._attn_implementation)


@contextmanager
def _pageable_attention(causal: PreTrainedModel) -> Iterator[None]:
    """Replace attention for packed rows by SDPA, and restore what was there, also after errors."""
    before = attention(causal)
    if before == SHARED:
        causal.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        if attention(causal) != before:
            causal.set_attn_implementation(before)


def check_continuous(causal: PreTrainedModel, longest: int) -> None:
    """Raise UserError if continuous batching is not right for this model, after trying it.

    `longest` is the most tokens of a prompt with its answer. A few short texts are continued, and
    their log-probs compared with the model's own forward, once a model.
    """
    check_continuous_shape(causal.config, longest, trial=causal.dtype != torch.float32)
    if PAGED.get(causal) == attention(causal):
        return
    fault = "is sharded over several processes" if is_sharded(causal) else paging_fault(causal)
    if fault:
        raise _refusal(type(causal).__name__, fault)
    PAGED[causal] = attention(causal)


def check_continuous_shape(config: PreTrainedConfig, longest: int, *, trial: bool = True) -> None:
    """Do what `check_continuous` does for a model that is not loaded, on a tiny copy of it.

    The tolerance of 16 bits would hide a small fault, so a model that is loaded in them is tried
    both ways. A config that cannot be shrunk passes.
    """
    limit = dict(rotary_limits(config.get_text_config())).get("longrope", math.inf)
    if longest > limit:
        raise UserError(
            f"generation.engine=continuous: from {limit} tokens on, this model's rotary positions"
            f" depend on the longest text of a pass, and a prompt with its answer can have"
            f" {longest}. {INSTEAD}"
        )
    key = f"{config._attn_implementation} {config.to_json_string()}"
    if trial and key not in SHAPES:
        copy = None if "flash" in str(config._attn_implementation) else tiny_copy(config)
        SHAPES[key] = paging_fault(copy) if copy else ""
    if trial and SHAPES[key]:
        raise _refusal(f"model_type {config.model_type}", SHAPES[key])


def _refusal(model: str, fault: str) -> UserError:
    return UserError(
        f"generation.engine=continuous: {model} cannot be batched continuously: tried on a few"
        f" tokens, it {fault}. {INSTEAD}"
    )


def paging_fault(causal: PreTrainedModel) -> str:
    """Describe how continuous batching disagrees with the model's own forward.

    Returns "" if it does not. Some of the texts are longer than a page and begin alike, and one
    enters when another ends.
    """
    vocabulary = causal.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    row = torch.randint(3, min(vocabulary, 1000), (80,), generator=draw).tolist()
    prompts = [row[:40], row[:1], [*row[:20], *row[60:]], row[:33]]
    off = []
    try:
        with _running(causal, prompts, [], 4, 3, logprobs=True) as manager:
            outputs = [manager.get_result(timeout=600) for _ in prompts]
        fatal = manager.background_thread_status.fatal_error
        if fatal is not None:
            raise fatal
        with mode(causal, training=False), torch.no_grad():
            for output in outputs:
                assert output is not None
                off += _differences(causal, output)
    except Exception as error:  # model families fail in many ways on unexpected arguments
        if isinstance(error, torch.OutOfMemoryError | UserError):
            raise
        return f"fails ({' '.join(f'{type(error).__name__}: {error}'.split())[:120]})"
    apart = math.sqrt(sum(one**2 for one in off) / len(off))
    limit = max(EXACT, ROUNDINGS * torch.finfo(causal.dtype).eps)
    return "" if apart <= limit else f"is {apart:.2g} nats a token off"


def _differences(causal: PreTrainedModel, output: GenerationOutput) -> list[float]:
    """Return each written token's log-prob less that of the model's own forward, in nats."""
    ids = torch.tensor([output.prompt_ids + output.generated_tokens], device=causal.device)
    logits = causal(input_ids=ids, use_cache=False).logits[0, len(output.prompt_ids) - 1 : -1]
    own = logits.float().log_softmax(-1).gather(1, ids[0, len(output.prompt_ids) :, None])
    return [float(one) for one in torch.tensor(output.logprobs) - own[:, 0].cpu()]
