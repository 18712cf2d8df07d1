"""First-generation Qwen's tokenizer, read from its table of ranks instead of run from its code.

`qwen.tiktoken` has a line a token: its bytes in base64, and its rank, which is its id. tiktoken
joins, of all adjacent pairs whose bytes together are a token, the one of the lowest rank, the
leftmost of equals, until no pair is left. The special tokens follow the ranks.
"""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from mvp_align.errors import UserError

RANKS_FILE = "qwen.tiktoken"
RANKS = 151_643
"""Tokens of the published file. Qwen's code numbers the special tokens from here on."""
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, TURN_START, TURN_END, *(f"<|extra_{n}|>" for n in range(205)))
SPECIAL_IDS = {token: RANKS + number for number, token in enumerate(SPECIAL)}
CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""The turns that Qwen's `chat()` builds, with its system prompt where none is given."""


def read_ranks(path: Path) -> dict[bytes, int]:
    """Return token -> rank. Raises UserError if the file is missing, broken or not Qwen's size."""
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    except FileNotFoundError:
        raise UserError(
            f"{path.parent} has no {RANKS_FILE}, the tokenizer of first-generation Qwen."
        ) from None
    except (OSError, ValueError, binascii.Error) as error:
        raise UserError(
            f"{path} is no table of tokens and ranks ({error}): fetch it again."
        ) from None
    if len(lines) != RANKS:
        raise UserError(
            f"{path} has {len(lines):,} tokens, and Qwen's has {RANKS:,}: it is cut off, or its"
            " vocabulary was extended, which cannot be converted."
        )
    return ranks


def qwen_tokenizer(
    ranks: Mapping[bytes, int], *, chat: bool, longest: int
) -> PreTrainedTokenizerBase:
    """Build the fast tokenizer with the ids that Qwen's code gives.

    Qwen2's has the same normal form (NFC) and cuts text by the same pattern. Special tokens are
    recognised in any text, as by default in Qwen's code, also where a U+0338 follows, which NFC
    makes one sign with their `>` there.

    `longest` is the model's context in tokens. With `chat`, a turn's end is EOS and there is a chat
    template. Raises UserError if the ranks are not those of a byte-level BPE.
    """
    tokenizer = Qwen2Tokenizer(
        vocab={_spelt(token): rank for token, rank in ranks.items()},
        merges=merges_of(ranks),  # type: ignore[arg-type] # pairs, as BPE takes them
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        model_max_length=longest,
    )
    tokenizer.add_tokens([AddedToken(token, special=True) for token in SPECIAL])
    if chat:
        tokenizer.eos_token = TURN_END
        tokenizer.chat_template = CHATML
    return tokenizer


def merges_of(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """Return the merges of a BPE that joins what tiktoken joins, in the order of ranks.

    One merge a token is enough: when tiktoken reaches rank r, the bytes of that token lie as
    joining by lower ranks alone leaves them, whatever stands around them. That is two tokens, or
    the table is not a BPE's, and UserError is raised.
    """
    if sorted(ranks.values()) != [*range(len(ranks))]:
        raise UserError(f"{RANKS_FILE}: the ranks are not 0, 1, 2 and so on, each once.")
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise UserError(f"{RANKS_FILE}: {len(missing)} of the 256 single bytes are no tokens.")
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        if len(token) == 1:
            continue
        parts = _joined(token, ranks, below=rank)
        if len(parts) != 2:
            raise UserError(
                f"{RANKS_FILE}: token {rank} ({token!r}) is no pair of tokens before it, so this is"
                " no table of a byte-pair encoding."
            )
        merges.append((_spelt(parts[0]), _spelt(parts[1])))
    return merges


def _joined(text: bytes, ranks: Mapping[bytes, int], below: int) -> list[bytes]:
    """Join the bytes of `text` by all ranks under `below`."""
    parts = [text[place : place + 1] for place in range(len(text))]
    while len(parts) > 1:
        rank, place = min(
            (ranks.get(parts[place] + parts[place + 1], below), place)
            for place in range(len(parts) - 1)
        )
        if rank >= below:
            break
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return parts


_LETTERS = bytes_to_unicode()


def _spelt(token: bytes) -> str:
    """Spell bytes in the letters of GPT-2's byte-level alphabet."""
    return "".join(_LETTERS[byte] for byte in token)
