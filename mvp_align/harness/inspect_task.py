"""`mvp_opa`, a task of Inspect: `inspect eval mvp_align/mvp_opa --model hf/ID`.

Inspect's models generate, and do not report log-probs of given answers. So this task generates
nothing: its scorer takes the transformers model that Inspect's `hf` provider loaded, and scores the
two answers with our own code. Other providers are rejected, because a multiple-choice question
about the two answers would measure something else.
"""

import anyio
from anyio.to_thread import run_sync
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mvp_align.config import Data
from mvp_align.errors import UserError
from mvp_align.harness.records import opa_of, read_prompted
from mvp_align.modeling.source import context_length
from mvp_align.schema import PairScore, PromptedPair
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import tokenize_pairs

BY_USER = [mean(), stderr(cluster="user_id")]


@task
def mvp_opa(
    data: str = "sample:test.json", format: str = "mvpbench", prompt: str = "paper"
) -> Task:
    """Return a task with one sample per pair: the rendered prompt, and the chosen answer as target.

    Options: `-T data=PATH -T format=pairs -T prompt=question`. Raises UserError if the data cannot
    be read.
    """
    samples = [
        Sample(
            input=text.prompt,
            target=text.chosen,
            id=text.id,
            metadata={"user_id": text.user_id, "rejected": text.rejected},
        )
        for text in read_prompted(data, format, prompt)
    ]
    return Task(dataset=MemoryDataset(samples, name=data), solver=nothing_generated(), scorer=opa())


@solver
def nothing_generated() -> Solver:
    async def solve(state: TaskState, generate: Generate) -> TaskState:
        return state

    return solve


@scorer(metrics={"acc@0": BY_USER, "opa": BY_USER, "margin": BY_USER})
def opa() -> Scorer:
    one_at_a_time = anyio.Lock()

    async def score(state: TaskState, target: Target) -> Score | None:
        model, tokenizer = local_model()
        text = PromptedPair(
            str(state.sample_id),
            state.metadata["user_id"],
            state.input_text,
            target.text,
            state.metadata["rejected"],
        )
        async with one_at_a_time:
            found = await run_sync(score_text, text, model, tokenizer)
        if found is None:
            return None
        sums = {"chosen_logp": found.chosen_logp, "rejected_logp": found.rejected_logp}
        tokens = {"chosen_tokens": found.chosen_tokens, "rejected_tokens": found.rejected_tokens}
        return Score(value={**opa_of(found)}, metadata={**sums, **tokens})

    return score


def local_model() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return what the `hf` provider loaded. Raises UserError for other providers."""
    api = get_model().api
    model, tokenizer = getattr(api, "model", None), getattr(api, "tokenizer", None)
    if not isinstance(model, PreTrainedModel) or not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            f"OPA needs the log-probs of given answers, and {type(api).__name__} has no weights"
            " here to compute them with: use Inspect's hf provider, --model hf/ID or --model"
            " hf/local -M model_path=FOLDER."
        )
    return model, tokenizer


def score_text(
    text: PromptedPair, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> PairScore | None:
    """Score a pair, or return None if it exceeds the token limits or the model's context.

    Inspect counts those as unscored.
    """
    (pair,) = tokenize_pairs([text], tokenizer).pairs
    longest = min(Data.max_tokens, context_length(model.config) or Data.max_tokens)
    if pair.prompt_tokens > Data.max_prompt_tokens or pair.longest > longest:
        return None
    return score_pairs(model, [pair])[0]
