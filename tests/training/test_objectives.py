"""Weights of pairs: the papers' formulas written out, TRL's training at weight 1, and resuming."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from bench import Bench
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import TrainerCallback

from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair
from mvp_align.training.objectives import POOLED, Objective, alpha_key, pooled_groups

STEPS = st.lists(
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from("abc")), min_size=1, max_size=6),
    min_size=1,
    max_size=5,
)
COUNTS = {"a": 30, "b": 5, "c": 1}


@given(STEPS, st.sampled_from([0.01, 0.5]))
def test_group_robust_weights_are_the_papers(
    steps: list[list[tuple[float, str]]], eta: float
) -> None:
    objective = Objective.of_groups(
        "gr_dpo", [g for g, n in COUNTS.items() for _ in range(n)], eta, 1
    )
    total, alpha = sum(COUNTS.values()), dict.fromkeys(COUNTS, 1 / 3)
    for step in steps:
        for group, size in COUNTS.items():
            share = sum(loss for loss, name in step if name == group) / len(step)
            alpha[group] *= math.exp(eta * total / size * share)
        alpha = {group: value / sum(alpha.values()) for group, value in alpha.items()}
        found = objective.step(*tensors(step))
        expected = [alpha[group] * total / COUNTS[group] for _, group in step]
        assert found.tolist() == pytest.approx(expected, rel=1e-9)
    again = replace(objective)
    again.restore(objective.logged)
    assert torch.equal(again.alpha, objective.alpha)


def tensors(step: Sequence[tuple[float, str]]) -> tuple[Tensor, Tensor]:
    losses, names = zip(*step, strict=True)
    return torch.tensor(losses, dtype=torch.float64), torch.tensor(
        ["abc".index(name) for name in names]
    )


@given(STEPS, st.sampled_from([0.5, 2.0]))
def test_the_other_weights_are_the_papers(steps: list[list[tuple[float, str]]], tau: float) -> None:
    names = [group for group, size in COUNTS.items() for _ in range(size)]
    importance, kl = (
        Objective.of_groups(kind, names, 0.1, tau) for kind in ("importance", "kl_dpo")
    )
    for step in steps:
        expected = [36 / (3 * COUNTS[group]) for _, group in step]
        assert importance.step(*tensors(step)).tolist() == pytest.approx(expected)
        mean = sum(loss for loss, _ in step) / len(step)
        expected = [min(10, math.exp((loss - mean) / tau)) for loss, _ in step]
        assert kl.step(*tensors(step)).tolist() == pytest.approx(expected, rel=1e-5)


def test_groups_of_too_few_people_are_pooled() -> None:
    groups, users = ["a", "a", "a", "b", "b", None], ["1", "2", "2", "3", "3", "4"]
    assert pooled_groups(groups, users, 2) == ["a", "a", "a", POOLED, POOLED, POOLED]


def grouped(pairs: Sequence[PreferencePair]) -> list[PreferencePair]:
    """Every fourth pair is of a person who states Low."""
    return [
        replace(pair, groups={"level": "High" if number % 4 else "Low"})
        for number, pair in enumerate(pairs)
    ]


WORDS = ("evals.min_users=1", "train.max_steps=4", "train.learning_rate=2e-3")


def adapter_of(made: Bench) -> dict[str, Tensor]:
    trainer = made.dpo()
    trainer.train()
    return {n: p.detach() for n, p in trainer.model.named_parameters() if "lora_" in n}


@pytest.mark.parametrize("loss", ["sigmoid", "hinge", "ipo"])
def test_at_weight_1_it_is_trls_training(
    bench, losses, few_pairs, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, words = grouped(few_pairs), [*WORDS, f"train.loss_type={loss}"]
    plain = bench(*words, pairs=pairs).dpo()
    plain.train()
    monkeypatch.setattr(
        Objective, "step", lambda self, losses, groups: torch.ones(len(losses)).double()
    )
    ours = bench(*words, "train.objective=gr_dpo", pairs=pairs).dpo()
    ours.train()
    assert losses(ours) == losses(plain)
    for (name, found), (_, expected) in zip(
        ours.model.named_parameters(), plain.model.named_parameters(), strict=True
    ):
        assert torch.equal(found, expected), name


class FirstGradients(TrainerCallback):
    def __init__(self) -> None:
        self.found: dict[str, Tensor] = {}

    def on_pre_optimizer_step(self, args, state, control, model: nn.Module, **kwargs) -> None:
        self.found = self.found or {
            n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
        }


def test_a_steps_gradient_and_loss_are_the_weighted_means(bench, losses, few_pairs) -> None:
    """Against steps of each pair alone, from an adapter whose B is not zero."""
    pairs = grouped(few_pairs)[:4]
    start = bench().adapter("start")
    words = [
        f"adapter={start}",
        "train.max_steps=1",
        "train.max_grad_norm=1e9",
        "evals.min_users=1",
    ]
    alone = []
    for pair in pairs:
        seen = FirstGradients()
        trainer = bench(*words, "train.batch_size=1", "train.micro_batch_size=1", pairs=[pair]).dpo(
            callbacks=[seen]
        )
        trainer.train()
        alone.append((losses(trainer)[0], seen.found))
    eta, sizes = 0.5, {"High": 3, "Low": 1}
    share = {
        name: sum(alone[n][0] for n, p in enumerate(pairs) if p.groups["level"] == name) / 4
        for name in sizes
    }
    raw = {name: math.exp(eta * 4 / size * share[name]) for name, size in sizes.items()}
    weights = [
        raw[p.groups["level"]] / sum(raw.values()) * 4 / sizes[p.groups["level"]] for p in pairs
    ]
    seen = FirstGradients()
    whole = bench(*words, "train.objective=gr_dpo", "train.objective_eta=0.5", pairs=pairs).dpo(
        callbacks=[seen]
    )
    whole.train()
    expected = sum(w * loss for w, (loss, _) in zip(weights, alone, strict=True)) / 4
    assert losses(whole)[0] == pytest.approx(expected, rel=1e-5)
    for name, found in seen.found.items():
        mean = sum(w * grads[name] for w, (_, grads) in zip(weights, alone, strict=True)) / 4
        torch.testing.assert_close(found, mean, rtol=1e-4, atol=1e-6)
    assert losses(whole, alpha_key("Low"))[0] == pytest.approx(
        raw["Low"] / sum(raw.values()), rel=1e-6
    )


def test_a_resumed_run_has_the_weights_that_it_was_stopped_with(bench, losses, few_pairs) -> None:
    words = [*WORDS, "train.objective=gr_dpo", "train.save_steps=2"]
    made = bench(*words, pairs=grouped(few_pairs))
    whole = made.dpo()
    whole.train()
    resumed = made.dpo()
    resumed.train(resume_from_checkpoint=str(made.folder / "checkpoints" / "checkpoint-2"))
    key = alpha_key("Low")
    assert losses(resumed, key) == losses(whole, key) and len(losses(whole, key)) == 4
    assert losses(whole, key)[0] != losses(whole, key)[3]
    for (name, found), (_, expected) in zip(
        resumed.model.named_parameters(), whole.model.named_parameters(), strict=True
    ):
        assert torch.equal(found, expected), name


def test_groups_that_the_pairs_do_not_have_are_refused(bench, few_pairs) -> None:
    words = ["train.objective=importance", "train.objective_by=planet"]
    with pytest.raises(UserError, match=r"train\.objective_by=planet: no training pair has it"):
        bench(*words, pairs=grouped(few_pairs))
    with pytest.raises(UserError, match="all training pairs are of one group"):
        bench("train.objective=importance", "evals.min_users=1000", pairs=grouped(few_pairs))
