"""Every page: commands parse and compose, examples run, links and names exist.

A fenced block in an unknown language fails, and so does a command of an unknown program.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from page_commands import PROGRAMS
from page_examples import example_run, run_callbacks
from pages import (
    FILE_NAME,
    PAGES,
    ROOT,
    Found,
    anchors,
    blocks,
    commands,
    inline,
    is_ours,
    is_setting,
    patched,
    prose,
    settings,
    source_text,
    unquoted,
    words_of,
)
from test_rooms import ROOMS
from typer.testing import CliRunner

import mvp_align
from mvp_align.cli import app
from mvp_align.data.profiles import KINDS
from mvp_align.data.readers import read_pairs
from mvp_align.generation.asking import GRACE_SECONDS
from mvp_align.generation.patience import GIVE_UP_AFTER, REFUSALS
from mvp_align.harness.records import PROMPTS
from mvp_align.judging.judge import LIMIT_USD
from mvp_align.judging.judges import read_judge
from mvp_align.judging.labels import PRESETS, SEMANTIC_EPSILON, Rules
from mvp_align.metrics import names
from mvp_align.metrics.profile_ablation import CONTRASTS
from mvp_align.metrics.rows import read_rows
from mvp_align.reporting.terminal import print_results
from mvp_align.runs.run_folder import RunFolder


def page_text(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


def block_of(page: str, language: str, nth: int = 0) -> str:
    found = [one.text for one in blocks() if (one.page, one.language) == (page, language)]
    return found[nth]


@pytest.mark.parametrize("command", commands(), ids=str)
def test_a_command_is_one(command: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")  # which the tests set, and `tracking.mode=online` contradicts
    assert not re.search(r"=\[|\$\{", unquoted(command.text)), "shells want brackets quoted"
    words = words_of(command.text)
    assert words[0] in PROGRAMS, f"{words[0]}: no check knows this program"
    PROGRAMS[words[0]](words, command.language == "inline")


def test_commands_are_found() -> None:
    found = [(words_of(one.text)[0], one.page) for one in commands()]
    assert sum(program == "python" for program, _ in found) >= 30
    assert sum(program == "mvp-align" for program, _ in found) >= 30
    assert sum(program == "sbatch" for program, _ in found) >= 10
    assert {page for _, page in found} >= {"README.md", "docs/commands.md", "docs/clusters.md"}


def test_every_command_of_the_program_is_listed() -> None:
    page = ROOT / "docs" / "commands.md"
    listed = {" ".join(words_of(code)[1:3]) for code in inline(page) if "mvp-align " in code}
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        for sub in getattr(command, "commands", {None: None}):
            wanted = f"{name} {sub}" if sub else name
            assert any(one == wanted or one.startswith(f"{wanted} ") for one in listed), wanted


def test_shell_blocks_pass_shellcheck(tmp_path: Path) -> None:
    """Apart from what belongs to a page: variables of the reader's, files that are not there."""
    for number, block in enumerate(one for one in blocks() if one.language == "bash"):
        path = tmp_path / f"{number}.sh"
        path.write_text(f"#!/bin/bash\n# {block.page}\n{block.text}", encoding="utf-8")
    program = Path(sys.executable).with_name("shellcheck")
    left_out = "--exclude=SC1091,SC2046,SC2086,SC2155,SC2164"
    done = subprocess.run(
        [program, left_out, *sorted(tmp_path.glob("*.sh"))], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


LANGUAGES: dict[str, str] = {
    "bash": "test_a_command_is_one",
    "python": "test_python_compiles_and_its_imports_resolve",
    "json": "test_data_parses",
    "yaml": "test_data_parses",
    "diff": "test_a_diff_fits_its_file",
    "text": "test_printed_text_is_what_is_printed",
    "mermaid": "test_the_picture_shows_every_room",
}


def test_every_block_has_a_check() -> None:
    for block in blocks():
        assert block.language in LANGUAGES, f"{block}: no check knows '{block.language}'"
        assert LANGUAGES[block.language] in globals()


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=str)
def test_python_compiles_and_its_imports_resolve(block: Found) -> None:
    compile(block.text, block.page, "exec")
    for line in re.findall(r"^(?:from [\w.]+ )?import .*", block.text, re.MULTILINE):
        exec(line, {})


@pytest.mark.parametrize("block", [b for b in blocks() if b.language in ("json", "yaml")], ids=str)
def test_data_parses(block: Found) -> None:
    assert (json.loads if block.language == "json" else yaml.safe_load)(block.text)


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "diff"], ids=str)
def test_a_diff_fits_its_file(block: Found) -> None:
    """That what it leads to works is for tests/test_extending.py."""
    name, text = patched(ROOT, block.text)
    compile(text, name, "exec")


def test_the_example_pair_is_read(tmp_path: Path) -> None:
    examples = {block.text for block in blocks() if block.language == "json"}
    assert len(examples) == 1  # README and docs/data.md show the same
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(json.loads(examples.pop())) + "\n", encoding="utf-8")
    (pair,) = read_pairs(str(path), "pairs").pairs
    assert (pair.user_id, pair.profile_text) == ("u7", "Retired nurse.")


# Links and names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", prose(page)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not path.startswith("/"), link
        assert not anchor or anchor in anchors(target), link


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.name != "index.md":
            name = page.name if page.parent.name == "docs" else f"../{page.relative_to(ROOT)}"
            assert f"]({name})" in index, page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 100] == []


def test_the_readme_is_short_and_shows_the_report() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 1300
    (picture,) = re.findall(r"!\[[^]]+\]\((\S+)\)", text)
    assert (ROOT / picture).stat().st_size < 150_000


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.name != "CHANGELOG.md"],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_settings_files_and_variables_that_are_named_exist(page: Path) -> None:
    keys, options = settings()
    groups = {option.partition("=")[0] for option in options}
    sections = {key.partition(".")[0] for key in keys if "." in key}
    for code in inline(page):
        assert "=[" not in unquoted(code), f"{code}: zsh wants brackets quoted"
        for word in code.replace("'", "").split():
            key, equals, value = word.partition("=")
            if key in groups and equals and value.islower():
                assert word in options | {"hydra/launcher=submitit_slurm"}, word
            elif re.fullmatch(r"[a-z_]+\.[\w.]*", key) and not FILE_NAME.search(key):
                first = key.partition(".")[0]
                assert first not in {*ROOMS, *sections} or is_setting(key) or is_ours(key), word
        path = code.partition("::")[0]
        if re.fullmatch(r"\w[\w./-]*/[\w.-]+\.(py|sh|sbatch|toml|def)|[\w/]+/\w+\.yaml", path):
            assert (ROOT / path).is_file() or (ROOT / "mvp_align" / path).is_file(), path
    code_text = source_text()
    for name in re.findall(r"\bMVP_ALIGN_[A-Z_]+", page.read_text(encoding="utf-8")):
        assert name in code_text, name


def test_the_rooms_are_told_in_the_order_of_imports() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert re.findall(r"^- `(\w+)`", text, re.MULTILINE) == [*reversed(ROOMS)]


def test_the_recipe_that_is_shown_is_the_recipe() -> None:
    recipe = (ROOT / "recipes" / "lora_dpo.py").read_text(encoding="utf-8")
    assert block_of("docs/architecture.md", "python") in recipe
    assert re.findall(r"`(RECIPE = [^`]+)`", page_text("architecture"))[0] in recipe


def test_the_picture_shows_every_room() -> None:
    rooms, way = (block.text for block in blocks() if block.language == "mermaid")
    lines = [
        line.split() for line in rooms.splitlines() if " --- " in line or line.strip().isalpha()
    ]
    shown = [word for line in lines for word in line if word in ROOMS]
    assert shown == [*reversed(ROOMS)]
    files = re.findall(r"<br>([\w/.]+)", way)
    assert files and all((ROOT / "mvp_align" / file).is_file() for file in files)


def test_the_public_api_is_described() -> None:
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    section = text.partition("## The public API")[2]
    assert {*re.findall(r"`(\w+)`", section)} >= {*mvp_align.__all__}


# What single pages print and claim


def test_printed_text_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's table from its rows, the README's ten lines from that, and what `stats` prints of
    an example run."""
    shown = {one.page: one.text.rstrip() for one in blocks() if one.language == "text"}
    assert {*shown} == {"README.md", "docs/report.md", "docs/statistics.md"}

    rows = read_rows(ROOT / "tests" / "demo_metrics.jsonl")
    print_results(rows, data_format="mvpbench", noted=["ufp4_sample"])
    printed = [line.rstrip() for line in capsys.readouterr().out.strip().splitlines()]
    assert printed == shown["docs/report.md"].splitlines()
    assert shown["README.md"].splitlines() == printed[:10]

    example_run(tmp_path / "outputs" / "example")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words_of(block_of("docs/statistics.md", "bash"))[1:])
    assert result.exception is None
    printed = [line.rstrip() for line in result.stdout.rstrip().splitlines()]
    assert printed == shown["docs/statistics.md"].splitlines()


def test_the_demo_s_figures_are_those_of_its_rows() -> None:
    """Where prose quotes them: README and docs/report.md."""
    rows = {
        (row.stage, row.set, row.metric): row.value
        for row in read_rows(ROOT / "tests" / "demo_metrics.jsonl")
        if not row.group_by
    }
    lift = 100 * rows["tuned", "in_domain", "opa/acc@0_lift"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"acc@0 rose by {lift:.1f} points" in " ".join(readme.split())
    before, after = (rows[stage, "neutral", "damage/perplexity"] for stage in ("base", "tuned"))
    for text in (readme, page_text("report")):
        assert f"rose from {before:.0f} to {after:.0f}" in " ".join(text.split())


def test_the_statistics_example_prints_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    example = block_of("docs/statistics.md", "python")
    exec(compile(example, "statistics.md", "exec"), {})
    said = re.findall(r"# prints (.*)", example)
    assert said and capsys.readouterr().out.splitlines() == said


def test_the_callback_example_runs(tiny_model: Path) -> None:
    added = run_callbacks(block_of("docs/answers.md", "python"), tiny_model)
    assert added == ["OPACallback", "OODCallback", "PAACallback"]


def test_every_derived_row_is_explained() -> None:
    for word in (*names.DERIVED, names.LIFT, "_vs_RUN_lift"):
        assert f"`{word}`" in page_text("statistics"), word


def test_the_checks_page_names_kinds_prompts_and_metrics_of_the_code() -> None:
    text = page_text("checks")
    kinds = re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)
    assert kinds == list(KINDS)
    assert {kind for pair in CONTRASTS for kind in pair} == {*KINDS, "given"}
    assert f"`prompt` ({', '.join(PROMPTS)})" in text
    task = (ROOT / "mvp_align/harness/lm_eval/mvp_opa.yaml").read_text(encoding="utf-8")
    listed = yaml.safe_load(task.replace("!function ", ""))["metric_list"]
    assert all(f"`{metric['metric']}`" in text for metric in listed)


def test_the_judging_page_has_the_figures_of_the_code(tmp_path: Path) -> None:
    text = " ".join(page_text("judging").split())
    rules = Rules()
    assert f"m >= l + {rules.win_over_l:g} and m >= w - {rules.win_within_w:g}" in text
    assert f"m <= w - {rules.loss_below_w:g}" in text
    assert f"within {SEMANTIC_EPSILON} of cosine" in text
    assert f"`--limit-usd` ({LIMIT_USD:g})" in text
    assert f"fails {GIVE_UP_AFTER} requests in a row" in text
    assert f"refuses {REFUSALS} requests in a row alike" in text
    assert f"up to {GRACE_SECONDS} s" in text
    assert {*PRESETS} <= {*re.findall(r"`([a-z_]+)`", text)}
    (tmp_path / "reasoner.yaml").write_text(block_of("docs/judging.md", "yaml"))
    judge = read_judge(str(tmp_path / "reasoner.yaml"))
    for kind in ("scores", "yes_no"):
        assert judge.parameters(kind) == {"max_completion_tokens": 4000}


def test_options_that_are_named_exist() -> None:
    """`--relabel` and the like in inline code: of our commands, or of a program beside it."""
    known = {"--apply_chat_template", "--num_fewshot", "--system_instruction"}  # lm_eval's
    for command in typer.main.get_command(app).commands.values():  # type: ignore[attr-defined]
        for one in getattr(command, "commands", {"": command}).values():
            known |= {option for param in one.params for option in param.opts}
    for page in ("judging", "answers", "statistics", "checks"):
        for code in inline(ROOT / "docs" / f"{page}.md"):
            if re.fullmatch(r"--[a-z_-]+( .*)?", code):
                assert code.split()[0] in known, code


def test_the_run_folder_is_described_file_by_file() -> None:
    text, folder = page_text("runs"), RunFolder(Path("RUN"), resumed=False)
    for name, member in vars(RunFolder).items():
        if isinstance(member, property):
            assert f"`{getattr(folder, name).name}" in text, name
    for path in (folder.scores("<stage>", "<set>"), folder.groups("<set>"),
                 folder.values("<stage>", "<set>")):  # fmt: skip
        assert f"`{path.relative_to('RUN')}`" in text
