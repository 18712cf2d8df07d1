"""Compare KL to the base with its definition, one answer at a time."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from mvp_align.config import Lora
from mvp_align.errors import UserError
from mvp_align.modeling.adapters import new_adapter
from mvp_align.scoring import kl
from mvp_align.scoring.kl import kl_to_base
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.tokens import Answer


@pytest.fixture
def tuned(sharp_model) -> PeftModel:
    model = new_adapter(
        AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32), Lora(), seed=3
    )
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return model


@pytest.fixture
def answers(sharp_model) -> list[Answer]:
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(sharp_model)
    found = []
    for number in range(9):
        start = tokenizer("A question about tea? " * (1 + number % 3)).input_ids
        end = tokenizer(f" The answer is {number}," + " more" * (7 * number)).input_ids
        found.append(Answer(tuple(start + end), len(start)))
    return [*found, found[2]]


def defined(model: PeftModel, answer: Answer) -> float:
    ids = torch.tensor([answer.ids])
    with torch.no_grad():
        p = model(input_ids=ids).logits[0].double().log_softmax(-1)
        with model.disable_adapter():
            q = model(input_ids=ids).logits[0].double().log_softmax(-1)
    at = slice(answer.start - 1, len(answer.ids) - 1)
    return float((p[at].exp() * (p[at] - q[at])).sum(-1).mean())


@pytest.mark.parametrize("chunk", [3, 256])
def test_equal_to_the_definition(tuned: PeftModel, answers, chunk: int, monkeypatch) -> None:
    monkeypatch.setattr(kl, "KL_CHUNK", chunk)
    tuned.train()
    found = kl_to_base(tuned, answers, batch_size=3)
    assert tuned.training
    expected = [defined(tuned.eval(), answer) for answer in answers]
    assert min(expected) > 1e-3
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-5)


def test_an_untrained_adapter_is_at_the_base(sharp_model, answers) -> None:
    model = new_adapter(
        AutoModelForCausalLM.from_pretrained(sharp_model, dtype=torch.float32), Lora(), seed=3
    )
    assert kl_to_base(model, answers) == pytest.approx([0] * len(answers), abs=1e-9)


def test_logits_are_never_more_than_two_chunks(tuned: PeftModel, answers, monkeypatch) -> None:
    monkeypatch.setattr(kl, "KL_CHUNK", 4)
    heads: list[int] = []
    scoring_method(tuned.get_base_model())
    tuned.get_base_model().get_output_embeddings().register_forward_hook(
        lambda *args: heads.append(len(args[2]))
    )
    kl_to_base(tuned, answers)
    assert max(heads) <= 4
    assert sum(heads) == 2 * sum(answer.tokens for answer in set(answers))


def test_no_answers(tuned: PeftModel) -> None:
    assert kl_to_base(tuned, []) == []


def test_nan_weights_give_no_kl(tuned: PeftModel, answers) -> None:
    with torch.no_grad():
        next(p for name, p in tuned.named_parameters() if "lora_B" in name).fill_(float("nan"))
    with pytest.raises(
        UserError, match=r"in_domain, KL to the base: \d+ of \d+ answers have no finite KL"
    ):
        kl_to_base(tuned, answers, label="in_domain, KL to the base")


def test_a_token_with_probability_0_in_both_models_adds_nothing(tuned: PeftModel, answers) -> None:
    plain = kl_to_base(tuned, answers)
    head = tuned.get_base_model().get_output_embeddings()
    blocked = head.register_forward_hook(
        lambda module, args, logits: logits.index_fill(-1, torch.tensor([5]), -torch.inf)
    )
    try:
        assert kl_to_base(tuned, answers) == pytest.approx(plain, rel=1e-2)
    finally:
        blocked.remove()
