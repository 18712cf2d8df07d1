"""A recipe's declarations are read without running it."""

import subprocess
import sys
from pathlib import Path

import pytest

from mvp_align.errors import UserError
from mvp_align.runtime.recipes import Recipe, recipe_named, recipe_names, recipe_problem


def test_what_is_read_is_what_the_recipe_holds() -> None:
    import recipes.evaluate
    import recipes.lora_dpo
    import recipes.lora_sft

    assert recipe_named("lora_dpo") == recipes.lora_dpo.RECIPE == Recipe("pairs", reference=True)
    assert recipe_named("lora_sft") == recipes.lora_sft.RECIPE == Recipe("chosen")
    assert recipe_named("evaluate") == recipes.evaluate.RECIPE == Recipe("nothing")


def test_reading_one_imports_no_torch() -> None:
    code = (
        "import sys; from mvp_align.runtime.recipes import recipe_named, recipe_names\n"
        "recipe_named('lora_dpo'), recipe_names(); print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def test_one_of_the_users_own_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "recipes" / "own.py"
    own.parent.mkdir()
    own.write_text('import nowhere\n\nRECIPE = Recipe(trains_on="chosen")\n')
    monkeypatch.chdir(tmp_path)
    assert recipe_names() == ["lora_dpo", "lora_sft", "own"]
    assert recipe_named("own") == Recipe("chosen")
    own.with_name("unsaid.py").write_text("def main(config): ...\n")
    with pytest.raises(UserError, match=r"recipe=unsaid: no such recipe\. Known: .*own"):
        recipe_named("unsaid")


@pytest.mark.parametrize(
    "line", ['Recipe(trains_on="both")', "Recipe(trains_on=KIND)", "Recipe(trains=1)", "Recipe()"]
)
def test_what_cannot_be_read_is_named(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "wrong.py").write_text(f"RECIPE = {line}\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"wrong\.py, line 1: RECIPE must name its fields"):
        recipe_named("wrong")


def test_a_file_that_is_no_python_is_named_where_it_is_asked_for_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "old.py").write_text("print 'hello'\n")
    (tmp_path / "recipes" / "soup.py").write_bytes(b"\xff\xfe")
    monkeypatch.chdir(tmp_path)
    assert recipe_names() == ["lora_dpo", "lora_sft"]
    assert recipe_problem("lora_dpo") is None
    for name in ("old", "soup"):
        with pytest.raises(UserError, match=rf"recipes/{name}\.py is no Python"):
            recipe_problem(name)


def test_an_evaluation_is_no_recipe_to_train_by() -> None:
    assert recipe_problem("lora_dpo") is None
    assert recipe_problem("evaluate") == "no such recipe. Known: lora_dpo, lora_sft."
    assert str(recipe_problem("lora_dpoo")).endswith("Did you mean 'lora_dpo'?")
