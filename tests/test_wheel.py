"""A built wheel in an environment of its own: every command runs from an empty folder."""

import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pages import BLOCK

from mvp_align import __version__

ROOT = Path(__file__).parents[1]
PACKAGES = [
    folder for folder in sys.path if Path(folder).name in ("site-packages", "dist-packages")
]

Program = Callable[..., str]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """`program("mvp-align", "doctor", cwd=folder)`: the output of a command of the environment."""
    pytest.importorskip("hatchling", reason="hatchling is not installed: `make setup`")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-index", "--no-deps", "--no-build-isolation", "-w", folder, ROOT]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    install = ["--python", python, "install", "--no-index", "--no-deps", wheel]
    subprocess.run([*pip, *install], check=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    # Folders that a .pth file names are searched, but their own .pth files are not read: the
    # editable install of this repository stays out.
    (site / "dependencies.pth").write_text("\n".join(PACKAGES))
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "HYDRA_FULL_ERROR")
    } | {"MVP_ALIGN_CACHE": str(folder / "cache"), "PATH": f"{python.parent}:{os.environ['PATH']}"}

    def output(*words: object, cwd: Path, code: int = 0) -> str:
        command = [*map(str, words)]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
        assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr * bool(code)

    where = output("python", "-c", "import mvp_align; print(mvp_align.__file__)", cwd=folder)
    assert Path(where.strip()) == site / "mvp_align" / "__init__.py"
    return output


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """A user's folder with a model, a recipe and a metric of their own, without a clone."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "conf" / "model").mkdir(parents=True)
    (folder / "conf" / "model" / "mine.yaml").write_text(f"name: mine\nid: {tiny_model}\n")
    recipe = (ROOT / "recipes" / "lora_dpo.py").read_text("utf-8")
    (folder / "recipes").mkdir()
    (folder / "recipes" / "mine.py").write_text(f"{recipe}\nprint('this is my recipe')\n")
    (folder / "metrics").mkdir()
    metric = BLOCK.search((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert metric
    (folder / "metrics" / "decided.py").write_text(metric[2])
    return folder


@pytest.mark.slow
def test_the_whole_life_of_a_run_without_a_clone(program: Program, own_folder: Path) -> None:
    cheap = ["hardware=cpu", "data.limit=8", "evals=in_domain", "run.logp_cache=false"]
    answered = ["evals.metrics=[opa,paa]", "generation.limit=2", "generation.max_new_tokens=4"]
    trained = program(
        *("mvp-align", "train", "recipe=mine", "model=mine", "tracking=none", *cheap, *answered),
        *("train.max_steps=2", "train.learning_rate=1e-3", "run.name=first"),
        cwd=own_folder,
    )
    run = own_folder / "outputs" / "first"
    assert trained.startswith(
        "Metrics of your own: metrics/decided.py.\nRun folder: outputs/first\n"
    )
    assert "this is my recipe" in trained
    assert (run / "DONE").is_file()
    environment = json.loads((run / "environment.json").read_text())
    assert {"metrics/decided.py", "recipes/mine.py"} <= environment["inputs"].keys()
    assert environment["command"][0].endswith("mvp-align train")
    assert environment["versions"]["mvp-align"] == __version__

    evaluated = program(
        *("mvp-align", "evaluate", "adapter=outputs/first/adapter", *cheap, "run.name=second"),
        cwd=own_folder,
    )
    assert (
        "evaluate takes from the run of adapter=outputs/first/adapter: model=mine, data=sample,"
        " prompt=paper.\nMetrics of your own: metrics/decided.py.\nRun folder: outputs/second\n"
        in evaluated
    )
    config = yaml.safe_load((run.parent / "second" / "config.yaml").read_text())
    assert (config["model"]["name"], config["data"]["limit"]) == ("mine", 8)
    scores = [
        folder / "scores" / "tuned-in_domain.jsonl" for folder in (run, run.parent / "second")
    ]
    assert scores[0].read_bytes() == scores[1].read_bytes()

    program("mvp-align", "generate", run, "--limit", 2, "--max-new-tokens", 4, cwd=own_folder)
    program("mvp-align", "judge", run, "--judge", "semantic", "--relabel", cwd=own_folder)
    words = ["--metric", "decided", "--bootstrap", 100]
    assert "decided by" in program("mvp-align", "stats", run, *words, cwd=own_folder)
    aggregated = program("mvp-align", "runs", "aggregate", "outputs", cwd=own_folder)
    assert "in_domain" in aggregated and "told apart" in aggregated
    (run / "report.html").unlink()
    program("mvp-align", "report", run, cwd=own_folder)
    assert (run / "report.html").is_file()


def test_what_needs_no_run_works_from_an_empty_folder(program: Program, tmp_path: Path) -> None:
    assert program("mvp-align", "--version", cwd=tmp_path) == f"mvp-align {__version__}\n"
    assert '"sections"' in program("mvp-align", "dashboard", "--dry-run", cwd=tmp_path)
    checks = json.loads(program("mvp-align", "doctor", "--offline", "--json", cwd=tmp_path))
    (packages,) = (check for check in checks if check["check"] == "packages")
    assert packages["level"] == "ok"
    assert list(tmp_path.iterdir()) == []
    wrong = program("mvp-align", "train", "model=mime", cwd=tmp_path, code=2)
    assert wrong.startswith("\nThis command cannot run:\n  - model=mime: no such model.")


def test_both_harnesses_find_the_task(program: Program, tiny_model: Path, tmp_path: Path) -> None:
    """What the documented commands do, in one process: tests/harness runs the tasks."""
    pytest.importorskip("lm_eval")
    pytest.importorskip("inspect_ai")
    folder = program("python", "-m", "mvp_align.harness.lm_eval", cwd=tmp_path).strip()
    assert "/site-packages/" in folder
    script = tmp_path / "both.py"
    script.write_text(
        "import sys, inspect_ai\n"
        "from lm_eval.tasks import TaskManager\n"
        "folder, model = sys.argv[1:]\n"
        "names = {'pretrained': model}\n"
        "tasks = TaskManager(include_path=folder, include_defaults=False, metadata=names)\n"
        "(task,) = tasks.load_task_or_group(['mvp_opa']).values()\n"
        "print(len(task.dataset['test']))\n"
        "arguments = {'model_path': model, 'device': 'cpu'}\n"
        "(log,) = inspect_ai.eval('mvp_align/mvp_opa', model='hf/local', model_args=arguments,\n"
        "    limit=1, log_dir='logs', display='none')\n"
        "print(log.status)\n"
    )
    shown = program("python", script, folder, tiny_model, cwd=tmp_path)
    pairs, status = shown.split()[-2:]
    assert int(pairs) > 100 and status == "success"
