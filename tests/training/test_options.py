"""Every option of TRL's losses and PEFT's adapters trains as those libraries do with it."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bench import Bench
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from torch import Tensor, nn
from transformers import set_seed
from trl import DPOConfig, DPOTrainer, SFTConfig

from mvp_align.modeling.adapters import ADAPTER, load_adapter, save_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.fingerprint import fingerprint
from mvp_align.scoring.logps import score_pairs
from mvp_align.training.callbacks import FirstLoss
from mvp_align.training.trainers import _shared_arguments, pair_dataset

BASIS = ("train.max_steps=4", "train.learning_rate=2e-3")
KEYS = ("loss", "grad_norm", "rewards/margins", "logps/chosen", "logps/rejected")
PLAIN: dict[str, Any] = {
    "r": 16, "lora_alpha": 32, "target_modules": ["q_proj", "k_proj", "v_proj"],
}  # fmt: skip

LOSSES: dict[str, dict[str, Any]] = {
    "ld_alpha": {"ld_alpha": 0.3},
    "ld_alpha of none": {"ld_alpha": 0.0},
    "forward_kl": {"f_divergence_type": "forward_kl"},
    "js_divergence": {"f_divergence_type": "js_divergence"},
    "alpha_divergence": {
        "f_divergence_type": "alpha_divergence",
        "f_alpha_divergence_coef": 0.2,
    },
    "WPO": {"use_weighting": True},
    "discopop": {"loss_type": ["discopop"], "discopop_tau": 0.5},
    "all of these": {
        "loss_type": ["discopop"],
        "discopop_tau": 0.2,
        "ld_alpha": 0.5,
        "f_divergence_type": "js_divergence",
        "use_weighting": True,
    },
}
ADAPTERS: dict[str, tuple[list[str], dict[str, Any]]] = {
    "rsLoRA": (["lora.use_rslora=true"], {"use_rslora": True}),
    "DoRA": (["lora.use_dora=true"], {"use_dora": True}),
    "patterns": (
        ["lora.rank_pattern={v_proj:4}", "lora.alpha_pattern={layers.1.self_attn.q_proj:7.5}"],
        {"rank_pattern": {"v_proj": 4}, "alpha_pattern": {"layers.1.self_attn.q_proj": 7.5}},
    ),
    "all-linear": (["lora.target_modules=[all-linear]"], {"target_modules": "all-linear"}),
    "PiSSA": (["lora.init=pissa"], {"init_lora_weights": "pissa"}),
    "PiSSA, rsLoRA, patterns": (
        [
            "lora.init=pissa",
            "lora.use_rslora=true",
            "lora.rank_pattern={v_proj:4}",
            "lora.alpha_pattern={q_proj:8}",
        ],
        {
            "init_lora_weights": "pissa",
            "use_rslora": True,
            "rank_pattern": {"v_proj": 4},
            "alpha_pattern": {"q_proj": 8},
        },
    ),
    "PiSSA, DoRA": (
        ["lora.init=pissa", "lora.use_dora=true"],
        {"init_lora_weights": "pissa", "use_dora": True},
    ),
}

Made = Callable[..., Bench]
Logged = Callable[..., list[float]]


def words_of(arguments: dict[str, Any]) -> list[str]:
    return [
        f"train.{name}={'+'.join(value) if isinstance(value, list) else value}"
        for name, value in arguments.items()
    ]


def by_peft(plain: Bench, **settings: Any) -> PeftModel:
    """The adapter that PEFT makes of these settings, on the model of `plain`."""
    base = load_base(plain.config.model, plain.placement)
    set_seed(plain.config.seed)
    return get_peft_model(base, LoraConfig(**{**PLAIN, **settings}, task_type="CAUSAL_LM"))


def trls(plain: Bench, model: PeftModel, arguments: dict[str, Any], **more: Any) -> DPOTrainer:
    """TRL's own trainer, with `arguments` in place of its defaults."""
    args = copy.deepcopy(plain.dpo().args)
    for name, value in arguments.items():
        setattr(args, name, value)
    return DPOTrainer(
        model=model,
        args=args,
        train_dataset=pair_dataset(plain.plan.train),
        processing_class=plain.tokenizer,
        **more,
    )


def assert_same_training(
    ours: DPOTrainer, theirs: DPOTrainer, losses: Logged, rel: float = 1e-4
) -> None:
    ours.train()
    theirs.train()
    for key in KEYS:
        found, expected = losses(ours, key), losses(theirs, key)
        assert len(found) == 4
        assert found == pytest.approx(expected, rel=rel, abs=2e-6), key


@pytest.fixture
def without(bench: Made, losses: Logged) -> list[float]:
    """The losses of the same steps without an option."""
    trainer = bench(*BASIS).dpo()
    trainer.train()
    return losses(trainer)


@pytest.mark.parametrize("arguments", LOSSES.values(), ids=LOSSES)
def test_an_option_of_the_loss_is_trls(
    bench: Made, losses: Logged, without: list[float], arguments: dict[str, Any]
) -> None:
    plain = bench(*BASIS)
    ours = bench(*BASIS, *words_of(arguments)).dpo()
    assert_same_training(ours, trls(plain, by_peft(plain), arguments), losses)
    assert losses(ours)[1:] != pytest.approx(without[1:], rel=1e-4)


@pytest.mark.parametrize(("words", "settings"), ADAPTERS.values(), ids=ADAPTERS)
def test_an_adapter_trains_as_pefts(
    bench: Made,
    losses: Logged,
    without: list[float],
    words: list[str],
    settings: dict[str, Any],
) -> None:
    plain = bench(*BASIS)
    ours = bench(*BASIS, *words).dpo()
    # with PiSSA, PEFT's base without the adapter is not the reference, so it stands beside
    more = (
        {"ref_model": load_base(plain.config.model, plain.placement)}
        if "init_lora_weights" in settings
        else {}
    )
    theirs = trls(plain, by_peft(plain, **settings), {}, **more)
    assert_same_training(ours, theirs, losses, rel=5e-4)
    assert losses(ours)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses(ours)[1:] != pytest.approx(without[1:], rel=1e-3)


@pytest.mark.parametrize("words", [[], ["lora.use_dora=true"]], ids=["LoRA", "DoRA"])
def test_loraplus_is_pefts(
    bench: Made, losses: Logged, without: list[float], words: list[str]
) -> None:
    plain = bench(*BASIS, "train.weight_decay=0.1")
    ours = bench(*BASIS, "train.weight_decay=0.1", "train.loraplus_lr_ratio=8", *words).dpo()
    model = by_peft(plain, use_dora=bool(words))
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=2e-3,
        loraplus_lr_ratio=8,
        loraplus_weight_decay=0.1,
        fused=True,
    )
    theirs = trls(plain, model, {}, optimizers=(optimizer, None))
    assert_same_training(ours, theirs, losses)
    assert losses(ours)[1:] != pytest.approx(without[1:], rel=1e-3)
    rates = {
        (name.rpartition(".lora_")[2].partition(".")[0], group["initial_lr"], group["weight_decay"])
        for name, parameter in ours.model.named_parameters()
        for group in ours.optimizer.param_groups
        if any(parameter is one for one in group["params"])
    }
    expected = {("A", 2e-3, 0.1), ("B", 16e-3, 0.1)}
    assert rates == expected | ({("magnitude_vector", 16e-3, 0.1)} if words else set())


def test_loraplus_of_sft(bench: Made, losses: Logged) -> None:
    runs = []
    for words in ([], ["train.loraplus_lr_ratio=8"]):
        trainer = bench(*BASIS, "recipe=lora_sft", *words).sft()
        trainer.train()
        runs.append(losses(trainer))
    assert runs[0][0] == runs[1][0]
    assert runs[0][2] != pytest.approx(runs[1][2], rel=1e-4)


def factors(model: PeftModel) -> dict[str, tuple[Tensor, Tensor, float]]:
    return {
        name: (
            layer.lora_A[ADAPTER].weight.detach().clone(),
            layer.lora_B[ADAPTER].weight.detach().clone(),
            layer.scaling[ADAPTER],
        )
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A")
    }


@pytest.mark.parametrize("rs", ["false", "true"])
def test_pissa_starts_at_the_principal_part_and_leaves_the_base_alone(bench: Made, rs: str) -> None:
    """The paper's equations 2 to 4, by an SVD of our own."""
    made = bench(*BASIS, "lora.init=pissa", "lora.r=5", f"lora.use_rslora={rs}")
    base = load_base(made.config.model, made.placement)
    weights = {n: m.weight.detach().clone() for n, m in base.named_modules() if "_proj" in n}
    before = score_pairs(base, made.plan.train_tokens)
    model = made.model()
    assert fingerprint(model) == fingerprint(base)
    for name, (a, b, scale) in factors(model).items():
        weight = weights[name.removeprefix("base_model.model.")]
        u, s, v = torch.linalg.svd(weight.double())
        principal = (u[:, :5] * s[:5]) @ v[:5]
        assert a.shape[0] == 10
        torch.testing.assert_close(
            (scale * b[:, :5] @ a[:5]).double(), principal, rtol=0, atol=1e-5
        )
        torch.testing.assert_close(a[:5], a[5:], rtol=0, atol=0)
        torch.testing.assert_close(b[:, :5], -b[:, 5:], rtol=0, atol=0)
        assert scale == pytest.approx(32 / (math.sqrt(5) if rs == "true" else 5))
    for one, other in zip(score_pairs(model, made.plan.train_tokens), before, strict=True):
        assert one.chosen_logp == pytest.approx(other.chosen_logp, rel=1e-5)
    with model.disable_adapter():
        assert score_pairs(model, made.plan.train_tokens) == before


def test_pissa_holds_its_start_and_is_saved_as_plain_lora(bench: Made) -> None:
    made = bench(*BASIS, "lora.init=pissa", "lora.r=5")
    model = made.model()
    start = factors(model)
    made.dpo(model).train()
    for name, (a, b, _) in factors(model).items():
        assert torch.equal(a[5:], start[name][0][5:])
        assert torch.equal(b[:, 5:], start[name][1][:, 5:])
        assert not torch.equal(a[:5], start[name][0][:5])
        assert not torch.equal(b[:, :5], start[name][1][:, :5])
    save_adapter(model, made.tokenizer, made.folder / "saved")
    base = load_base(made.config.model, made.placement)
    again = load_adapter(base, made.folder / "saved")
    config = again.peft_config[ADAPTER]
    assert (config.r, config.lora_alpha, config.init_lora_weights) == (10, 64, True)
    assert score_pairs(again, made.plan.train_tokens) == score_pairs(model, made.plan.train_tokens)


FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "forward_kl": lambda ratio: 1 - (-ratio).exp(),
    "js_divergence": lambda ratio: math.log(2) + nn.functional.logsigmoid(ratio),
    "alpha_divergence": lambda ratio: ((-0.8 * ratio).exp() - 1) / -0.8,
}
"""f'(u) of the f-DPO paper's table 1, by the log of u, with alpha 0.2."""


@pytest.mark.parametrize("option", ["ld_alpha", *FORMULAS, "use_weighting", "discopop"])
def test_a_loss_is_its_papers(bench: Made, losses: Logged, option: str) -> None:
    """Token by token, from the model's own logits."""
    words = words_of(LOSSES.get(option, {"use_weighting": True}))
    made = bench(*words, "train.max_steps=1", "train.batch_size=16", "train.micro_batch_size=16")
    model = made.model()
    trainer = made.dpo(model)
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.03, generator=draw)
    wanted = []
    for row in trainer.train_dataset:
        answers = row["chosen_ids"], row["rejected_ids"]
        common = min(map(len, answers))
        scores, weight = [], torch.tensor(1.0)
        for ids in answers:
            policy, aligned = token_logps(model, row["prompt_ids"], ids)
            with model.disable_adapter():
                reference, _ = token_logps(model, row["prompt_ids"], ids)
            ratios = policy - reference
            if option == "ld_alpha":  # LD-DPO, equation 10
                ratios[common:] *= 0.3
            if option == "use_weighting":  # WPO, equation 2
                weight = weight * aligned.mean().exp()
            scores.append(FORMULAS.get(option, lambda ratio: ratio)(ratios.sum()))
        reward = 0.1 * (scores[0] - scores[1])
        loss = -nn.functional.logsigmoid(reward)
        if option == "discopop":  # DiscoPOP, equation 5
            mixed = torch.sigmoid(reward / 0.5)
            loss = loss * (1 - mixed) + (-reward).exp() * mixed
        wanted.append(weight * loss)
    for one in trainer.callback_handler.callbacks:
        if isinstance(one, FirstLoss):  # the adapter is no longer zero
            trainer.remove_callback(one)
            break
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-4)


def token_logps(model: PeftModel, prompt: list[int], answer: list[int]) -> tuple[Tensor, Tensor]:
    """Log-probs [answer tokens], and those less the log of the sum of squared probabilities."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)[len(prompt) - 1 :]
    found = logps.gather(1, torch.tensor(answer)[:, None])[:, 0]
    return found, found - (2 * logps).logsumexp(-1)


@pytest.mark.parametrize("recipe", ["lora_dpo", "lora_sft"])
def test_offloading_reaches_trl(bench: Made, recipe: str) -> None:
    """On a GPU; a CPU has no memory to offload from, and TRL's manager fails there."""
    made = bench(f"recipe={recipe}", *BASIS)
    made.config.hardware.activation_offloading = True
    shared = _shared_arguments(made.config, made.plan, made.placement, made.folder)
    kind = SFTConfig if recipe == "lora_sft" else DPOConfig
    assert kind(**shared).activation_offloading is True
