"""Generate one stage's answers to a set, and measure answers and drift.

Used by recipes and by the command line.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from importlib.resources import files
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from mvp_align.config import Config, Prompt
from mvp_align.data.prompts import ChatTokenizer, render, render_prompts
from mvp_align.generation.answers import (
    Drafts,
    Generated,
    answers_path,
    drafts_folder,
    draw_record,
    engine_record,
    prompt_record,
    read_drafts,
    read_matching_answers,
    write_answers,
)
from mvp_align.generation.continuous import check_continuous_shape
from mvp_align.generation.local import check_room, generate_locally
from mvp_align.metrics.drift import kl_row, perplexity_row
from mvp_align.metrics.rows import Row
from mvp_align.metrics.spmr import (
    AnswerCosines,
    answer_rows,
    write_cosines,
)
from mvp_align.metrics.table import FORMS, SIMILARITIES
from mvp_align.modeling.adapters import ADAPTER
from mvp_align.modeling.embedder import cosines, embedder
from mvp_align.modeling.fingerprint import adapter_fingerprint
from mvp_align.modeling.packaged import loaded_id
from mvp_align.modeling.source import load_model_config
from mvp_align.runs.pair_files import PairValues, keep_values
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore, PreferencePair, PromptedPair
from mvp_align.scoring.cache import LogpCache
from mvp_align.scoring.kl import kl_to_base
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import (
    Answer,
    TokenizedPair,
    answer_ids,
    prompt_ids,
    start_token,
)


def needs_answers(config: Config) -> bool:
    return bool({"spmr", "paa"} & {*config.evals.metrics})


def generation_prompts(
    pairs: Sequence[PreferencePair], prompt: Prompt, tokenizer: ChatTokenizer
) -> list[PromptedPair]:
    """Return what the model is shown: a user turn if it has a chat template, else plain text."""
    return render_prompts(
        pairs, replace(prompt, chat=prompt.chat and bool(tokenizer.chat_template)), tokenizer
    )


def check_answerable(
    pairs: Sequence[PreferencePair], tokenizer: PreTrainedTokenizerBase, config: Config
) -> None:
    """Raise UserError before training for anything that would stop generation after it.

    That is a prompt that leaves no room for an answer, an engine that is not right for the model,
    or an embedder that is not available.
    """
    prompts = generation_prompts(pairs, config.generation.prompt, tokenizer)
    ids = [prompt_ids(prompt, tokenizer) for prompt in prompts]
    shape, room = load_model_config(config.model), config.generation.max_new_tokens
    check_room(shape, ids, room)
    if config.generation.engine == "continuous":
        check_continuous_shape(shape, max(map(len, ids), default=0) + room)
    embedder()


def answer_set(
    stage: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    set_name: str,
    pairs: Sequence[PreferencePair],
    data_sha256: str,
    run: RunFolder,
    config: Config,
) -> list[Generated]:
    """Return answers to `pairs`, in order, and write them to `answers/`.

    Reuses existing answers, also those of an interrupted process, and generates the missing ones.
    `data_sha256` is the hash of the file that the pairs come from. Raises UserError if existing
    answers were generated with other settings, and Preempted.
    """
    path = answers_path(run.path, stage, set_name)
    how = _made_with(model, tokenizer, data_sha256, config)
    known = broadcast_from_main(
        partial(read_matching_answers, path, how, [pair.id for pair in pairs])
    )
    missing = [pair for pair in pairs if pair.id not in known]
    if missing:
        drafts = Drafts(drafts_folder(path), broadcast_from_main(partial(read_drafts, path)))
        prompts = generation_prompts(missing, config.generation.prompt, tokenizer)
        label = f"{stage} {set_name}, answers"
        found = generate_locally(
            model, tokenizer, prompts, config.generation, config.seed, drafts=drafts, label=label
        )
        known |= {answer.id: answer for answer in found}
        if run.writes:
            how |= draw_record(config.generation, config.seed)
            write_answers(path, [known[pair.id] for pair in pairs], how)
            drafts.discard()
    return [known[pair.id] for pair in pairs]


def _made_with(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data_sha256: str, config: Config
) -> dict[str, Any]:
    """Return everything that answers depend on."""
    generation = config.generation
    template = (
        tokenizer.get_chat_template()
        if generation.prompt.chat and tokenizer.chat_template
        else None
    )
    tuned = isinstance(model, PeftModel)
    return {
        "model": loaded_id(config.model),
        "adapter": adapter_fingerprint(model, ADAPTER) if tuned else None,
        "data": data_sha256,
        "prompt": prompt_record(generation.prompt),
        "chat_template": sha256(template.encode()).hexdigest() if template else None,
        "temperature": generation.temperature,
        "max_new_tokens": generation.max_new_tokens,
        "seed": config.seed,
        **engine_record(generation),
    }


def answer_cosines(
    pairs: Sequence[PreferencePair], answers: Sequence[Generated], prompt: Prompt
) -> list[AnswerCosines]:
    """Compare each answer with its pair's references by MiniLM.

    `answers` and `pairs` are in one order.
    """
    texts = [answer.answer.strip() for answer in answers]
    shown = [render(pair, prompt) for pair in pairs]
    with_prompt = [before + text for before, text in zip(shown, texts, strict=True)]
    references = [pair.chosen for pair in pairs], [pair.rejected for pair in pairs]
    fitting_with_prompt = [before + pair.chosen for before, pair in zip(shown, pairs, strict=True)]
    # one call, so that each distinct text is embedded once
    found = cosines(
        [*texts, *texts, *with_prompt], [*references[0], *references[1], *fitting_with_prompt]
    )
    return [
        AnswerCosines(
            id=answer.id,
            user_id=answer.user_id,
            chosen=found[number],
            rejected=found[len(pairs) + number],
            chosen_with_prompt=found[2 * len(pairs) + number],
            empty=answer.empty,
            finished=answer.finished,
        )
        for number, answer in enumerate(answers)
    ]


def answered_rows(
    set_name: str,
    pairs: Sequence[PreferencePair],
    answers: Mapping[str, Sequence[Generated]],
    prompt: Prompt,
    run: RunFolder,
) -> list[Row]:
    """Return SPMR and form of both stages' `answers` to one set, with the tuned stage's lifts.

    Writes `cosines/`. A pair that a stage has no answer to is missing from that stage's rows and
    from the lifts.
    """
    by_id = {pair.id: pair for pair in pairs}
    found: dict[str, list[AnswerCosines]] = {}
    for stage, texts in answers.items():
        found[stage] = broadcast_from_main(
            partial(answer_cosines, [by_id[text.id] for text in texts], texts, prompt)
        )
        if run.writes:
            write_cosines(
                run.path / "cosines" / answers_path(run.path, stage, set_name).name, found[stage]
            )
            _keep_similarities(run.values(stage, set_name), found[stage])
    return [
        row
        for stage, near in found.items()
        for metrics in (FORMS, SIMILARITIES)
        for row in answer_rows(
            stage,
            set_name,
            metrics,
            near,
            found.get("base") if stage == "tuned" else None,
        )
    ]


def _keep_similarities(path: Path, found: Sequence[AnswerCosines]) -> None:
    """Save SPMR per pair, so that `mvp-align stats` can break it down."""
    values = {metric.name: metric.of(found) for metric in SIMILARITIES}
    keep_values(
        path,
        list(values),
        [
            PairValues(
                one.id, one.user_id, {metric: column[place] for metric, column in values.items()}
            )
            for place, one in enumerate(found)
        ],
    )


def kl_rows(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    set_name: str,
    pairs: Sequence[PreferencePair],
    answers: Sequence[Generated],
    config: Config,
) -> list[Row]:
    """Return `damage/kl` on the tuned model's answers, tokenised again after their prompts."""
    prompts = generation_prompts(pairs, config.generation.prompt, tokenizer)
    texts = [
        answer_ids(prompt, answer.answer, tokenizer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    starts = [len(prompt_ids(prompt, tokenizer)) for prompt in prompts]
    worded = [number for number, ids in enumerate(texts) if len(ids) > starts[number] > 0]
    tokens = [Answer(tuple(texts[number]), starts[number]) for number in worded]
    kls = kl_to_base(
        model, tokens, batch_size=config.evals.batch_size, label=f"{set_name}, KL to the base"
    )
    return kl_row(set_name, kls, [answers[number].user_id for number in worded])


def _neutral_text() -> list[str]:
    """Return the passages of data/neutral.txt.

    They were written for this project (CC-BY-4.0, like the bundled sample).
    """
    text = (files("mvp_align.data") / "neutral.txt").read_text(encoding="utf-8")
    return [passage.strip() for passage in text.split("\n\n") if passage.strip()]


def perplexity(
    stage: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    cache: LogpCache | None = None,
) -> Row:
    """Compute perplexity on the neutral text.

    Each passage is scored separately after a BOS (or EOS) token, which does not count.
    """
    passages = []
    for number, text in enumerate(_neutral_text()):
        ids = start_token(tokenizer) + tokenizer(text, add_special_tokens=False).input_ids
        answer = Answer(tuple(ids), 1)
        # equal answers are scored only once
        passages.append(TokenizedPair(str(number), str(number), answer, answer))
    scores: list[PairScore] = score_pairs(
        model, passages, batch_size=batch_size, label=f"{stage} neutral", cache=cache
    )
    return perplexity_row(stage, scores)
