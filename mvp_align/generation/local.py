"""Generate answers in this process, by one of two engines, reproducible by seed.

`plain` is transformers' `generate`: batched, left-padded, with a KV cache. `continuous` is its
continuous batching (`generation.continuous`).

An answer depends on its own prompt, the settings and the seed, not on its batch. Greedy answers
equal those generated one at a time, and each sampled answer has its own random numbers. Logits do
differ between batches and engines in their last bits, which can decide a near-tie differently. So
batches are fixed before the first one runs, and a resumed run uses the same ones.
"""

import hashlib
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import pairwise

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.generation.answers import Drafts, Generated, engine_record
from mvp_align.generation.continuous import check_continuous, continuous_tokens
from mvp_align.generation.sampling import Draw, stacked_uniforms
from mvp_align.modeling.compiled import uncompiled
from mvp_align.modeling.source import context_length
from mvp_align.runtime.preemption import raise_if_stop_requested
from mvp_align.schema import PromptedPair
from mvp_align.scoring.logps import causal_model
from mvp_align.scoring.tokens import prompt_ids, start_token

MARK = "mvp-align-answer"
"""Placeholder answer, to find out what the chat template puts after an answer."""

GROUP = 16
"""Batches that the continuous engine answers in one go.

It keeps `batch_size` answers running until the group's last ones end, so a large group leaves less
of a GPU idle. A group that was interrupted runs again, so a small one loses less work.
"""


def generate_locally(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[PromptedPair],
    settings: Generation,
    seed: int,
    *,
    drafts: Drafts | None = None,
    label: str = "generating",
) -> list[Generated]:
    """Generate an answer to each prompt, in order.

    `model` is a causal LM, bare or wrapped by PEFT or a distributed wrapper, and an active adapter
    is used. Its mode, config and attention are restored. Generation ends at the model's EOS or at
    the chat template's end of turn. With several processes, each generates its share and all return
    everything. The batches, and so the answers, are the same as with one process.

    Raises UserError if a prompt plus `max_new_tokens` exceeds the model's context, or if the
    engine is not right for the model, and Preempted between two batches, or, by the continuous
    engine, between two tokens, with all finished answers kept in `drafts`.
    """
    drafts = drafts or Drafts(None)
    causal = causal_model(model)
    ids = [prompt_ids(prompt, tokenizer) or start_token(tokenizer) for prompt in prompts]
    check_room(causal.config, ids, settings.max_new_tokens)
    if ids and settings.engine == "continuous":
        check_continuous(causal, max(map(len, ids)) + settings.max_new_tokens)
    stops = stop_ids(causal, tokenizer)
    keys = [
        _key(prompt.id, row, stops, settings, seed)
        for prompt, row in zip(prompts, ids, strict=True)
    ]
    work = _batches(ids, keys, settings)

    state = PartialState()
    mine = work[state.process_index :: state.num_processes]
    todo = [batch for batch in mine if any(keys[number] not in drafts for number in batch)]
    passes = max(gather_object([len(todo)])) if state.num_processes > 1 else len(todo)
    total, left = sum(map(len, mine)), sum(map(len, todo))
    bar = tqdm(
        total=total,
        initial=total - left,
        desc=label,
        unit="answer",
        delay=2,
        disable=not state.is_main_process,
    )
    with bar, drafts, _answering(causal):
        answers_of = partial(ENGINES[settings.engine], causal, tokenizer)
        for number in range(passes):
            raise_if_stop_requested()  # the same number of calls in every process
            if number >= len(todo):
                continue
            batch = todo[number]
            asked, rows = [prompts[n] for n in batch], [ids[n] for n in batch]
            with closing(answers_of(asked, rows, stops, settings, seed)) as finished:
                for found in finished:
                    drafts.add({keys[batch[place]]: answer for place, answer in found.items()})
                    bar.update(len(found))
        raise_if_stop_requested()  # the last batch may have ended early
    answers = {keys[number]: drafts.known[keys[number]] for batch in mine for number in batch}
    if state.num_processes > 1:
        answers = dict(gather_object(list(answers.items())))
    return [answers[name] for name in keys]


def _batches(
    ids: Sequence[Sequence[int]], keys: Sequence[str], settings: Generation
) -> list[list[int]]:
    """Return the numbers of the prompts that are answered together.

    Plain batches hold prompts of like length, the longest first. The continuous engine's groups
    hold prompts with like beginnings, and are about equally large.
    """
    if settings.engine == "continuous":
        order = sorted(range(len(ids)), key=lambda number: (ids[number], keys[number]))
        count = -(-len(order) // (GROUP * settings.batch_size))
        cuts = [len(order) * number // count for number in range(count + 1)] if count else []
        return [order[first:end] for first, end in pairwise(cuts)]
    order = sorted(
        range(len(ids)), key=lambda number: (-len(ids[number]), ids[number], keys[number])
    )
    return [
        order[first : first + settings.batch_size]
        for first in range(0, len(order), settings.batch_size)
    ]


def check_room(shape: PreTrainedConfig, ids: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Raise UserError if the longest prompt leaves no room for an answer in the model's context."""
    context = context_length(shape)
    longest = max(map(len, ids), default=0)
    room = context - longest if context is not None else max_new_tokens
    if room < max_new_tokens:
        raise UserError(
            f"the longest prompt has {longest} tokens, and with"
            f" generation.max_new_tokens={max_new_tokens} more it is over the {context} that the"
            " model can take:"
            f" {f'set generation.max_new_tokens={room} or less, or ' if room > 0 else ''}leave long"
            " prompts out by data.max_prompt_tokens."
        )


def stop_ids(causal: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that end an answer.

    These are EOS of the tokenizer and of the model, and the chat template's end of turn.
    """
    found: set[int] = set()
    shape = causal.config.get_text_config()
    for given in (
        tokenizer.eos_token_id,
        shape.eos_token_id,
        causal.generation_config.eos_token_id,
    ):
        found |= set(given if isinstance(given, list | tuple) else [given])
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": MARK}, {"role": "assistant", "content": MARK}]
        after = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(MARK)[2]
        end = tokenizer(after.lstrip(), add_special_tokens=False).input_ids[:1]
        found |= set(end) & set(tokenizer.all_special_ids)
    return sorted(found - {None})


def _key(id: str, ids: Sequence[int], stops: Sequence[int], settings: Generation, seed: int) -> str:
    """Hash everything that an answer depends on besides the model."""
    drawn = (settings.temperature, seed) if settings.temperature else (0,)
    known = [id, ids, stops, settings.max_new_tokens, *drawn, *engine_record(settings).values()]
    return hashlib.sha256(json.dumps(known, allow_nan=False).encode()).hexdigest()


@contextmanager
def _answering(causal: PreTrainedModel) -> Iterator[None]:
    """Set eval mode, disable gradients, and restore `causal` afterwards.

    Also removes the generation defaults of the model's authors (such as a repetition penalty),
    which `generate` would otherwise apply without being asked.
    """
    was_training, defaults = causal.training, causal.generation_config
    causal.eval()
    causal.generation_config = GenerationConfig()
    try:
        with torch.inference_mode(), uncompiled(causal):
            yield
    finally:
        causal.generation_config = defaults
        causal.train(was_training)


def batch_answers(
    causal: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[PromptedPair],
    ids: Sequence[Sequence[int]],
    stops: Sequence[int],
    settings: Generation,
    seed: int,
) -> Generator[Mapping[int, Generated]]:
    """Generate the answers of one batch by plain `generate`, and yield them at once."""
    width = max(map(len, ids))
    padded = torch.full((len(ids), width), int(tokenizer.pad_token_id))
    mask = torch.zeros_like(padded)
    for number, row in enumerate(ids):
        padded[number, width - len(row) :] = torch.tensor(row)
        mask[number, width - len(row) :] = 1
    config = GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=False,
        use_cache=True,
        eos_token_id=list(stops) or None,
        pad_token_id=tokenizer.pad_token_id,
    )
    processors = LogitsProcessorList()
    if settings.temperature:
        draws = stacked_uniforms(seed, [prompt.id for prompt in prompts], settings.max_new_tokens)
        processors.append(Draw(draws.to(causal.device), settings.temperature, width))
    written = causal.generate(  # type: ignore[operator]
        input_ids=padded.to(causal.device),
        attention_mask=mask.to(causal.device),
        generation_config=config,
        logits_processor=processors,
    )
    rows = written[:, width:].tolist()
    yield {
        number: _answer_of(prompt, row, stops, tokenizer)
        for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True))
    }


def group_answers(
    causal: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[PromptedPair],
    ids: Sequence[Sequence[int]],
    stops: Sequence[int],
    settings: Generation,
    seed: int,
) -> Generator[Mapping[int, Generated]]:
    """Generate the answers of one group by continuous batching, and yield them as they finish.

    Ends early if this process is asked to stop.
    """
    draws = (
        stacked_uniforms(seed, [prompt.id for prompt in prompts], settings.max_new_tokens)
        if settings.temperature
        else None
    )
    written = continuous_tokens(
        causal,
        ids,
        stops,
        settings.max_new_tokens,
        settings.batch_size,
        draws,
        settings.temperature,
    )
    with closing(written):
        for found in written:
            yield {
                number: _answer_of(prompts[number], row, stops, tokenizer)
                for number, row in found.items()
            }


ENGINES = {"plain": batch_answers, "continuous": group_answers}


def _answer_of(
    prompt: PromptedPair, row: list[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Generated:
    """Decode the text up to the first stop token."""
    end = next((place for place, token in enumerate(row) if token in stops), None)
    text = str(
        tokenizer.decode(row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
    return Generated(prompt.id, prompt.user_id, text, len(row[:end]), finished=end is not None)
