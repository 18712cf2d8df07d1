"""The benchmark's token rule with SmolLM2's tokenizer (no BOS) and LLaMA-2's (BOS, merges)."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mvp_align.errors import UserError
from mvp_align.schema import PromptedPair
from mvp_align.scoring.tokens import Answer, TokenizedPair, encode, tokenize_pairs

PROMPT = "User profile: Age: 25-34 years old.\nQuestion: why is the sky blue?"


@pytest.fixture(scope="module")
def smollm2(compose) -> PreTrainedTokenizerBase:
    from mvp_align.modeling.source import load_tokenizer, packaged_gguf

    model = compose().model
    if packaged_gguf(model) is None:
        pytest.skip("the demo model's package is not installed: `make setup`")
    return load_tokenizer(model)


@pytest.fixture(scope="module")
def llama2(shared: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared / "data" / "llama2_tokenizer")


def of(prompt: str, chosen: str, rejected: str = "No") -> PromptedPair:
    return PromptedPair("p1", "u1", prompt, chosen, rejected)


def one(pair: PromptedPair, tokenizer: PreTrainedTokenizerBase) -> TokenizedPair:
    return tokenize_pairs([pair], tokenizer).pairs[0]


def check_rule(pair: PromptedPair, tokenizer: PreTrainedTokenizerBase) -> None:
    """Check the rule with a second implementation, from the tokenizer alone."""
    prompt_ids = tokenizer(pair.prompt).input_ids
    joined = [tokenizer(pair.prompt + text).input_ids for text in (pair.chosen, pair.rejected)]
    assume(all(len(ids) > len(prompt_ids) for ids in joined))
    tokenized = tokenize_pairs([pair], tokenizer)
    answers = (tokenized.pairs[0].chosen, tokenized.pairs[0].rejected)
    assert [list(answer.ids) for answer in answers] == joined
    assert [answer.start for answer in answers] == [len(prompt_ids)] * 2
    assert [answer.tokens for answer in answers] == [len(ids) - len(prompt_ids) for ids in joined]
    assert tokenized.merged == sum(ids[: len(prompt_ids)] != prompt_ids for ids in joined)


def test_llama2_tokens_are_the_real_ones(llama2: PreTrainedTokenizerBase) -> None:
    assert encode("hello world", llama2) == [1, 22172, 3186]


def test_llama2_has_one_bos_and_no_eos(llama2: PreTrainedTokenizerBase) -> None:
    pair = one(of(PROMPT, "Education", "It is"), llama2)
    for answer in (pair.chosen, pair.rejected):
        assert answer.ids[0] == llama2.bos_token_id == 1
        assert answer.ids.count(1) == 1
        assert llama2.eos_token_id not in answer.ids


def test_smollm2_adds_neither_bos_nor_eos(smollm2: PreTrainedTokenizerBase) -> None:
    pair = one(of(PROMPT, "Light scatters.", "It is"), smollm2)
    assert smollm2.decode(pair.chosen.ids) == PROMPT + "Light scatters."
    assert not {smollm2.bos_token_id, smollm2.eos_token_id} & {*pair.chosen.ids, *pair.rejected.ids}


def test_an_eos_that_the_tokenizer_adds_is_taken_off(
    llama2: PreTrainedTokenizerBase, shared: Path
) -> None:
    from tokenizers.processors import TemplateProcessing

    closing = AutoTokenizer.from_pretrained(shared / "data" / "llama2_tokenizer")
    closing.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert closing("hello world").input_ids == [1, 22172, 3186, 2]  # else this test shows nothing
    assert one(of(PROMPT, "Education"), closing) == one(of(PROMPT, "Education"), llama2)


def test_an_eos_that_the_text_ends_on_stays(llama2: PreTrainedTokenizerBase) -> None:
    assert encode("hello</s>", llama2)[-1] == 2


def test_llama2_splits_cleanly_after_the_prompt(llama2: PreTrainedTokenizerBase) -> None:
    tokenized = tokenize_pairs([of(PROMPT, "Education", "Because")], llama2)
    chosen = tokenized.pairs[0].chosen
    assert tokenized.merged == 0
    assert list(chosen.ids[: chosen.start]) == llama2(PROMPT).input_ids
    assert list(chosen.ids[chosen.start :]) == [29923, 29392]  # "E", "ducation"


def test_llama2_merges_across_the_boundary_and_it_is_counted(
    llama2: PreTrainedTokenizerBase,
) -> None:
    tokenized = tokenize_pairs(
        [of(PROMPT, "?!", "Education"), of(PROMPT, "Because", "Education")], llama2
    )
    chosen, rejected = tokenized.pairs[0].chosen, tokenized.pairs[0].rejected
    assert tokenized.merged == 1
    prompt_ids = llama2(PROMPT).input_ids
    assert chosen.start == rejected.start == len(prompt_ids)
    assert chosen.ids[chosen.start - 1] == 8773 != prompt_ids[-1]  # "??" took the prompt's "?"
    assert chosen.ids[chosen.start :] == (29991,)  # "!" alone is scored


def test_counts_of_a_pair(llama2: PreTrainedTokenizerBase) -> None:
    pair = TokenizedPair("p", "u", Answer((1, 5, 6, 7), 2), Answer((1, 5, 6, 7, 8), 3))
    assert (pair.chosen.tokens, pair.rejected.tokens, pair.prompt_tokens, pair.longest) == (
        2,
        2,
        3,
        5,
    )


def test_two_bos_are_refused(llama2: PreTrainedTokenizerBase) -> None:
    with pytest.raises(UserError, match=r"starts with the text of the BOS token .*remove it"):
        tokenize_pairs([of("<s>" + PROMPT, "Education")], llama2)


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_an_answer_without_a_token_of_its_own_is_refused(
    llama2: PreTrainedTokenizerBase, side: str
) -> None:
    prompt = "why ?"
    swallowed = "?"  # " ??" is one token
    # else this test shows nothing
    assert len(llama2(prompt + swallowed).input_ids) == len(llama2(prompt).input_ids)
    answers = ("Education", swallowed) if side == "rejected" else (swallowed, "Education")
    with pytest.raises(
        UserError, match=rf"pair p1: the {side} answer '\?' adds no token to the prompt's 3"
    ):
        tokenize_pairs([of(prompt, *answers)], llama2)


def test_an_empty_answer_is_refused(smollm2: PreTrainedTokenizerBase) -> None:
    for prompt in (PROMPT, ""):
        with pytest.raises(UserError, match="the rejected answer '' adds no token"):
            tokenize_pairs([of(prompt, "Yes", "")], smollm2)


def test_an_empty_prompt_becomes_one_bos(
    smollm2: PreTrainedTokenizerBase, llama2: PreTrainedTokenizerBase
) -> None:
    assert one(of("", "hello world"), llama2).chosen == Answer((1, 22172, 3186), 1)
    tokenized = tokenize_pairs([of("", "hello world", "Yes")], smollm2)
    pair = tokenized.pairs[0]
    assert pair.chosen == Answer((smollm2.bos_token_id, *smollm2("hello world").input_ids), 1)
    assert (pair.chosen.start, pair.rejected.start, tokenized.merged) == (1, 1, 0)


def test_without_bos_an_empty_prompt_becomes_one_eos(shared: Path) -> None:
    bare = AutoTokenizer.from_pretrained(shared / "data" / "llama2_tokenizer")
    bare.bos_token = None
    assert one(of("", "hello world"), bare).chosen == Answer((2, 22172, 3186), 1)
    bare.eos_token = None
    with pytest.raises(UserError, match="neither BOS nor EOS"):
        tokenize_pairs([of("", "hello world")], bare)


def test_pairs_keep_their_order_and_names(smollm2: PreTrainedTokenizerBase) -> None:
    pairs = [PromptedPair(f"p{n}", f"u{n % 2}", PROMPT, f"Answer {n}", "No") for n in (3, 1, 2)]
    found = tokenize_pairs(iter(pairs), smollm2).pairs
    assert [(pair.id, pair.user_id) for pair in found] == [("p3", "u1"), ("p1", "u1"), ("p2", "u0")]
    assert [smollm2.decode(pair.chosen.ids[pair.chosen.start :]) for pair in found] == [
        "Answer 3",
        "Answer 1",
        "Answer 2",
    ]


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20) | st.text(
    "ab .?!\n'é中🙂", min_size=1, max_size=12
)
light = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much]
)


@light
@given(prompt=texts, chosen=texts, rejected=texts)
@example(prompt="why?", chosen="?!", rejected="Education")
@example(prompt="why ", chosen=" because", rejected="\n")
def test_joined_ids_are_the_tokenizers_own_smollm2(
    smollm2: PreTrainedTokenizerBase, prompt: str, chosen: str, rejected: str
) -> None:
    check_rule(of(prompt, chosen, rejected), smollm2)


@light
@given(prompt=texts, chosen=texts, rejected=texts)
@example(prompt="why?", chosen="?!", rejected="Education")
@example(prompt="why ", chosen=" because", rejected="\n")
def test_joined_ids_are_the_tokenizers_own_llama2(
    llama2: PreTrainedTokenizerBase, prompt: str, chosen: str, rejected: str
) -> None:
    check_rule(of(prompt, chosen, rejected), llama2)
