"""Settings without effect are refused if given explicitly, but not as defaults or in presets."""

from collections.abc import Callable

import pytest

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.launch import check_command
from mvp_align.overrides.inert import RULES, inert_settings

Compose = Callable[..., Config]

REFUSED = {
    "training of evaluate.py": (["evals.every_steps=5"], "evals.every_steps", "evaluate"),
    "lora beside an adapter": (["adapter=a", "lora.r=64"], "lora.r", "train"),
    "dropout that DPO switches off": (["lora.dropout=0.1"], "lora.dropout", "train"),
    "DPO's of SFT": (["recipe=lora_sft", "train.beta=0.2"], "train.beta", "train"),
    "beta of sft alone": (["train.loss_type=sft", "train.beta=0.2"], "train.beta", "train"),
    "epochs beside steps": (["train.max_steps=5", "train.epochs=2"], "train.epochs", "train"),
    "epochs beside an experiment's steps": (
        ["experiment=demo", "train.epochs=2"],
        "train.epochs",
        "train",
    ),
    "warmup of constant": (
        ["train.lr_scheduler=constant", "train.warmup_share=0.1"],
        "train.warmup_share",
        "train",
    ),
    "form of choices that nobody sees": (
        ["prompt=paper", "evals.choices=[0,1]", "prompt.choice='{question}{chosen}{rejected}'"],
        "prompt.choice",
        "train",
    ),
    "groups of the mean": (["train.objective_by=region"], "train.objective_by", "train"),
    "step size of others": (
        ["train.objective=importance", "train.objective_eta=0.1"],
        "train.objective_eta",
        "train",
    ),
    "temperature of others": (
        ["train.objective=gr_dpo", "train.objective_tau=0.1"],
        "train.objective_tau",
        "train",
    ),
    "divergence of sft alone": (
        ["train.loss_type=sft", "train.f_divergence_type=forward_kl"],
        "train.f_divergence_type",
        "train",
    ),
    "lengths of sft alone": (
        ["train.loss_type=sft", "train.ld_alpha=0.5"],
        "train.ld_alpha",
        "train",
    ),
    "coefficient of others": (
        ["train.f_divergence_type=forward_kl", "train.f_alpha_divergence_coef=0.3"],
        "train.f_alpha_divergence_coef",
        "train",
    ),
    "temperature of other losses": (["train.discopop_tau=1"], "train.discopop_tau", "train"),
    "weights of SFT": (
        ["recipe=lora_sft", "train.use_weighting=true"],
        "train.use_weighting",
        "train",
    ),
    "scaling of rank 1": (["lora.r=1", "lora.use_rslora=true"], "lora.use_rslora", "train"),
    "offloading of evaluate.py": (
        ["hardware.activation_offloading=true"],
        "hardware.activation_offloading",
        "evaluate",
    ),
    "precision of a model elsewhere": (
        ["model=gpt4o", "hardware.precision=bf16"],
        "hardware.precision",
        "answer",
    ),
    "samples where a server answers": (
        ["tracking=wandb", "tracking.samples=5"],
        "tracking.samples",
        "answer",
    ),
    "texts where a server answers": (
        ["tracking=wandb", "tracking.texts=true"],
        "tracking.texts",
        "answer",
    ),
    "licence of the sample": (["data.license=own"], "data.license", "train"),
    "limits that only a tokenizer tells": (["data.max_tokens=64"], "data.max_tokens", "answer"),
    "a server's chat template": (["prompt.chat=false"], "prompt.chat", "answer"),
    "temperature that is not sent": (
        ["model.api.leave_out=[temperature]", "generation.temperature=0"],
        "generation.temperature",
        "answer",
    ),
    "another prompt of answers": (
        ["prompt@generation.prompt=paper"],
        "prompt@generation.prompt",
        "answer",
    ),
    "server of a model that is loaded": (
        ["model.api.concurrency=2"],
        "model.api.concurrency",
        "evaluate",
    ),
    "share beside a test file": (["data.test_share=0.5"], "data.test_share", "train"),
    "pairs at no step": (["evals.every_pairs=5"], "evals.every_pairs", "train"),
    "action at no bound": (["train.stop_on.action=warn"], "train.stop_on.action", "train"),
    "texts of no samples": (
        ["tracking.samples=0", "tracking.texts=true"],
        "tracking.texts",
        "train",
    ),
    "answers at no step": (
        ["evals.metrics=[paa]", "generation.every_pairs=5"],
        "generation.every_pairs",
        "train",
    ),
    "template of free text": (
        [
            "data=files",
            "data.format=pairs",
            "data.train=x.jsonl",
            "prompt.template='I am {age}. {question}'",
        ],
        "prompt.template",
        "train",
    ),
    "date of no chat": (["prompt.date=2030-01-01"], "prompt.date", "train"),
    "judge of nothing": (["evals.judge=gpt4o"], "evals.judge", "train"),
    "revision of a file": (["model.revision=main"], "model.revision", "train"),
    "tracking without a tracker": (["tracking.project=x"], "tracking.project", "evaluate"),
    "entity of others": (["tracking=trackio", "tracking.entity=x"], "tracking.entity", "train"),
    "project of TensorBoard": (
        ["tracking=tensorboard", "tracking.project=x"],
        "tracking.project",
        "train",
    ),
    "tags of trackio": (["tracking=trackio", "tracking.tags=[x]"], "tracking.tags", "train"),
}
USED = {
    "action at a bound": (
        ["train.stop_on.action=warn", "train.stop_on.perplexity=1.2"],
        "train.stop_on.action",
        "train",
    ),
    "dropout": (["train.disable_dropout=false", "lora.dropout=0.1"], "lora.dropout", "train"),
    "dropout of SFT": (["recipe=lora_sft", "lora.dropout=0.1"], "lora.dropout", "train"),
    "beta of a sum": (["train.loss_type=sigmoid+sft", "train.beta=0.2"], "train.beta", "train"),
    "epochs": (
        ["experiment=demo", "train.max_steps=null", "train.epochs=2"],
        "train.epochs",
        "train",
    ),
    "template without a person": (
        [
            "data=files",
            "data.format=pairs",
            "data.train=x.jsonl",
            "prompt.template='Q: {question}'",
        ],
        "prompt.template",
        "train",
    ),
    "broken template": (  # validate reports it
        ["data=files", "data.format=pairs", "data.train=x.jsonl", "prompt.template='{question'"],
        "prompt.template",
        "train",
    ),
    "date of a chat": (["prompt=chat", "prompt.date=2030-01-01"], "prompt.date", "train"),
    "date of answers": (
        ["evals.metrics=[paa]", "prompt.date=2030-01-01"],
        "prompt.date",
        "train",
    ),
    "lengths of a sum": (
        ["train.loss_type=sigmoid+sft", "train.ld_alpha=0.5"],
        "train.ld_alpha",
        "train",
    ),
    "coefficient": (
        ["train.f_divergence_type=alpha_divergence", "train.f_alpha_divergence_coef=0.3"],
        "train.f_alpha_divergence_coef",
        "train",
    ),
    "temperature": (
        ["train.loss_type=sigmoid+discopop", "train.discopop_tau=1"],
        "train.discopop_tau",
        "train",
    ),
    "scaling of a rank by layer": (
        ["lora.r=1", "lora.rank_pattern={v_proj:4}", "lora.use_rslora=true"],
        "lora.use_rslora",
        "train",
    ),
    "share": (["data.test=null", "data.test_share=0.5"], "data.test_share", "train"),
    "revision": (["model=llama2_7b", "model.revision=main"], "model.revision", "train"),
    "licence": (["data.test=a.jsonl", "data.license=own"], "data.license", "train"),
    "texts": (["tracking=wandb", "tracking.texts=true"], "tracking.texts", "train"),
    "judge": (["evals.metrics=[paa]", "evals.judge=gpt4o"], "evals.judge", "train"),
    "requests to a server": (["model.api.concurrency=2"], "model.api.concurrency", "answer"),
    "no tracker": (["tracking.backend=none"], "tracking.backend", "train"),
    "dry run": (["train.dry_run=true"], "train.dry_run", "evaluate"),
}
SAID = {
    "training of evaluate.py": (["train.max_steps=5"], "train.max_steps", "evaluate"),
    "lora of evaluate.py": (["lora.r=64"], "lora.r", "evaluate"),
    "generation for later": (["generation.temperature=0"], "generation.temperature", "train"),
}


@pytest.mark.parametrize(("words", "key", "name"), REFUSED.values(), ids=REFUSED)
def test_refused(words: list[str], key: str, name: str, compose: Compose) -> None:
    config = compose(*words, name=name)
    (line,), said = inert_settings([key], [config])
    assert line.startswith(f"{key} would change nothing: ")
    assert said == []
    assert inert_settings([], [config]) == ([], [])  # as a default, or in a file of conf/


@pytest.mark.parametrize(("words", "key", "name"), USED.values(), ids=USED)
def test_used(words: list[str], key: str, name: str, compose: Compose) -> None:
    assert inert_settings([key], [compose(*words, name=name)]) == ([], [])


@pytest.mark.parametrize(("words", "key", "name"), SAID.values(), ids=SAID)
def test_said(words: list[str], key: str, name: str, compose: Compose) -> None:
    refused, (line,) = inert_settings([key], [compose(*words, name=name)])
    assert refused == []
    assert line.startswith(f"{key} would change nothing: ")


def test_every_rule_has_a_case() -> None:
    keys = {key for _, key, _ in (*REFUSED.values(), *SAID.values())}
    for rule in RULES:
        assert any(key == one or key.startswith(one) for one in rule.keys for key in keys), rule


def test_a_setting_that_one_run_of_a_sweep_uses_passes() -> None:
    check_command("train", ["recipe=lora_dpo,lora_sft", "train.beta=0.2"])
    with pytest.raises(UserError, match=r"train\.beta would change nothing: this recipe has no"):
        check_command("train", ["recipe=lora_sft", "train.beta=0.2"])
