"""Reading stored configs of this version and of an earlier one."""

import json
from pathlib import Path

import pytest
import yaml

from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.errors import AlreadyDone, UserError
from mvp_align.runs.run_folder import open_run
from mvp_align.runs.stored_config import model_of, read_config


def config(model: Model) -> Config:
    return Config("lora_dpo", model, Data(name="sample"), Prompt("paper", "{question}"))


def old_run(tmp_path: Path, id: str, package: str | None) -> Path:
    """A run folder of version 0.1.0."""
    open_run(tmp_path, config(Model("smollm2_135m", id))).finish()
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    stored["model"] |= {"gguf_package": package, "gguf_file": package and "x.gguf"}
    del stored["evals"]["profiles"]  # as a version before it
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    (tmp_path / "environment.json").write_text('{"hashes": {}}')
    return tmp_path


def test_a_run_of_0_1_0_names_what_it_loaded(tmp_path: Path) -> None:
    run = old_run(tmp_path, "some/folder", "no_such_package")
    loaded = "gguf:no_such_package/x.gguf@some/folder"  # which 0.1.0 put before model.id
    assert read_config(run).model == Model("smollm2_135m", loaded)
    with pytest.raises(AlreadyDone):
        open_run(run, config(Model("smollm2_135m", loaded)))
    with pytest.raises(UserError, match=rf"model\.id: {loaded} there, some/folder now"):
        open_run(run, config(Model("smollm2_135m", "some/folder")))
    with pytest.raises(
        UserError, match=r"gguf:no_such_package/x\.gguf, which is not installed here: `pip install"
    ):
        model_of(run)


def test_a_run_of_0_1_0_without_a_package_goes_on_as_it_is(tmp_path: Path) -> None:
    run = old_run(tmp_path, "some/folder", None)
    assert model_of(run) == Model("smollm2_135m", "some/folder")
    with pytest.raises(AlreadyDone):
        open_run(run, config(Model("smollm2_135m", "some/folder")))


def test_the_model_of_a_run_is_what_it_loaded(tmp_path: Path) -> None:
    """Here, where the package was not installed: the Hub's original, also where it is installed by
    now."""
    run = open_run(
        tmp_path / "run", config(Model("m", "gguf:no_such_package/x.gguf@some/original"))
    )
    assert json.loads(run.environment_json.read_text())["inputs"]["model"] == "some/original"
    assert model_of(run.path).id == "some/original"
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"before")
    run = open_run(tmp_path / "other", config(Model("m", str(folder))))
    assert model_of(run.path).id == str(folder)
    (folder / "model.safetensors").write_bytes(b"after")
    with pytest.raises(
        UserError, match=f"made with other weights than model.id={folder} holds now"
    ):
        model_of(run.path)


@pytest.mark.parametrize(("before", "goes_on"), [("mvpbench", True), ("pairs", False)])
def test_a_run_from_before_formats_were_recognised_goes_on(
    tmp_path: Path, before: str, goes_on: bool
) -> None:
    made, now = config(Model("some", "some/folder")), config(Model("some", "some/folder"))
    made.data.format, now.data.format = before, "auto"
    open_run(tmp_path, made).finish()
    expected = (AlreadyDone, None) if goes_on else (UserError, "pairs there, auto now")
    with pytest.raises(expected[0], match=expected[1]):
        open_run(tmp_path, now)
