"""docs/checks.md: its commands are commands, its names are names, its figures are the code's."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from mvp_align.data.profiles import KINDS
from mvp_align.harness.records import PROMPTS
from mvp_align.launch import check_command
from mvp_align.metrics.profile_ablation import CONTRASTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "checks.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python")])
def test_commands_compose(command: str) -> None:
    _, script, *words = shlex.split(command)
    check_command(Path(script).stem, words)


def test_every_command_is_of_a_tool_that_is_tested() -> None:
    starts = {" ".join(line.split()[:2]) for line in COMMANDS}
    assert starts == {
        "python train.py",
        "python evaluate.py",
        "lm_eval --include_path",
        "inspect eval",
    }


def test_the_harness_commands_name_what_is_there() -> None:
    harness = [
        shlex.split(line.replace("$(python -m mvp_align.harness.lm_eval)", "FOLDER"))
        for line in COMMANDS
    ]
    tasks = [words[words.index("--tasks") + 1] for words in harness if words[0] == "lm_eval"]
    text = (ROOT / "mvp_align" / "harness" / "lm_eval" / "mvp_opa.yaml").read_text(encoding="utf-8")
    task = yaml.load(text.replace("!function ", ""), yaml.SafeLoader)
    assert tasks == [task["task"]] * 2
    assert all(f"`{metric['metric']}`" in PAGE for metric in task["metric_list"])
    metadata = [words[words.index("--metadata") + 1] for words in harness if "--metadata" in words]
    assert [set(yaml.safe_load(text)) for text in metadata] == [{"data", "format", "prompt"}]
    assert all((ROOT / words[2]).is_file() for words in harness if words[0] == "inspect")
    assert f"`prompt` ({', '.join(PROMPTS)})" in PAGE


def test_the_kinds_and_what_they_are_set_against_are_the_code_s() -> None:
    assert [
        line.split("`")[1] for line in PAGE.splitlines() if re.match(r"\| `[a-z]+` \|", line)
    ] == list(KINDS)
    assert {kind for pair in CONTRASTS for kind in pair} == {*KINDS, "given"}


def test_links_exist() -> None:
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links and all((ROOT / "docs" / link).is_file() for link in links)
