"""A converted tokenizer gives the ids that Qwen's code gives, which runs tiktoken on NFC text."""

import base64
import unicodedata
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiktoken
from first_qwen import RANKS, all_ranks, trained_ranks
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mvp_align.data.prompts import chat_turn
from mvp_align.errors import UserError
from mvp_align.modeling.qwen1_tokenizer import merges_of, qwen_tokenizer, read_ranks

DOCS = [path.read_text("utf-8") for path in sorted((Path(__file__).parents[2]).glob("docs/*.md"))]
QWEN_PATTERN = (
    r"""(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"""
    r"""|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{n}|>" for n in range(205))]

WORDS = st.sampled_from(
    [
        *SPECIAL[:4], "<|extra_204|>", "<|extra_205|>", "<|im_", "Question", "the", "value", "'S",
        "'\u017f", "'ll", " ", "   ", "\n", "\r\n", "\t", "\u00a0", "\u2028", "\u3000", "12",
        "\u0663", "\u00bd", "e\u0301", "\u00e9", "\u1112\u1161\u11ab", "\u4f60\u597d",
        "\U0001f600\U0001f3fd", "\u0645\u0631\u062d\u0628\u0627", "?!", "--", "_", "\u200d", "\0",
    ]
)  # fmt: skip
TEXTS = st.lists(st.one_of(WORDS, st.text(max_size=4)), max_size=24).map("".join)


@pytest.fixture(scope="module")
def ranks() -> dict[bytes, int]:
    return all_ranks(DOCS)


@pytest.fixture(scope="module")
def qwen(ranks: Mapping[bytes, int]) -> tiktoken.Encoding:
    """As tokenization_qwen.py builds it."""
    special = {token: 151643 + number for number, token in enumerate(SPECIAL)}
    return tiktoken.Encoding(
        "Qwen", pat_str=QWEN_PATTERN, mergeable_ranks=dict(ranks), special_tokens=special
    )


@pytest.fixture(scope="module")
def converted(
    ranks: Mapping[bytes, int], tmp_path_factory: pytest.TempPathFactory
) -> PreTrainedTokenizerBase:
    """As it is loaded from its folder."""
    folder = tmp_path_factory.mktemp("tokenizer")
    qwen_tokenizer(ranks, chat=True, longest=64).save_pretrained(folder)
    loaded: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    return loaded


def qwen_ids(encoding: tiktoken.Encoding, text: str) -> list[int]:
    return encoding.encode(unicodedata.normalize("NFC", text), allowed_special="all")


@settings(max_examples=2000, deadline=None)
@given(text=TEXTS)
@example(text="a<|im_end|>\n<|im_start|>user\n  two  spaces ")
def test_ids_are_those_of_qwens_code(
    text: str, qwen: tiktoken.Encoding, converted: PreTrainedTokenizerBase
) -> None:
    text = text.replace("\u0338", "")  # behind a special token: see the docstring
    ids = converted(text).input_ids
    assert ids == qwen_ids(qwen, text)
    assert converted.decode(ids) == qwen.decode(ids)


def test_real_texts_and_characters_of_every_kind(
    qwen: tiktoken.Encoding, converted: PreTrainedTokenizerBase
) -> None:
    """One code point in 61, which is prime, in the middle of a sentence."""
    signs = [chr(code) for code in range(0, 0x110000, 61) if not 0xD800 <= code < 0xE000]
    texts = [*DOCS, *(f"Question 1{sign}the 2{sign}{sign} in{sign}\n's" for sign in signs)]
    assert len(texts) > 18_000
    assert converted(texts).input_ids == [qwen_ids(qwen, text) for text in texts]


def test_one_sign_alone_is_joined_with_the_end_of_a_special_token() -> None:
    """The exception that the test above leaves out."""
    signs = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    joined = [sign for sign in signs if len(unicodedata.normalize("NFC", f">{sign}")) == 1]
    assert joined == ["\u0338"]


def test_special_tokens_have_the_ids_of_qwens_code(converted: PreTrainedTokenizerBase) -> None:
    assert len(converted) == 151_851
    assert converted.convert_tokens_to_ids(SPECIAL) == [*range(151_643, 151_851)]
    assert (converted.eos_token, converted.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert converted.bos_token is None
    assert converted("a").input_ids == converted("a", add_special_tokens=False).input_ids


def test_a_chat_turn_is_what_qwens_chat_builds(
    qwen: tiktoken.Encoding, converted: PreTrainedTokenizerBase
) -> None:
    """make_context of qwen_generation_utils.py puts the ids of the parts in a row."""
    start, end, line = [151644], [151645], qwen.encode("\n")

    def turn(role: str, content: str) -> list[int]:
        return [*start, *qwen.encode(role), *line, *qwen.encode(content)]

    asked = "What do you make of 3 cats?"
    expected = [
        *turn("system", "You are a helpful assistant."), *end, *line,
        *turn("user", asked), *end, *line,
        *start, *qwen.encode("assistant"), *line,
    ]  # fmt: skip
    assert converted(chat_turn(asked, converted)).input_ids == expected
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": asked}]
    text = str(converted.apply_chat_template(own, tokenize=False))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")
    assert "helpful" not in text


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet="abc ", max_size=40))
def test_runs_of_few_letters_are_joined_from_the_left(text: str) -> None:
    """Where most pairs tie, and tokens overlap."""
    ranks = trained_ranks(["aab abab aaaa", "abc  cab aaa", "aaaaaaab caba"], 290)
    encoding = tiktoken.Encoding(
        "few", pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={}
    )
    assert qwen_tokenizer(ranks, chat=False, longest=64)(text).input_ids == encoding.encode(text)


BYTES = {bytes([byte]): byte for byte in range(256)}


@pytest.mark.parametrize(
    ("ranks", "said"),
    [
        (BYTES | {b"ab": 257}, "the ranks are not 0, 1, 2"),
        ({token: rank for token, rank in BYTES.items() if rank < 255}, "1 of the 256 single bytes"),
        (BYTES | {b"abc": 256}, r"token 256 \(b'abc'\) is no pair of tokens before it"),
        (BYTES | {b"bc": 256, b"ab": 257, b"abcd": 258}, r"token 258 .* is no pair"),
    ],
)
def test_a_table_that_is_no_bpe_is_refused(ranks: dict[bytes, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        merges_of(ranks)


def test_a_table_is_read_whole_or_refused(ranks: Mapping[bytes, int], tmp_path: Path) -> None:
    path = tmp_path / "qwen.tiktoken"
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in ranks.items()]
    path.write_text("".join(lines))
    assert read_ranks(path) == ranks and len(ranks) == RANKS
    for content, said in (
        ("".join(lines[:-1]), "has 151,642 tokens, and Qwen's has 151,643"),
        ("".join(lines) + "YWJj 151851\n", "has 151,644 tokens"),
        ("".join(lines[:9]) + "YWJ", "no table of tokens and ranks"),
        ("version https://git-lfs.github.com/spec/v1\n", "no table of tokens and ranks"),
    ):
        path.write_text(content)
        with pytest.raises(UserError, match=said):
            read_ranks(path)
    with pytest.raises(UserError, match=r"has no qwen\.tiktoken"):
        read_ranks(tmp_path / "elsewhere" / "qwen.tiktoken")
