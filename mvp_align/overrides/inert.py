"""Find settings on a command line that would change nothing.

They have no effect because another setting overrides them. Defaults and settings from files of
conf/ never count, because the user did not ask for them.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.formats import FORMATS
from mvp_align.data.prompts import shows_choices, shows_person
from mvp_align.data.recognition import may_be_conversations
from mvp_align.modeling.packaged import packaged_gguf
from mvp_align.runtime.recipes import recipe_named
from mvp_align.training.bounds import bounds_of

ALWAYS_USED = ("train.dry_run", "tracking.backend")


@dataclass(frozen=True, slots=True)
class Rule:
    """`keys` have no effect if `inert` returns true.

    A key that ends in a dot covers all below it.

    `harmless` rules print a note instead of refusing the command.
    """

    keys: tuple[str, ...]
    inert: Callable[[Config], object]
    why: str
    harmless: bool = False

    def names(self, key: str) -> bool:
        return any(key == one or (one.endswith(".") and key.startswith(one)) for one in self.keys)


def _without_reference(config: Config) -> bool:
    recipe = recipe_named(config.recipe)
    return recipe.trains and not recipe.reference


def _evaluates(config: Config) -> bool:
    return not recipe_named(config.recipe).trains


def _losses(config: Config) -> set[str]:
    return {*config.train.loss_type.split("+")}


def _answers(config: Config) -> set[str]:
    return {"spmr", "paa"} & {*config.evals.metrics}


def _fills_no_template(config: Config) -> bool:
    """Whether profiles are free text and the template asks for their fields.

    A broken template is reported by `validate`.
    """
    known = FORMATS.get(config.data.format)
    with suppress(ValueError):
        return known is not None and known.profiles_are_text and shows_person(config.prompt)
    return False


def _has_place_for_choices(config: Config) -> bool:
    """Whether the template shows `{choices}`. A broken one is reported by `validate`."""
    with suppress(ValueError):
        return shows_choices(config.prompt)
    return False


def _drops_out(config: Config) -> bool:
    return _without_reference(config) or not config.train.disable_dropout


def _asks_a_server(config: Config) -> bool:
    return not recipe_named(config.recipe).weights


def _reads_no_own_pairs(config: Config) -> bool:
    sources = (config.data.train, config.data.val, config.data.test)
    return all(source is None or source.startswith("sample:") for source in sources)


RULES = (
    Rule(
        (
            "adapter",
            "adapter_base",
            "quantization",
            "run.logp_cache",
            "data.max_prompt_tokens",
            "data.max_tokens",
            "evals.batch_size",
            "evals.worst_by",
            "generation.batch_size",
            "generation.engine",
            "hardware.attention",
            "hardware.compile",
            "hardware.precision",
            "hardware.sharding",
            "model.revision",
        ),
        _asks_a_server,
        "it is about a model whose weights are here, and a server answers this run.",
    ),
    Rule(
        ("tracking.samples", "tracking.texts"),
        _asks_a_server,
        "samples are pairs that were scored, and a server answers this run.",
    ),
    Rule(
        ("prompt.chat", "prompt.date"),
        _asks_a_server,
        "the server applies its model's own chat template.",
    ),
    Rule(
        ("generation.temperature",),
        lambda c: "temperature" in c.model.api.leave_out,
        "model.api.leave_out says not to send it: leave out either.",
    ),
    Rule(
        ("generation.prompt.", "prompt@generation.prompt"),
        _asks_a_server,
        "this run shows one prompt, by prompt=NAME.",
    ),
    Rule(
        ("model.api.",),
        lambda c: not _asks_a_server(c),
        "it is about a server, and this run loads its model: `mvp-align answer` asks one.",
    ),
    Rule(("train.",), _evaluates, "this command trains nothing.", harmless=True),
    Rule(
        ("lora.",),
        _evaluates,
        "this command makes no adapter; evaluate.py takes one with adapter=PATH.",
        harmless=True,
    ),
    Rule(
        (
            "evals.every_steps",
            "evals.every_pairs",
            "generation.every_pairs",
            "hardware.activation_offloading",
            "hardware.gradient_checkpointing",
            "hardware.loader_workers",
            "data.counterfactual",
        ),
        _evaluates,
        "it is about training, and this command trains nothing.",
    ),
    Rule(
        ("lora.",),
        lambda c: c.adapter,
        "adapter=PATH brings its own: leave it out, or leave adapter out.",
    ),
    Rule(
        ("lora.dropout",),
        lambda c: not _drops_out(c),
        "train.disable_dropout=true switches it off: add train.disable_dropout=false.",
    ),
    Rule(
        (
            "train.beta",
            "train.loss_type",
            "train.loss_weights",
            "train.label_smoothing",
            "train.disable_dropout",
            "train.objective",
            "train.objective_by",
            "train.objective_eta",
            "train.objective_tau",
            "train.order",
            "data.counterfactual",
            "train.f_divergence_type",
            "train.f_alpha_divergence_coef",
            "train.ld_alpha",
            "train.use_weighting",
            "train.discopop_tau",
        ),
        _without_reference,
        "this recipe has no loss of pairs: leave it out, or use recipe=lora_dpo.",
    ),
    Rule(
        ("train.beta", "train.reference"),
        lambda c: _losses(c) == {"sft"},
        "train.loss_type=sft by itself knows neither beta nor a reference: add a loss of pairs, as"
        " sigmoid+sft.",
    ),
    Rule(
        ("train.f_divergence_type", "train.ld_alpha"),
        lambda c: _losses(c) == {"sft"},
        "train.loss_type=sft by itself compares no answers: add a loss of pairs, as sigmoid+sft.",
    ),
    Rule(
        ("train.f_alpha_divergence_coef",),
        lambda c: c.train.f_divergence_type != "alpha_divergence",
        "train.f_divergence_type=alpha_divergence alone has a coefficient.",
    ),
    Rule(
        ("train.discopop_tau",),
        lambda c: "discopop" not in _losses(c),
        "train.loss_type=discopop alone has a temperature.",
    ),
    Rule(
        ("lora.use_rslora",),
        lambda c: c.lora.r == 1 and not c.lora.rank_pattern,
        "at lora.r=1 alpha / sqrt(r) is alpha / r: leave it out, or take a higher rank.",
    ),
    Rule(
        ("train.objective_by",),
        lambda c: c.train.objective in ("mean", "kl_dpo"),
        "train.objective asks for no groups: use importance or gr_dpo.",
    ),
    Rule(
        ("train.objective_eta",),
        lambda c: c.train.objective != "gr_dpo",
        "train.objective=gr_dpo alone has a step size.",
    ),
    Rule(
        ("train.objective_tau",),
        lambda c: c.train.objective != "kl_dpo",
        "train.objective=kl_dpo alone has a temperature.",
    ),
    Rule(
        ("train.epochs",),
        lambda c: c.train.max_steps,
        "train.max_steps decides in its place: leave it out, or set train.max_steps=null.",
    ),
    Rule(
        ("train.warmup_share",),
        lambda c: c.train.lr_scheduler == "constant",
        "train.lr_scheduler=constant has no warmup: use constant_with_warmup.",
    ),
    Rule(
        ("data.license",),
        _reads_no_own_pairs,
        "it is about files of your own, and data.train, data.val and data.test name none. The"
        " bundled sample is under CC-BY-4.0.",
    ),
    Rule(
        ("data.test_share",),
        lambda c: c.data.test or not c.data.train,
        "nobody is held out of data.train where data.test is given: set data.test=null.",
    ),
    Rule(
        ("prompt.template",),
        _fills_no_template,
        "the profiles of this data.format are free text, which fills no {age} or {preference}: its"
        " prompts are profile, newline, question. A template of {question} alone is used.",
    ),
    Rule(
        ("prompt.choice",),
        lambda c: not c.prompt.choices and not (c.evals.choices and _has_place_for_choices(c)),
        "no prompt of this run shows earlier choices written so: use prompt=history, or a template"
        " with {choices} and prompt.choices above 0.",
    ),
    Rule(
        ("prompt.date",),
        lambda c: (
            not (c.prompt.chat or may_be_conversations(c.data.format))
            and not (_answers(c) and c.generation.prompt.chat)
        ),
        "no prompt of this run is a turn of a chat template: leave it out, or use prompt=chat.",
    ),
    Rule(
        ("evals.every_pairs",),
        lambda c: not c.evals.every_steps,
        "nothing is scored in training: set evals.every_steps.",
    ),
    Rule(
        ("train.stop_on.action",),
        lambda c: not bounds_of(c.train.stop_on),
        "no bound is set: set train.stop_on.chosen_shift or train.stop_on.perplexity.",
    ),
    Rule(
        ("generation.every_pairs",),
        lambda c: not c.evals.every_steps or not _answers(c),
        "nothing is answered in training: set evals.every_steps, and evals.metrics=[opa,paa].",
    ),
    Rule(
        ("evals.judge",),
        lambda c: "paa" not in c.evals.metrics,
        "nothing is judged: add paa to evals.metrics.",
    ),
    Rule(
        ("generation.",),
        lambda c: not _answers(c),
        "this run answers nothing (evals.metrics has neither spmr nor paa). `mvp-align generate`"
        " will take it.",
        harmless=True,
    ),
    Rule(
        ("model.revision",),
        lambda c: packaged_gguf(c.model) or Path(c.model.id).is_dir(),
        "model.id names files on this machine, which have one revision: leave it out, or set"
        " model.id to a Hugging Face id.",
    ),
    Rule(
        ("tracking.",),
        lambda c: c.tracking.backend == "none",
        "nothing is tracked: add tracking=wandb, tensorboard or trackio.",
    ),
    Rule(
        ("tracking.texts",),
        lambda c: not c.tracking.samples,
        "tracking.samples=0 shows no pairs: leave out either.",
    ),
    Rule(
        ("tracking.mode", "tracking.project", "tracking.group", "tracking.artifacts"),
        lambda c: c.tracking.backend == "tensorboard",
        "TensorBoard knows no such thing: leave it out, or use tracking=wandb or trackio.",
    ),
    Rule(
        ("tracking.entity", "tracking.tags"),
        lambda c: c.tracking.backend != "wandb",
        "W&B alone knows it: add tracking=wandb.",
    ),
)


def inert_settings(keys: Sequence[str], configs: Sequence[Config]) -> tuple[list[str], list[str]]:
    """Return two lists of messages on settings that change none of the runs: errors, and notes."""
    refused: dict[str, str] = {}
    notes: dict[str, str] = {}
    for key in dict.fromkeys(keys):
        for rule in RULES:
            if key not in ALWAYS_USED and rule.names(key) and all(map(rule.inert, configs)):
                (notes if rule.harmless else refused)[key] = (
                    f"{key} would change nothing: {rule.why}"
                )
    return [*refused.values()], [line for key, line in notes.items() if key not in refused]
