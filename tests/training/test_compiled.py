"""Compiled layers: the numbers of eager ones, and one graph for batches of any length."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench import Bench
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._inductor import config as inductor
from transformers import CTRLConfig, CTRLLMHeadModel

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.generation.local import generate_locally
from mvp_align.modeling.compiled import compile_layers
from mvp_align.planning.micro_batch import fit_micro_batch
from mvp_align.scoring import attention
from mvp_align.scoring.identity import identity
from mvp_align.scoring.logps import score_pairs
from mvp_align.scoring.methods import scoring_method
from mvp_align.scoring.packing import pack, pack_answers
from mvp_align.scoring.passes import Method, run_batch
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


def test_compiled_layers_train_score_and_answer_as_eager_ones(
    bench, losses, capsys: pytest.CaptureFixture[str]
) -> None:
    """From an adapter whose B is not zero, over passes of many lengths; then scores of the result,
    by the base with the adapter off, and with it. Answers run eagerly."""
    plain = bench(f"adapter={bench().adapter('start')}", "train.max_steps=5")
    passes = [pair.chosen.ids + pair.rejected.ids for pair in plain.plan.train_tokens]
    assert len(set(map(len, passes))) > 5
    found, answers, names, shown = [], [], [], []
    for made in (plain, compiled(plain)):
        model = made.model()
        fit_micro_batch(made.plan, model, made.config)
        shown.append(capsys.readouterr().out)
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
        assert fast == pytest.approx(eager, rel=1e-5, abs=1e-5)
    assert answers[0] == answers[1]
    assert 3 <= graphs() <= 6  # training has two, scoring one with the adapter and one without
    assert "compile" not in shown[0]
    seconds = re.search(r"hardware\.compile=true: the layers took (\d+) s to compile", shown[1])
    assert seconds and int(seconds[1]) > 0
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


def test_on_a_gpu_a_layer_is_one_graph_around_torchs_varlen_kernel(
    bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced, not run: forward and backward of passes of two sizes, on which the kernel's longest
    segments, plain numbers in Python, must not start graphs of their own."""
    graphs: list[torch.fx.GraphModule] = []

    class Traced(Exception):
        pass

    def keep(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        def stop(*_: object) -> object:
            raise Traced

        graphs.append(graph)
        return stop

    made = bench()
    causal = made.model().get_base_model()
    assert scoring_method(causal) is Method.PACKED
    monkeypatch.setattr(attention, "takes_varlen", lambda query: True)
    causal.to(torch.bfloat16)
    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep)
    causal.model.layers[0].compile(dynamic=True, fullgraph=True, backend=backend)
    for pairs in (made.plan.train_tokens[:1], made.plan.train_tokens[1:5]):
        answers = [answer for pair in pairs for answer in (pair.chosen, pair.rejected)]
        batch = pack(pack_answers(answers, share=True))
        with pytest.raises(Traced):
            run_batch(causal, batch, Method.PACKED)
    forward, backward = graphs
    for graph, kernel in ((forward, "_varlen_attn"), (backward, "_varlen_attn_backward")):
        (call,) = [node for node in graph.graph.nodes if f"{kernel}.default" in str(node.target)]
        values = [getattr(node, "meta", {}).get("val") for node in call.args]
        assert sum(isinstance(value, torch.SymInt) for value in values) == 2
