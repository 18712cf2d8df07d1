"""One bad value per rule gives exactly that rule's message, with its remedy."""

from collections.abc import Callable

import pytest

from mvp_align.config import Config
from mvp_align.training.losses import trl_losses
from mvp_align.validate import CHOICES, combination_problems

Compose = Callable[..., Config]

ABOVE_ZERO = [
    "train.learning_rate=0.0",
    "train.epochs=-1.0",
    "train.max_steps=0",
    "train.batch_size=0",
    "train.beta=0.0",
    "train.beta=nan",
    "train.discopop_tau=0.0",
    "train.max_grad_norm=0.0",
    "train.save_steps=0",
    "lora.r=0",
    "lora.alpha=-32",
    "+lora.rank_pattern.v_proj=0",
    "+lora.alpha_pattern.v_proj=-1",
    "data.limit=0",
    "data.max_prompt_tokens=0",
    "evals.batch_size=0",
    "evals.every_steps=0",
    "evals.every_pairs=-1",
]
FROM_ZERO_TO_ONE = [
    "lora.dropout=1.0", "lora.dropout=-0.1", "train.label_smoothing=1.0", "train.warmup_share=1.5",
    "train.ld_alpha=1.0", "train.ld_alpha=-0.5",
]  # fmt: skip
RULES = {
    "samples": (["tracking.samples=-1"], "tracking.samples=-1: must be 0 or above."),
    "infinite": (["train.learning_rate=inf"], "train.learning_rate=inf: must be a finite number."),
    "infinite temperature": (
        ["generation.temperature=inf"],
        "generation.temperature=inf: must be a finite number.",
    ),
    "a weight that is no number": (
        ["train.loss_type=sigmoid+sft", "train.loss_weights=[1.0,nan]"],
        "train.loss_weights[1]=nan: must be a finite number.",
    ),
    "no date": (
        ["prompt=chat", "prompt.date=26-07-2024", "generation.prompt.date=2024-07-26"],
        "prompt.date=26-07-2024: a date belongs there, as 2024-07-26.",
    ),
    "date of no chat": (
        ["prompt.date=2031-02-03", "generation.prompt.chat=false"],
        "prompt.date=2031-02-03 is for chat templates: set prompt=chat, or leave it out.",
    ),
    "sets": (
        ["evals.sets=[in_domain,ood]"],
        "evals.sets: 'ood' is not one of in_domain, ufp4, ufp4_sample, auto.",
    ),
    "metrics": (
        ["evals.metrics=[opa,bleu]"],
        "evals.metrics: 'bleu' is not one of opa, spmr, paa.",
    ),
    "profiles": (
        ["evals.profiles=[values,horoscope]"],
        "evals.profiles: 'horoscope' is not one of none, demographics, values, shuffled.",
    ),
    "weight decay": (["train.weight_decay=-0.1"], "train.weight_decay=-0.1: must be 0 or above."),
    "test share 0": (["data.test_share=0"], "data.test_share=0.0: must lie between 0 and 1."),
    "test share 1": (["data.test_share=1"], "data.test_share=1.0: must lie between 0 and 1."),
    "room for an answer": (
        ["data.max_prompt_tokens=1024"],
        (
            "data.max_prompt_tokens=1024 leaves no room for an answer in data.max_tokens=1024: "
            "lower the one, or raise the other."
        ),
    ),
    "micro batch word": (
        ["train.micro_batch_size=big"],
        "train.micro_batch_size=big: must be a whole number of pairs, or auto.",
    ),
    "micro batch 0": (
        ["train.micro_batch_size=0"],
        "train.micro_batch_size=0: must be above 0, or auto.",
    ),
    "checkpointing word": (
        ["hardware.gradient_checkpointing=perhaps"],
        "hardware.gradient_checkpointing=perhaps: must be true, false or auto.",
    ),
    "objective's step size": (
        ["train.objective=gr_dpo", "train.objective_eta=0"],
        "train.objective_eta=0.0: must be above 0.",
    ),
    "objective's temperature": (
        ["train.objective=kl_dpo", "train.objective_tau=-1"],
        "train.objective_tau=-1.0: must be above 0.",
    ),
    "objective of a loss of a pass": (
        ["train.objective=gr_dpo", "train.loss_type=aot"],
        "train.objective=gr_dpo weighs pairs by their own losses, which train.loss_type=aot does"
        " not have here: use sigmoid, hinge, ipo.",
    ),
    "objective of rewards that are others": (
        ["train.objective=kl_dpo", "train.f_divergence_type=forward_kl"],
        "train.objective=kl_dpo weighs pairs by their losses, which are not computed here with"
        " train.f_divergence_type=forward_kl: leave out either.",
    ),
    "objective of sums that are others": (
        ["train.objective=importance", "train.ld_alpha=0.5"],
        "train.objective=importance weighs pairs by their losses, which are not computed here with"
        " train.ld_alpha=0.5: leave out either.",
    ),
    "two weights a pair": (
        ["train.objective=gr_dpo", "train.use_weighting=true"],
        "train.objective=gr_dpo weighs pairs by their losses, which are not computed here with"
        " train.use_weighting=True: leave out either.",
    ),
    "divergence of a loss without": (
        ["train.loss_type=sigmoid+apo_zero", "train.f_divergence_type=js_divergence"],
        "train.f_divergence_type=js_divergence does not go with apo_zero, which is defined for"
        " reverse_kl alone: use sigmoid, hinge, ipo, exo_pair, robust, discopop, sigmoid_norm, or"
        " leave it out.",
    ),
    "coefficient": (
        ["train.f_divergence_type=alpha_divergence", "train.f_alpha_divergence_coef=1"],
        "train.f_alpha_divergence_coef=1.0: must lie between 0 and 1.",
    ),
    "weights of sorted pairs": (
        ["train.loss_type=aot", "train.use_weighting=true"],
        "train.use_weighting=true does not go with train.loss_type=aot, which sorts the pairs of a"
        " pass, so that their weights would fall on others: leave out either.",
    ),
    "start": (
        ["lora.init=pissa_niter"],
        "lora.init=pissa_niter: must be one of default, pissa, pissa_niter_N (a number of"
        " iterations).",
    ),
    "PiSSA of 4 bits": (
        ["lora.init=pissa", "quantization=4bit"],
        "lora.init=pissa takes each weight apart, which quantization=4bit has rounded: leave out"
        " either.",
    ),
    "PiSSA in parts": (
        ["lora.init=pissa_niter_4", "hardware.sharding=fsdp"],
        "lora.init=pissa_niter_4 holds half of the adapter at its start, which"
        " hardware.sharding=fsdp would take apart: leave out either.",
    ),
    "PiSSA and decay": (
        ["lora.init=pissa", "train.weight_decay=0.1"],
        "train.weight_decay=0.1 would also shrink the half of the adapter that lora.init=pissa"
        " holds at its start, and so move the model: leave out either.",
    ),
    "plain LoRA+": (
        ["train.loraplus_lr_ratio=1"],
        "train.loraplus_lr_ratio=1.0: must be above 1, which would be plain LoRA.",
    ),
    "LoRA+ in parts": (
        ["train.loraplus_lr_ratio=16", "hardware.sharding=fsdp"],
        "train.loraplus_lr_ratio needs an optimizer of its own, which does not go with"
        " hardware.sharding=fsdp: leave out either.",
    ),
    "offloading from a CPU": (
        ["hardware=cpu", "hardware.activation_offloading=true"],
        "hardware.activation_offloading=true frees a GPU's memory, and hardware.device=cpu has"
        " none: leave it out.",
    ),
    "offloading in parts": (
        ["hardware.sharding=fsdp", "hardware.activation_offloading=true"],
        "hardware.activation_offloading=true was never tried with hardware.sharding=fsdp: leave"
        " out either.",
    ),
    "offloading of compiled layers": (
        ["hardware.compile=true", "hardware.activation_offloading=true"],
        "hardware.activation_offloading=true was never tried with hardware.compile=true: leave"
        " out either.",
    ),
    "loader word": (
        ["hardware.loader_workers=many"],
        "hardware.loader_workers=many: must be a number of processes, or auto.",
    ),
    "loader number": (
        ["hardware.loader_workers=-1"],
        "hardware.loader_workers=-1: must be a number of processes, or auto.",
    ),
    "batch arithmetic": (
        ["train.batch_size=8", "train.micro_batch_size=3"],
        "train.batch_size=8 is not a multiple of train.micro_batch_size=3: change either.",
    ),
    "one of two losses": (
        ["train.loss_type=sigmoid+kto"],
        f"train.loss_type: 'kto' is not one of {', '.join(trl_losses())}.",
    ),
    "loss weights": (
        ["train.loss_type=sigmoid+sft", "train.loss_weights=[1.0]"],
        (
            "train.loss_weights has 1 weights for 2 losses in train.loss_type=sigmoid+sft: give one"
            " each."
        ),
    ),
    "exo_pair": (
        ["train.loss_type=exo_pair"],
        "train.loss_type=exo_pair needs train.label_smoothing above 0 (its paper recommends 1e-3).",
    ),
    "smoothing of a loss without": (
        ["train.label_smoothing=0.1"],
        (
            "train.label_smoothing=0.1 would change nothing: of the losses only exo_pair, robust,"
            " aot, aot_unpaired have it. train.loss_type=robust is sigmoid with label smoothing."
        ),
    ),
    "reference of SFT": (
        ["recipe=lora_sft", "train.reference=outputs/x/adapter"],
        "train.reference has no meaning for recipe=lora_sft: leave it out, or use recipe=lora_dpo.",
    ),
    "SFT's look at validation": (
        ["recipe=lora_sft", "evals.every_steps=10", "evals.sets=[ufp4_sample]"],
        "evals.every_steps scores in_domain during training: add it to evals.sets.",
    ),
    "lm_head": (
        ["lora.target_modules=[q_proj,lm_head]"],
        (
            "lora.target_modules: lm_head cannot carry an adapter here (TRL reads its weight"
            " directly)."
        ),
    ),
    "no layers": (
        ["lora.target_modules=[]"],
        "lora.target_modules is empty: name linear layers, or [all-linear].",
    ),
    "all-linear and more": (
        ["lora.target_modules=[all-linear,q_proj]"],
        "lora.target_modules: all-linear stands alone; leave the other names out.",
    ),
    "nothing to train on": (
        ["data=files", "data.test=test.json"],
        "data.train is not set: data=files data.train=PATH data.test=PATH data.format=FORMAT.",
    ),
    "fp16 on a CPU": (
        ["hardware=cpu", "hardware.precision=fp16"],
        "hardware.precision=fp16 needs a GPU: use fp32 or auto with hardware.device=cpu.",
    ),
    "flash attention on a CPU": (
        ["hardware.device=cpu", "hardware.attention=flash_attention_2"],
        (
            "hardware.attention=flash_attention_2 needs a GPU: use auto or sdpa with"
            " hardware.device=cpu."
        ),
    ),
    "flash attention in fp32": (
        ["hardware=cuda", "hardware.precision=fp32", "hardware.attention=flash_attention_2"],
        "hardware.attention=flash_attention_2 needs bf16 or fp16: change hardware.precision.",
    ),
    "broken template": (
        ["prompt.template='{question'"],
        (
            "prompt.template is broken: expected '}' before end of string. Write a literal brace"
            " twice."
        ),
    ),
    "unknown field": (
        ["prompt.template='{country}: {question}'"],
        (
            "prompt.template uses {country}: it can use age, gender, employment_status, education,"
            " marital_status, birth_country, english_proficiency, preference, choices,"
            " question."
        ),
    ),
    "no question": (["prompt.template='Age: {age}'"], "prompt.template never shows {question}."),
    "choices without a place": (
        ["prompt.choices=2"],
        (
            "prompt.choices=2 would change nothing: prompt.template never shows {choices}. Use"
            " prompt=history, or a template with {choices}."
        ),
    ),
    "choices below 0": (
        ["prompt=history", "prompt.choices=-1"],
        "prompt.choices=-1: must be 0 or above.",
    ),
    "a choice without its answer": (
        ["prompt=history", "prompt.choice='{question} {chosen}'"],
        "prompt.choice never shows {rejected}.",
    ),
    "a curve below 0": (["evals.choices=[1,-1]"], "evals.choices: -1 must be 0 or above."),
    "a curve of none": (
        ["evals.choices=[0]"],
        "evals.choices shows none: add a count above 0, as in [0,1,2,4].",
    ),
    "too little support": (
        ["prompt=history", "data.support=2"],
        (
            "data.support=2 leaves too few to show: prompt.choices or evals.choices wants 4. Raise"
            " it, or leave it out."
        ),
    ),
    "choices of people who are made up": (
        ["prompt=history", "data.counterfactual=all"],
        (
            "data.counterfactual=all makes up pairs of people whose earlier choices nobody knows:"
            " leave it out, or set prompt.choices=0."
        ),
    ),
    "support below 0": (["data.support=-1"], "data.support=-1: must be 0 or above."),
}


@pytest.mark.parametrize("name", ["train", "evaluate"])
def test_defaults_have_no_problem(name: str, compose: Compose) -> None:
    assert combination_problems(compose(name=name)) == []


@pytest.mark.parametrize(
    "key",
    [
        key
        for key in CHOICES
        if key not in ("evals.metrics", "evals.profiles", "model.api.leave_out")
    ],
)
def test_choices(key: str, compose: Compose) -> None:
    expected = f"{key}=teal: must be one of {', '.join(CHOICES[key])}."
    assert combination_problems(compose(f"{key}=teal")) == [expected]
    for choice in CHOICES[key]:
        assert not [
            p for p in combination_problems(compose(f"{key}={choice}")) if "must be one of" in p
        ]


@pytest.mark.parametrize("override", ABOVE_ZERO)
def test_above_zero(override: str, compose: Compose) -> None:
    said = f"{override.lstrip('+')}: must be above 0."
    assert combination_problems(compose(override)) == [said]


@pytest.mark.parametrize("override", FROM_ZERO_TO_ONE)
def test_from_zero_up_to_one(override: str, compose: Compose) -> None:
    assert combination_problems(compose(override)) == [f"{override}: must be from 0 up to 1."]


@pytest.mark.parametrize(("overrides", "message"), RULES.values(), ids=RULES)
def test_rule(overrides: list[str], message: str, compose: Compose) -> None:
    assert combination_problems(compose(*overrides)) == [message]


def test_no_tokens_at_all_breaks_two_rules(compose: Compose) -> None:
    assert combination_problems(compose("data.max_tokens=0")) == [
        "data.max_tokens=0: must be above 0.",
        (
            "data.max_prompt_tokens=512 leaves no room for an answer in data.max_tokens=0: lower"
            " the one, or raise the other."
        ),
    ]


def test_evaluating_in_domain_needs_pairs(compose: Compose) -> None:
    missing = (
        "data.test is not set: data=files data.test=PATH data.format=FORMAT, or evals.sets=[ufp4]"
        " evals.ufp4=FOLDER."
    )
    assert combination_problems(compose("data=files", name="evaluate")) == [missing]
    assert (
        combination_problems(compose("data=files", "evals.sets=[ufp4_sample]", name="evaluate"))
        == []
    )
    assert combination_problems(compose("data=files", "data.test=test.json", name="evaluate")) == []


def test_all_problems_are_found_at_once(compose: Compose) -> None:
    bad = compose(
        "quantization=8bit",
        "lora.r=0",
        "train.batch_size=7",
        "train.micro_batch_size=2",
        "data=files",
        "prompt.template=Hello",
    )
    assert [problem.split(" ")[0] for problem in combination_problems(bad)] == [
        "quantization=8bit:",
        "lora.r=0:",
        "train.batch_size=7",
        "data.train",
        "prompt.template",
    ]


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.micro_batch_size=auto", "train.batch_size=7"],
        ["train.loss_type=sigmoid+sft", "train.loss_weights=[1.0,0.2]"],
        ["train.loss_type=exo_pair", "train.label_smoothing=0.001"],
        ["recipe=lora_sft", "evals.every_steps=10"],
        ["train.reference=outputs/x/adapter"],
        ["hardware=cuda", "hardware.attention=flash_attention_2"],
        ["prompt.template='{{literal}} {question}'"],
        ["prompt=history", "prompt.choices=0"],
        ["prompt=paper", "evals.choices=[0,4]", "data.support=6"],
        ["train.weight_decay=0", "train.warmup_share=0", "lora.dropout=0"],
    ],
)
def test_what_can_run_is_let_through(overrides: list[str], compose: Compose) -> None:
    assert combination_problems(compose(*overrides)) == []


def test_schedulers_are_ones_that_the_trainer_knows() -> None:
    from transformers.trainer_utils import SchedulerType

    assert set(CHOICES["train.lr_scheduler"]) <= {kind.value for kind in SchedulerType}


@pytest.mark.parametrize("backend", ["tensorboard", "trackio"])
def test_a_tracker_whose_library_is_missing_is_a_mistake(
    backend: str, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(f"tracking={backend}")
    assert combination_problems(config) == []
    monkeypatch.setattr("mvp_align.validate.find_spec", lambda name: None)
    assert combination_problems(config) == [
        f"tracking.backend={backend} needs a package that is not installed: pip install {backend}"
    ]


def test_zero2_without_deepspeed_is_a_mistake(
    compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose("hardware=zero2", "quantization=4bit")
    assert combination_problems(config) == []
    monkeypatch.setattr(
        "mvp_align.validate.find_spec", lambda name: None if name == "deepspeed" else True
    )
    assert combination_problems(config) == [
        "hardware.sharding=zero2 needs a package that is not installed: pip install deepspeed"
    ]
    config.hardware.precision = "fp16"
    assert combination_problems(config)[1:] == [
        "hardware.sharding=zero2 computes in bf16 or fp32: change hardware.precision."
    ]
