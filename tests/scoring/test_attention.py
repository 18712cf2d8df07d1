"""Attention over packed rows, and plain SDPA for rows that are not packed."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mvp_align.scoring.attention import SHARED, attend, can_share, lay_out
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.methods import print_once, scoring_method
from mvp_align.scoring.passes import Method
from mvp_align.scoring.tokens import Answer, TokenizedPair


def test_unpacked_rows_go_through_sdpa_unchanged(load_sharp) -> None:
    model = load_sharp()
    ids = torch.randint(3, 90, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 9:] = mask[2, :4] = 0
    with torch.no_grad():
        before = model(input_ids=ids).logits, model(input_ids=ids, attention_mask=mask).logits
        assert scoring_method(model) is Method.PACKED
        after = model(input_ids=ids).logits, model(input_ids=ids, attention_mask=mask).logits
    assert model.config._attn_implementation == SHARED
    assert all(map(torch.equal, before, after))


def test_it_generates_the_same_tokens(load_sharp) -> None:
    model, prompt = load_sharp(), torch.tensor([[1, 20, 33, 47]])
    before = model.generate(prompt, max_new_tokens=12, do_sample=False)
    assert scoring_method(model) is Method.PACKED
    assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False), before)


def test_it_is_not_written_into_a_saved_model(load_sharp, tmp_path) -> None:
    model = load_sharp()
    assert scoring_method(model) is Method.PACKED
    model.save_pretrained(tmp_path)
    assert SHARED not in (tmp_path / "config.json").read_text()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [
        "LlamaForCausalLM"
    ]
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_models_that_hand_nothing_through_cannot_share(load_sharp, monkeypatch) -> None:
    model = load_sharp()
    assert can_share(model)
    monkeypatch.setattr(type(model), "_supports_attention_backend", False)
    assert not can_share(model)


@pytest.mark.parametrize("times", [1, 3])
def test_what_cannot_share_is_said_once(times: int, capsys) -> None:
    print_once.cache_clear()
    # learned positions
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=50))
    assert [scoring_method(model) for _ in range(times)] == [Method.PADDED] * times
    assert capsys.readouterr().out.count("GPT2LMHeadModel") == 1


def test_no_mask_of_tokens_by_tokens_is_made(load_sharp, monkeypatch) -> None:
    """Of a packed row the layout says all; a mask of the whole row would grow with its square."""
    model, masks = load_sharp(), []

    def recorded(module, query, key, value, mask, **options):
        masks.append(mask.shape)
        return attend(module, query, key, value, mask, **options)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, SHARED, recorded)
    assert scoring_method(model) is Method.PACKED
    masks.clear()
    pair = TokenizedPair("p", "", Answer((1, 5, 6, 7), 2), Answer((1, 5, 8), 2))
    score_pairs(model, [pair], batch_size=1)
    assert masks == [(1, 1, 0, 0)] * model.config.num_hidden_layers


def test_at_once_every_segment_has_the_keys_that_it_has_by_itself() -> None:
    spans = [((), (0, 4)), (((0, 4),), (4, 6)), (((0, 6),), (6, 9)), (((0, 4), (4, 6)), (9, 10))]
    row = lay_out(spans).varlen
    assert row.keys.tolist() == [*range(4), *range(6), *range(9), *range(6), 9]
    assert row.cu_seqlens_k.tolist() == [0, 4, 10, 19, 26]
    assert row.cu_seqlens_q.tolist() == [0, 4, 6, 9, 10]
    assert (row.max_seqlen_q, row.max_seqlen_k) == (4, 9)
    assert row.cu_seqlens_q.dtype == row.cu_seqlens_k.dtype == torch.int32
