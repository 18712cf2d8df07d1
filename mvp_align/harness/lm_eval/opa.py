"""Functions for `mvp_opa.yaml`, which count tokens because lm-eval returns only summed log-probs.

lm-eval's `loglikelihood` tokenises prompt and answer together with the tokenizer's special tokens
and scores what follows `len(tokenize(prompt))`, as OPA does, with three exceptions. If an answer's
first characters merge with the prompt's last token, the model sees the prompt's own tokens instead
of the merged one. Whitespace at the end of a prompt counts as part of the answer. And a closing EOS
is kept. Pairs with different tokens than ours are left out and counted.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from mvp_align.config import Data
from mvp_align.errors import UserError
from mvp_align.harness.records import opa_of, read_prompted
from mvp_align.metrics.intervals import clustered_error
from mvp_align.modeling.source import context_length
from mvp_align.schema import PairScore, PromptedPair
from mvp_align.scoring.tokens import TokenizedPair, tokenize_pairs

logger = logging.getLogger(__name__)


def load(
    pretrained: str | None = None,
    tokenizer: str | None = None,
    revision: str | None = None,
    data: str = "sample:test.json",
    format: str = "mvpbench",
    prompt: str = "paper",
    **_: Any,
) -> dict[str, Dataset]:
    """Return the `test` split: one row per pair, with both answers and their token counts.

    lm-eval passes its --model_args and --metadata together; those in `_` do not concern the data.
    Raises UserError if no tokenizer is named, the data cannot be read, or no pair is left.
    """
    name = tokenizer or pretrained
    if not isinstance(name, str):
        raise UserError(
            "mvp_opa counts tokens: name the model, --model_args pretrained=..., or tokenizer=..."
            " beside it."
        )
    counted = AutoTokenizer.from_pretrained(name, revision=revision)
    shape = AutoConfig.from_pretrained(pretrained, revision=revision) if pretrained else None
    # lm-eval would truncate the prompt
    longest = min(Data.max_tokens, (shape and context_length(shape)) or Data.max_tokens)
    texts = read_prompted(data, format, prompt)
    rows = []
    for text, pair in zip(texts, tokenize_pairs(texts, counted).pairs, strict=True):
        reason = score_difference_reason(text, pair, counted, longest)
        if reason:
            logger.warning("mvp_opa: pair %s left out: %s", pair.id, reason)
        else:
            rows.append(row_of(text, pair))
    logger.warning("mvp_opa: %d of %d pairs of %s, prompt %s", len(rows), len(texts), data, prompt)
    if not rows:
        raise UserError(
            f"mvp_opa: none of {len(texts)} pairs of {data} can be scored; the reasons stand above."
        )
    return {"test": Dataset.from_list(rows)}


def score_difference_reason(
    text: PromptedPair, pair: TokenizedPair, tokenizer: PreTrainedTokenizerBase, longest: int
) -> str:
    """Return why lm-eval's score of a pair would differ from OPA's, or "".

    `longest` is the limit of tokens for prompt plus answer.
    """
    if pair.prompt_tokens > Data.max_prompt_tokens or pair.longest > longest:
        return f"over {Data.max_prompt_tokens} prompt tokens or {longest} in all"
    if text.prompt != text.prompt.rstrip():
        return "lm-eval would count the white space at the end of its prompt to the answer"
    prompt_ids = tokenizer.encode(text.prompt)
    for answer, ids in ((text.chosen, pair.chosen), (text.rejected, pair.rejected)):
        if tokenizer.encode(text.prompt + answer) != list(ids.ids):
            return "lm-eval would tokenise it otherwise (a closing EOS)"
        if prompt_ids != list(ids.ids[: ids.start]):
            return (
                "an answer starts inside the prompt's last token, which lm-eval would not show"
                " merged"
            )
    return ""


def row_of(text: PromptedPair, pair: TokenizedPair) -> dict[str, Any]:
    return {
        "id": text.id,
        "user_id": text.user_id,
        "prompt": text.prompt,
        "chosen": text.chosen,
        "rejected": text.rejected,
        "chosen_tokens": pair.chosen.tokens,
        "rejected_tokens": pair.rejected.tokens,
    }


def answers(row: dict[str, Any]) -> list[str]:
    return [row["chosen"], row["rejected"]]


def process_results(row: dict[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """Compute a pair's metrics. `results` are (summed log-prob in nats, greedy) of both answers."""
    (chosen, _), (rejected, _) = results
    score = PairScore(
        row["id"], row["user_id"], chosen, rejected, row["chosen_tokens"], row["rejected_tokens"]
    )
    found = opa_of(score)
    return {**found, "acc@0_se_by_user": (found["acc@0"], row["user_id"])}


def average(values: Sequence[float]) -> float:
    """Return the mean.

    lm-eval's own mean would add a standard error that treats every answer as another user's.
    """
    return float(np.mean(values))


def error_by_user(values: Sequence[tuple[float, str]]) -> float | str:
    """Return the standard error of acc@0, clustered by user.

    With only one user, it is lm-eval's own `N/A`.
    """
    right, users = zip(*values, strict=True)
    error, _ = clustered_error(np.asarray(right, dtype=np.float64), users)
    return "N/A" if error is None else error
