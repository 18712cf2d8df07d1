"""Default run names: different settings give different names, all of them valid folder names."""

import re
from collections.abc import Callable

import pytest

from mvp_align.config import Config, Run

Compose = Callable[..., Config]


@pytest.mark.parametrize(
    "commands",
    [
        [
            ["adapter=null"],
            ["adapter=outputs/a/adapter"],
            ["adapter=outputs/b/adapter"],
            ["adapter=b/a/adapter"],
        ],
        [
            ["model.id=/a/merged"],
            ["model.id=/b/merged"],
            ["model.id=HuggingFaceTB/SmolLM2-135M-Instruct"],
            [],
        ],
        [
            ["model=llama2_7b"],
            ["model=llama2_7b", "model.revision=main"],
            ["model=llama2_7b", "model.id=/x/Llama-2-7b-hf"],
        ],
        [
            ["data=files", "data.train=a.jsonl"],
            ["data=files", "data.train=b/a.jsonl"],
            ["data=sample"],
        ],
        [
            ["data=files", "data.train=a.jsonl"],
            ["data=files", "data.train=a.jsonl", "data.test=t.jsonl"],
        ],
        [["data=divervalue"], ["data=divervalue", "data.test=elsewhere/DVB-test.json"]],
        [
            ["prompt=paper"],
            ["prompt=paper", "prompt.chat=true"],
            ["prompt=paper", 'prompt.template="{question}"'],
        ],
        [
            ["prompt=history"],
            ["prompt=history", "prompt.choices=2"],
            ["prompt=history", "prompt.choices=0"],
            ["prompt=history", 'prompt.choice="{question} {chosen} {rejected}"'],
        ],
        [["seed=1"], ["seed=2"]],
    ],
    ids=["adapter", "id", "revision", "train", "test", "place", "prompt", "history", "seed"],
)
def test_what_differs_has_another_name(commands: list[list[str]], compose: Compose) -> None:
    names = [compose(*words, name="evaluate").run.name for words in commands]
    assert len({*names}) == len(names), names
    assert all(re.fullmatch(r"[A-Za-z0-9._+-]{1,120}", made) for made in names)


def test_names_can_be_read(compose: Compose) -> None:
    adapter = "adapter=outputs/lora_dpo-smollm2_135m-sample-paper-12/adapter"
    whose = "evaluate-smollm2_135m-sample-paper-from_lora_dpo-smollm2_135m-sample-paper-12"
    assert compose(adapter, name="evaluate").run == Run(
        name=f"{whose}-12", dir=f"outputs/{whose}-12"
    )
    assert (
        compose("adapter=outputs/a/adapter/").run.name
        == compose("adapter=./outputs/a/adapter").run.name
    )
    assert re.fullmatch(r"lora_dpo-merged-\w{6}-mine-\w{6}-paper-\w{6}-12", compose(
        "model.id=/a/merged", "data=files", "data.train=b/mine.jsonl", "prompt.chat=true"
    ).run.name)  # fmt: skip


def test_a_preset_s_name_is_not_given_to_something_else(compose: Compose) -> None:
    """`model.name` and `prompt.name` stand in reports and tables."""
    config = compose("model.id=/a/merged", 'prompt.template="{question}!"')
    assert re.fullmatch(r"merged-\w{6}", config.model.name)
    assert re.fullmatch(r"paper-\w{6}", config.prompt.name)
    assert compose("model.id=/a/merged", "model.name=mine").model.name == "mine"
    # as before prompts could show earlier choices
    assert compose('prompt.template="{question}!"').prompt.name == "paper-89aa92"
    assert compose("run.dir=/x").run == Run(name="lora_dpo-smollm2_135m-sample-paper-12", dir="/x")


@pytest.mark.parametrize("text", ["a/b", "../up", "x" * 300, "a b", "ä", "-", "."])
def test_any_text_makes_a_name_of_a_folder(text: str, compose: Compose) -> None:
    for key in ("model.name", "data.name", "prompt.name"):
        name = compose(f'{key}="{text}"').run.name
        assert re.fullmatch(r"lora_dpo-[A-Za-z0-9._+-]{1,111}", name)
    assert compose('model.name="a/b"').run.name != compose("model.name=a_b").run.name
