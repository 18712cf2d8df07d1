"""Generate answers in this process: batched, left-padded, with a KV cache, reproducible by seed.

An answer depends on its own prompt, the settings and the seed, not on its batch. Greedy answers
equal those generated one at a time, and each sampled answer has its own random numbers. Logits do
differ between batches in their last bits, which can decide a near-tie differently. So batches are
fixed before the first one runs, and a resumed run uses the same ones.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from typing_extensions import override

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.generation.answers import Drafts, Generated
from mvp_align.modeling.compiled import uncompiled
from mvp_align.modeling.source import context_length
from mvp_align.runtime.preemption import raise_if_stop_requested
from mvp_align.schema import PromptedPair
from mvp_align.scoring.logps import causal_model
from mvp_align.scoring.tokens import encode, start_token

MARK = "mvp-align-answer"
"""Placeholder answer, to find out what the chat template puts after an answer."""


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
    is used. Its mode and config are restored. Generation ends at the model's EOS or at the chat
    template's end of turn. With several processes, each generates its share and all return
    everything. The batches, and so the answers, are the same as with one process.

    Raises UserError if a prompt plus `max_new_tokens` exceeds the model's context, and Preempted
    between two batches, with all finished answers kept in `drafts`.
    """
    drafts = drafts or Drafts(None)
    ids = [encode(prompt.prompt, tokenizer) or start_token(tokenizer) for prompt in prompts]
    check_room(causal_model(model).config, ids, settings.max_new_tokens)
    stops = stop_ids(causal_model(model), tokenizer)
    keys = [
        _key(prompt.id, row, stops, settings, seed)
        for prompt, row in zip(prompts, ids, strict=True)
    ]
    order = sorted(
        range(len(ids)), key=lambda number: (-len(ids[number]), ids[number], keys[number])
    )
    work = [
        order[first : first + settings.batch_size]
        for first in range(0, len(order), settings.batch_size)
    ]

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
    with bar, drafts, _answering(causal_model(model)) as causal:
        for number in range(passes):
            raise_if_stop_requested()  # the same number of calls in every process
            if number >= len(todo):
                continue
            batch = todo[number]
            asked, rows = [prompts[n] for n in batch], [ids[n] for n in batch]
            found = batch_answers(causal, tokenizer, asked, rows, stops, settings, seed)
            drafts.add({keys[n]: answer for n, answer in zip(batch, found, strict=True)})
            bar.update(len(batch))
    answers = {keys[number]: drafts.known[keys[number]] for batch in mine for number in batch}
    if state.num_processes > 1:
        answers = dict(gather_object(list(answers.items())))
    return [answers[name] for name in keys]


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
    known = [id, ids, stops, settings.max_new_tokens, *drawn]
    return hashlib.sha256(json.dumps(known, allow_nan=False).encode()).hexdigest()


@contextmanager
def _answering(causal: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Set eval mode, disable gradients, and restore `causal` afterwards.

    Also removes the generation defaults of the model's authors (such as a repetition penalty),
    which `generate` would otherwise apply without being asked.
    """
    was_training, defaults = causal.training, causal.generation_config
    causal.eval()
    causal.generation_config = GenerationConfig()
    try:
        with torch.inference_mode(), uncompiled(causal):
            yield causal
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
) -> list[Generated]:
    """Generate the answers of one batch, in order."""
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
        draws = np.stack([uniforms(seed, prompt.id, settings.max_new_tokens) for prompt in prompts])
        processors.append(
            Draw(torch.from_numpy(draws).to(causal.device), settings.temperature, width)
        )
    written = causal.generate(  # type: ignore[operator]
        input_ids=padded.to(causal.device),
        attention_mask=mask.to(causal.device),
        generation_config=config,
        logits_processor=processors,
    )
    rows = written[:, width:].tolist()
    return [
        _answer_of(prompt, row, stops, tokenizer) for prompt, row in zip(prompts, rows, strict=True)
    ]


def _answer_of(
    prompt: PromptedPair, row: list[int], stops: Sequence[int], tokenizer: PreTrainedTokenizerBase
) -> Generated:
    """Decode the text up to the first stop token."""
    end = next((place for place, token in enumerate(row) if token in stops), None)
    text = str(
        tokenizer.decode(row[:end], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )
    return Generated(prompt.id, prompt.user_id, text, len(row[:end]), finished=end is not None)


def uniforms(seed: int, id: str, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return a pair's own random numbers in [0, 1), one per token."""
    name = int.from_bytes(hashlib.sha256(id.encode()).digest()[:8])
    return np.random.default_rng([seed, name]).random(count)


class Draw(LogitsProcessor):
    """Sample one token per row by inverting the CDF of softmax(logits / temperature).

    `uniforms` [rows, new tokens] is float64; `width` is the length of the prompts. transformers'
    own sampling draws all rows of a batch from one generator, so an answer would depend on its
    batch.
    """

    def __init__(self, uniforms: Tensor, temperature: float, width: int) -> None:
        self.uniforms = uniforms
        self.temperature = temperature
        self.width = width

    @override
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        edges = (scores.double() / self.temperature).softmax(dim=-1).cumsum(dim=-1)
        place = self.uniforms[:, input_ids.shape[1] - self.width, None] * edges[:, -1:]
        drawn = torch.searchsorted(edges, place, right=True).clamp_(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
