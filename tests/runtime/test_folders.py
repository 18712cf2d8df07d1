"""Presets and recipes in the current directory take precedence over the package's."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.judging.judges import read_judge
from mvp_align.launch import check_command
from mvp_align.runtime.folders import (
    CONF_DIR,
    config_options,
    find_config,
    load_recipe,
    own_folder,
    recipe_files,
    replaced_files,
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_without_folders_of_ones_own_the_package_is_all_there_is(here: Path) -> None:
    assert own_folder("conf") is None and replaced_files() == []
    assert find_config("model/llama2_7b.yaml") == CONF_DIR / "model" / "llama2_7b.yaml"
    assert {*recipe_files()} == {"answer", "evaluate", "generate", "lora_dpo", "lora_sft"}


@pytest.mark.parametrize("linked", [False, True])
def test_in_a_clone_nothing_doubles(
    linked: bool, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if linked:
        (here / "conf").symlink_to(CONF_DIR)
    else:
        monkeypatch.chdir(CONF_DIR.parent)
    assert own_folder("conf") is None and replaced_files() == []
    assert check_command("train", []).remarks == []


def test_presets_of_ones_own_are_found_in_every_group(here: Path) -> None:
    write(here / "conf/model/mine.yaml", "name: mine\nid: me/mine\n")
    write(here / "conf/prompt/short.yaml", "name: short\ntemplate: '{question}'\n")
    write(here / "conf/judge/ours.yaml", "endpoint:\n  model: judge-9\n  base_url: http://x/v1\n")
    write(
        here / "conf/experiment/first.yaml",
        "# @package _global_\ndefaults:\n  - override /model: mine\ntrain:\n  beta: 0.3\n",
    )
    (config,) = check_command("train", ["experiment=first", "prompt=short"]).configs
    assert (config.model.id, config.prompt.template) == ("me/mine", "{question}")
    assert (config.train.beta, config.data.name) == (0.3, "sample")
    assert config.run.name == "lora_dpo-mine-sample-short-12"  # a preset's name, without a hash
    assert read_judge("ours").endpoint.model == "judge-9"
    names = [config.model.name for config in check_command("train", ["model=glob(m*)"]).configs]
    assert names == ["mine"]


def test_help_lists_presets_of_ones_own(here: Path) -> None:
    write(here / "conf/model/mine.yaml", "name: mine\nid: me/mine\n")
    command = [sys.executable, "-m", "mvp_align.cli", "train", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "llama3_2_1b, mine, qwen2_5_0_5b" in done.stdout


def test_a_misspelt_name_is_told_all_that_there_are(here: Path) -> None:
    write(here / "conf/model/mine.yaml", "name: mine\nid: me/mine\n")
    with pytest.raises(
        UserError, match=r"Known: api, .*, llama2_13b, .*, mine, .*\. Did you mean 'mine'"
    ):
        check_command("train", ["model=mime"])
    write(here / "conf/judge/ours.yaml", "name: ours\n")
    with pytest.raises(UserError, match="Known: deepseek, doubao, gpt4o, local, ours, semantic"):
        read_judge("nobody")


def test_a_preset_in_place_of_the_package_s_is_taken_and_said(here: Path) -> None:
    write(here / "conf/model/llama2_7b.yaml", "name: llama2_7b\nid: me/tuned-llama\n")
    write(here / "recipes/lora_dpo.py", "RECIPE = Recipe(trains_on='pairs')\n")
    write(here / "recipes/__init__.py", "")
    command = check_command("train", ["model=llama2_7b"])
    assert command.configs[0].model.id == "me/tuned-llama"
    assert command.configs[0].run.name.startswith("lora_dpo-llama2_7b-")
    assert command.remarks == [
        "Taken from this folder, not from the package: conf/model/llama2_7b.yaml,"
        " recipes/lora_dpo.py."
    ]
    assert config_options("model").count("llama2_7b") == 1


def test_a_recipe_is_loaded_by_its_file(here: Path) -> None:
    write(here / "recipes/mine.py", "class Note: pass\ndef main(config): return config + 1\n")
    recipe = load_recipe("mine")
    assert recipe.main(1) == 2
    assert load_recipe("mine") is recipe
    assert isinstance(pickle.loads(pickle.dumps(recipe.Note())), recipe.Note)
    write(here / "elsewhere/recipes/mine.py", "def main(config): return config + 2\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here / "elsewhere")
        assert load_recipe("mine").main(1) == 3


def test_an_unknown_recipe_is_told_all_that_there_are(here: Path) -> None:
    write(here / "recipes/mine.py", "")
    write(here / "recipes/_shared.py", "")
    with pytest.raises(UserError) as caught:
        load_recipe("lora_ppo")
    assert str(caught.value) == (
        "recipes/lora_ppo.py: no such file."
        " There are: answer, evaluate, generate, lora_dpo, lora_sft, mine."
    )


def test_a_recipe_that_cannot_be_imported_leaves_nothing_behind(here: Path) -> None:
    write(here / "recipes/broken.py", "1 / 0")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_recipe("broken")
