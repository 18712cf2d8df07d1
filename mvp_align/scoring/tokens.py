"""Tokenise pairs, and mark which tokens are context and which are scored.

The rule is the benchmark's (DiverValue-Bench, OPA script): prompt and answer are tokenised
together, with the tokenizer's default special tokens and no EOS. The answer's tokens start at
position `len(tokenize(prompt))`.

    text       <s> User profile ... \\nQuestion: why ?  | Because ... end .
    position    0   1   ...                       p-1  |    p    ...   n-1
    scored by                                     hidden state at p-1 ... n-2

Texts that a chat template wrote hold their special tokens, the end of the answer's turn among them.
There the answer starts where its token ids and the prompt's part, which is TRL's rule.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mvp_align.data.formats.turns import shared_length
from mvp_align.errors import UserError
from mvp_align.schema import PromptedPair


@dataclass(frozen=True, slots=True)
class Answer:
    """Token ids of a prompt (`ids[:start]`) and an answer (`ids[start:]`)."""

    ids: tuple[int, ...]
    start: int

    @property
    def tokens(self) -> int:
        return len(self.ids) - self.start


@dataclass(frozen=True, slots=True)
class TokenizedPair:
    id: str
    user_id: str
    chosen: Answer
    rejected: Answer

    @property
    def prompt_tokens(self) -> int:
        return max(self.chosen.start, self.rejected.start)

    @property
    def longest(self) -> int:
        """Length in tokens of the prompt with the longer answer."""
        return max(len(self.chosen.ids), len(self.rejected.ids))


def to_common_length(pair: TokenizedPair) -> TokenizedPair:
    """Return the pair with its longer answer cut to as many tokens as the shorter one has."""
    tokens = min(pair.chosen.tokens, pair.rejected.tokens)
    chosen, rejected = (
        Answer(answer.ids[: answer.start + tokens], answer.start)
        for answer in (pair.chosen, pair.rejected)
    )
    return TokenizedPair(pair.id, pair.user_id, chosen, rejected)


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Tokenised pairs, and the number of answers whose first token merges with the prompt.

    `merged` counts answers whose first characters share a token with the prompt's last ones. The
    benchmark's rule scores those characters with neither. If the count is high, end the prompt on a
    token boundary.
    """

    pairs: list[TokenizedPair]
    merged: int


def tokenize_pairs(pairs: Iterable[PromptedPair], tokenizer: PreTrainedTokenizerBase) -> Tokenized:
    """Tokenise every pair, in order.

    An empty prompt becomes one BOS (or EOS) token, so that the answer's first token has a context.
    Raises UserError if an answer has no token of its own.
    """
    tokenized, merged = [], 0
    for pair in pairs:
        asked = prompt_ids(pair, tokenizer)
        answered = [answer_ids(pair, text, tokenizer) for text in (pair.chosen, pair.rejected)]
        start = len(asked) if pair.prompt else 1
        if pair.prompt:
            merged += sum(ids[:start] != asked for ids in answered)
        if pair.turns and pair.prompt:
            start = shared_length(asked, *answered)
        for name, ids in zip(("chosen", "rejected"), answered, strict=True):
            if len(ids) <= start:
                raise UserError(
                    f"pair {pair.id}: the {name} answer {getattr(pair, name)[:40]!r} adds no token"
                    f" to the prompt's {start}: it cannot be scored. Remove the record, or end the"
                    " prompt on another character."
                )
        answers = (Answer(tuple(ids), start) for ids in answered)
        tokenized.append(TokenizedPair(pair.id, pair.user_id, *answers))
    return Tokenized(tokenized, merged)


def prompt_ids(pair: PromptedPair, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids of a pair's prompt, as a model is shown it. Raises UserError as
    `encode`."""
    return _as_written(pair.prompt, tokenizer) if pair.turns else encode(pair.prompt, tokenizer)


def answer_ids(pair: PromptedPair, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a pair's prompt, or one token in place of an empty one, and of an answer.

    Raises UserError as `encode`.
    """
    if not pair.prompt:
        return start_token(tokenizer) + _as_written(text, tokenizer)
    if pair.turns:
        return _as_written(pair.prompt + text, tokenizer)
    return encode(pair.prompt + text, tokenizer)


def _as_written(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def encode(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return ids with the default special tokens, without a trailing EOS or a second BOS.

    Raises UserError if the text itself starts with BOS.
    """
    ids: list[int] = tokenizer(text).input_ids
    if ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(tokenizer.eos_token)):
        ids = ids[:-1]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise UserError(
            f"the prompt {text[:60]!r} starts with the text of the BOS token that the tokenizer"
            " adds by itself: remove it from the prompt."
        )
    return ids


def start_token(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    token = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if token is None:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has neither BOS nor EOS: an answer has no"
            " context."
        )
    return [int(token)]
