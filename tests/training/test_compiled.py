"""Compiled layers: the numbers of eager ones, and one graph for batches of any length."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import Bench
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from transformers import CTRLConfig, CTRLLMHeadModel

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.generation.local import generate_locally
from mvp_align.modeling.compiled import compile_layers
from mvp_align.scoring.identity import identity
from mvp_align.scoring.logps import score_pairs
from mvp_align.training.plan import Plan


@pytest.fixture(autouse=True)
def new_graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


def compiled(made: Bench) -> Bench:
    return replace(made, placement=replace(made.placement, compile=True))


def margins(model: torch.nn.Module, plan: Plan, batch_size: int = 4) -> list[float]:
    scores = score_pairs(model, plan.train_tokens, batch_size=batch_size)
    return [score.chosen_logp - score.rejected_logp for score in scores]


def test_compiled_layers_train_score_and_answer_as_eager_ones(bench, losses) -> None:
    """From an adapter whose B is not zero, over passes of many lengths; then scores of the result,
    by the base with the adapter off, and with it. Answers run eagerly."""
    plain = bench(f"adapter={bench().adapter('start')}", "train.max_steps=5")
    passes = [pair.chosen.ids + pair.rejected.ids for pair in plain.plan.train_tokens]
    assert len(set(map(len, passes))) > 5
    found, answers, names = [], [], []
    for made in (plain, compiled(plain)):
        model = made.model()
        trainer = made.dpo(model)
        trainer.train()
        with model.disable_adapter():
            base = margins(model, made.plan)
        tuned = margins(model, made.plan)
        found.append([losses(trainer), losses(trainer, "grad_norm"), base, tuned])
        names.append(identity(model)["kernels"])
        before = graphs()
        settings = Generation(max_new_tokens=5)
        answers.append(
            generate_locally(model, made.tokenizer, made.plan.train[:3], settings, seed=0)
        )
        assert margins(model, made.plan, 3) == pytest.approx(tuned, rel=1e-4, abs=1e-5)
        assert graphs() == before  # neither answers nor batches of another size are new graphs
    for eager, fast in zip(*found, strict=True):
        assert fast == pytest.approx(eager, rel=1e-4, abs=1e-5)
    assert answers[0] == answers[1]
    assert 3 <= graphs() <= 6  # training has two, scoring one with the adapter and one without
    assert names == [f"torch {torch.__version__}", f"torch {torch.__version__}, layers compiled"]


def test_a_machine_without_a_compiler_is_told_so(bench) -> None:
    made = compiled(bench())
    with (
        inductor.patch({"cpp.cxx": ("/bin/false",)}),
        pytest.raises(UserError, match=r"hardware\.compile=true: torch cannot compile .*C\+\+"),
    ):
        margins(made.model(), made.plan)


def test_a_model_without_repeated_layers_is_refused() -> None:
    model = CTRLLMHeadModel(CTRLConfig(vocab_size=20, n_embd=8, dff=8, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="CTRLLMHeadModel has no layers"):
        compile_layers(model)
