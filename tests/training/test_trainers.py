"""Our setup of TRL's trainers: TRL's own numbers, and the requested reference."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import TrainerCallback
from trl import DPOTrainer

from mvp_align.errors import UserError
from mvp_align.modeling.adapters import WEIGHTS, load_adapter, save_adapter
from mvp_align.modeling.base import four_bit_layers, load_base
from mvp_align.modeling.fingerprint import fingerprint
from mvp_align.schema import PairScore
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.tokens import tokenize_pairs
from mvp_align.training.losses import trl_losses
from mvp_align.training.trainers import pair_dataset, starts_at_ln2

LN_2 = math.log(2)
BETA = 0.1
SMOOTHED = {"exo_pair": 1e-3, "robust": 0.1}
FIRST_LOSSES = {
    "sigmoid": LN_2,
    "hinge": 1.0,
    "ipo": (1 / (2 * BETA)) ** 2,
    "exo_pair": 0.5 * (math.log(0.5) - math.log(1 - 1e-3)) + 0.5 * (math.log(0.5) - math.log(1e-3)),
    "nca_pair": 2 * LN_2,
    "robust": LN_2,
    "bco_pair": 2 * LN_2,
    "sppo_hard": 2 * (0.5 / BETA) ** 2,
    "aot": LN_2,
    "aot_unpaired": LN_2,
    "apo_zero": 1.0,
    "apo_down": 1.0,
    "discopop": 0.5 * LN_2 + 0.5,
    "sigmoid_norm": LN_2,
}
"""Where policy and reference are one model, so that all rewards are zero, by each loss's
formula."""


def lora(model: nn.Module, part: str = "lora_") -> dict[str, Tensor]:
    return {
        n: p.detach().clone() for n, p in model.named_parameters() if part in n and ".default." in n
    }


def with_eos(bench) -> list:
    """The training pairs as TRL gets them, with EOS after each answer."""
    eos = bench.tokenizer.eos_token
    texts = [replace(p, chosen=p.chosen + eos, rejected=p.rejected + eos) for p in bench.plan.train]
    return tokenize_pairs(texts, bench.tokenizer).pairs


def unmerged(few_pairs) -> list:
    """Pairs without merged tokens, which TRL and the benchmark assign differently."""
    return [pair for pair in few_pairs if not pair.chosen.startswith("?!")]


def reference_logps(trainer: DPOTrainer, rows: range) -> Tensor:
    """Log-probs [2, rows] of chosen and rejected, in nats."""
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    return torch.stack(trainer.compute_ref_log_probs(trainer.model, batch))


def logps(scores: list[PairScore]) -> Tensor:
    return torch.tensor([[s.chosen_logp for s in scores], [s.rejected_logp for s in scores]])


def dpo_loss(policy: Tensor, reference: Tensor, beta: float = BETA) -> float:
    rewards = beta * (policy - reference)
    return float(-nn.functional.logsigmoid(rewards[0] - rewards[1]).mean())


def test_every_loss_but_plain_sft_has_a_known_first_value() -> None:
    assert set(FIRST_LOSSES) | {"sft"} == set(trl_losses())


@pytest.mark.parametrize("loss", trl_losses())
def test_every_loss_takes_a_step(bench, losses, loss: str) -> None:
    smoothing = SMOOTHED.get(loss, 0.0)
    made = bench(
        f"train.loss_type={loss}", f"train.label_smoothing={smoothing}", "train.max_steps=1"
    )
    model = made.model()
    trainer = made.dpo(model)
    trainer.train()
    (first,) = losses(trainer)
    assert losses(trainer, "grad_norm")[0] > 0
    assert all(tensor.abs().max() > 0 for tensor in lora(model, "lora_B").values())
    # the mean over the tokens of a pass; a random model is about as good as guessing
    if loss == "sft":
        assert first == pytest.approx(math.log(49_152), abs=2)
    else:
        assert first == pytest.approx(FIRST_LOSSES[loss], rel=1e-5)


def test_losses_are_added_by_their_weights(bench, losses) -> None:
    only = bench("train.loss_type=sft", "train.max_steps=1").dpo()
    only.train()
    both = bench(
        "train.loss_type=sigmoid+sft", "train.loss_weights=[1.0,0.25]", "train.max_steps=1"
    ).dpo()
    both.train()
    assert losses(both)[0] == pytest.approx(LN_2 + 0.25 * losses(only)[0], rel=1e-5)
    assert both.args.loss_type == ["sigmoid", "sft"]


@pytest.mark.parametrize("regroups", [True, False])
@pytest.mark.parametrize("target_modules", ["[q_proj,k_proj,v_proj]", "[all-linear]"])
def test_losses_and_gradients_are_plain_trls(
    bench, losses, target_modules: str, regroups: bool
) -> None:
    """The prompt once for both answers, the head on answers only, the reference scored beforehand,
    and pairs of a step in another order; and TRL's own full forward: one and the same training."""
    made = bench(
        f"lora.target_modules={target_modules}", "train.max_steps=5", "train.learning_rate=2e-3"
    )
    ours = made.dpo()
    if regroups:  # as for a model whose rows are padded
        ours.regroups, ours.data_collator = True, ours.data_collator.collate
    rows = passes(ours)
    ours.train()

    plain = DPOTrainer(
        model=made.model(),
        args=copy.deepcopy(ours.args),
        train_dataset=pair_dataset(made.plan.train),
        processing_class=made.tokenizer,
    )
    plain_rows = passes(plain)
    plain.train()
    assert set(rows) == {1}  # all of a pass, packed
    assert set(plain_rows) == {4}  # answers
    assert len(rows) == 5 * 2  # steps x passes a step: the reference was scored before
    assert len(plain_rows) == 5 * 2 * 2  # and once more for the reference, every step
    keys = ["loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected"]
    # TRL takes these per token in each pass and then the mean over passes: they depend on which
    # pairs share one.
    keys += (
        [] if regroups else ["entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy"]
    )
    for key in keys:
        found, expected = losses(ours, key), losses(plain, key)
        assert len(found) == 5
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), key
    # Of the first step the rewards are all rounding: half of them above zero.
    assert losses(ours, "rewards/accuracies")[1:] == losses(plain, "rewards/accuracies")[1:]
    assert losses(ours)[0] == pytest.approx(LN_2, abs=1e-3)
    assert losses(ours)[-1] < LN_2 - 0.01  # it does train


def passes(trainer: DPOTrainer) -> list[int]:
    """A list that training fills with the number of rows of each forward pass."""
    rows: list[int] = []

    def count(module: nn.Module, args: tuple, kwargs: dict) -> None:
        rows.append(len(kwargs["input_ids"]))

    trainer.model.get_base_model().model.register_forward_pre_hook(count, with_kwargs=True)
    return rows


def test_dpo_learns_the_pairs(bench, losses) -> None:
    made = bench(
        "train.max_steps=12", "train.learning_rate=5e-3", "lora.target_modules=[all-linear]"
    )
    model = made.model()
    before = score_pairs(model, made.plan.train_tokens)
    trainer = made.dpo(model)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(LN_2, abs=1e-3)
    assert losses(trainer)[-1] < 0.3
    assert losses(trainer, "rewards/accuracies")[-1] == 1
    after = score_pairs(model, made.plan.train_tokens)
    gains = [now.margin - then.margin for now, then in zip(after, before, strict=True)]
    assert min(gains) > 0


def test_an_accumulated_step_is_the_step_of_one_pass(bench, losses) -> None:
    runs = []
    for micro in (1, 2, 4):
        trainer = bench(f"train.micro_batch_size={micro}", "train.max_steps=3").dpo()
        trainer.train()
        runs.append((losses(trainer), losses(trainer, "grad_norm")))
    for run in runs[1:]:
        assert run[0] == pytest.approx(runs[0][0], rel=1e-4)
        assert run[1] == pytest.approx(runs[0][1], rel=1e-4)


def test_nothing_is_cut_before_training(bench) -> None:
    made = bench()
    rows = made.dpo().train_dataset
    for row, pair in zip(rows, made.plan.train_tokens, strict=True):
        for ids, answer in ((row["chosen_ids"], pair.chosen), (row["rejected_ids"], pair.rejected)):
            assert [*row["prompt_ids"], *ids] == [*answer.ids, made.tokenizer.eos_token_id]


# The reference


def test_the_reference_is_the_base_model(bench, few_pairs) -> None:
    made = bench(pairs=unmerged(few_pairs))
    model = made.model()
    expected = logps(score_pairs(model, with_eos(made)[:6]))  # B is zero: the base
    trainer = made.dpo(model)
    assert list(model.peft_config) == ["default"]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.1)
    torch.testing.assert_close(reference_logps(trainer, range(6)), expected, rtol=1e-5, atol=0)


def test_the_reference_is_the_adapter_that_is_named(bench, losses, few_pairs) -> None:
    pairs = unmerged(few_pairs)[:4]
    path = bench().adapter("other")
    made = bench(
        f"train.reference={path}", "train.max_steps=3", "train.learning_rate=5e-3", pairs=pairs
    )
    base = load_base(made.config.model, made.placement)
    of_base = logps(score_pairs(base, with_eos(made)))
    of_adapter = logps(score_pairs(load_adapter(base, path), with_eos(made)))
    assert (of_base - of_adapter).abs().min() > 0.1  # nats: far more than rounding

    model = made.model()
    trainer = made.dpo(model)
    torch.testing.assert_close(reference_logps(trainer, range(4)), of_adapter, rtol=1e-5, atol=0)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(dpo_loss(of_base, of_adapter), rel=1e-4)
    assert abs(losses(trainer)[0] - LN_2) > 0.01
    # Training moved the policy and left the reference as it lies on disk.
    torch.testing.assert_close(reference_logps(trainer, range(4)), of_adapter, rtol=1e-5, atol=0)
    on_disk = load_file(path / WEIGHTS)
    held = {
        name.replace(".ref.", "."): p for name, p in model.named_parameters() if ".ref." in name
    }
    assert held.keys() == on_disk.keys()
    assert all(torch.equal(held[name], on_disk[name]) for name in held)
    assert all(tensor.abs().max() > 0 for tensor in lora(model, "lora_B").values())
    assert model.active_adapters == ["default"]


def test_going_on_from_an_adapter_does_not_make_it_the_reference(bench, losses, few_pairs) -> None:
    """LLaMA-Factory#8459: TRL would silently measure against a copy of the adapter that training
    starts from."""
    pairs = unmerged(few_pairs)[:4]
    path = bench().adapter("start")
    made = bench(f"adapter={path}", "train.max_steps=1", pairs=pairs)
    base = load_base(made.config.model, made.placement)
    of_base = logps(score_pairs(base, with_eos(made)))
    of_adapter = logps(score_pairs(load_adapter(base, path), with_eos(made)))
    model = made.model()
    trainer = made.dpo(model)
    assert list(model.peft_config) == ["default"]
    torch.testing.assert_close(reference_logps(trainer, range(4)), of_base, rtol=1e-5, atol=0)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(dpo_loss(of_adapter, of_base), rel=1e-4)
    assert abs(losses(trainer)[0] - LN_2) > 0.01


def test_an_adapter_can_be_start_and_reference(bench, losses) -> None:
    path = bench().adapter("start")
    trainer = bench(f"adapter={path}", f"train.reference={path}", "train.max_steps=2").dpo()
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(LN_2, abs=1e-3)
    assert abs(losses(trainer)[1] - LN_2) > 1e-4


def test_a_reference_that_is_no_adapter_is_refused(bench, tmp_path) -> None:
    with pytest.raises(UserError, match="no adapter there"):
        bench(f"train.reference={tmp_path / 'none'}").dpo()
    path = bench().adapter("cut")
    (path / WEIGHTS).write_bytes((path / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cut does not fit: .* is cut off"):
        bench(f"train.reference={path}").dpo()


@pytest.mark.parametrize(
    ("overrides", "fresh"),
    [
        ([], True),
        (["train.reference=a/adapter"], False),
        (["adapter=a/adapter"], False),
        (["adapter=a/adapter", "train.reference=a/adapter"], True),
        (["adapter=a/adapter", "train.reference=b/adapter"], False),
        (["train.loss_type=ipo"], False),
        (["train.loss_type=sigmoid+sft"], False),
        (["train.label_smoothing=0.1"], False),
    ],
)
def test_when_the_first_loss_must_be_ln_2(compose, overrides: list[str], fresh: bool) -> None:
    assert starts_at_ln2(compose(*overrides)) == fresh


# QLoRA, gradient checkpointing


def test_qlora_trains_ten_steps_and_reloads_to_the_same_scores(bench, losses) -> None:
    made = bench("quantization=4bit", "train.max_steps=10", "train.learning_rate=5e-3")
    model = made.model()
    weights, before = fingerprint(model), lora(model)
    trainer = made.dpo(model)
    trainer.train()
    found = losses(trainer)
    assert len(found) == 10
    assert found[0] == pytest.approx(LN_2, abs=1e-3)
    assert found[-1] < LN_2 - 0.01
    assert four_bit_layers(model) == 14
    assert fingerprint(model) == weights
    after = lora(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}

    save_adapter(model, made.tokenizer, made.folder / "adapter")
    again = load_adapter(
        load_base(made.config.model, made.placement, "4bit"), made.folder / "adapter"
    )
    trained, reloaded = (score_pairs(m, made.plan.train_tokens) for m in (model, again))
    torch.testing.assert_close(logps(reloaded), logps(trained), rtol=1e-6, atol=0)


class Gradients(TrainerCallback):
    """Keeps the gradients of the first step."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, **kwargs) -> None:
        self.first = self.first or {
            n: p.grad.clone() for n, p in kwargs["model"].named_parameters() if p.grad is not None
        }


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients(bench) -> None:
    start = bench().adapter("start")  # with B = 0 the gradient of A is zero
    gradients, calls = [], []
    for wanted in (False, True):
        made = bench(
            f"adapter={start}", "train.max_steps=1", f"hardware.gradient_checkpointing={wanted}"
        )
        model = made.model()
        count: list[int] = []
        watch = Gradients()
        trainer = made.dpo(model, [watch])
        model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(
            lambda *_, count=count: count.append(1)
        )
        trainer.train()
        gradients.append(watch.first)
        calls.append(len(count))
    assert calls == [2, 2 * 2]  # passes, and each once more
    plain, checkpointed = gradients
    assert plain.keys() == checkpointed.keys()
    assert len(plain) == 12
    for name in plain:
        assert plain[name].abs().max() > 0
        torch.testing.assert_close(checkpointed[name], plain[name], rtol=1e-4, atol=1e-7)


# SFT


def test_sft_learns_from_the_chosen_answers_tokens_alone(bench, losses, few_pairs) -> None:
    pairs = unmerged(few_pairs)
    whole = [f"train.batch_size={len(pairs)}", "train.max_steps=8", "train.learning_rate=1e-2"]
    made = bench("recipe=lora_sft", "lora.target_modules=[all-linear]", *whole, pairs=pairs)
    trainer = made.sft()
    answers = {p.chosen + made.tokenizer.eos_token for p in made.plan.train}
    seen = set()
    for batch in trainer.get_train_dataloader():
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            assert torch.equal(labels[labels != -100], ids[labels != -100])
            seen.add(made.tokenizer.decode(labels[labels != -100]))
    assert seen == answers

    scores = score_pairs(trainer.model, with_eos(made))
    mean = -sum(s.chosen_logp for s in scores) / sum(s.chosen_tokens for s in scores)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(mean, rel=1e-4)  # the step holds every pair
    assert losses(trainer)[-1] < mean - 1
    assert all(tensor.abs().max() > 0 for tensor in lora(trainer.model, "lora_B").values())


def test_sft_on_a_four_bit_model_keeps_its_adapter_in_fp32(bench) -> None:
    trainer = bench("recipe=lora_sft", "quantization=4bit", "train.max_steps=1").sft()
    trainer.train()
    assert {tensor.dtype for tensor in lora(trainer.model).values()} == {torch.float32}
