"""W&B runs written and uploaded by its own client, with real failures."""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from wandb_server import CANARY, WandbServer

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row
from mvp_align.reporting.samples import Sample
from mvp_align.reporting.tracked import summary, tables
from mvp_align.runs.run_folder import RunFolder, open_run
from mvp_align.tracking import wandb as wandb_run
from mvp_align.tracking.sync import offline_runs, sync_run
from mvp_align.tracking.tracker import Tracker, start_tracking
from mvp_align.tracking.wandb import code_state

MakeConfig = Callable[..., Config]

ROOT = Path(__file__).parents[2]
SAMPLE = Sample("in_domain", "p7", "dimension=safety", "What now?", "Wait.", "Run!", -0.25, 0.5)


def whole_run(tracker: Tracker, folder: RunFolder, rows: list[Row]) -> None:
    """Make all calls that a recipe makes to its tracker."""
    folder.adapter.mkdir(exist_ok=True)
    (folder.adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (folder.path / "scores").mkdir(exist_ok=True)
    (folder.path / "scores" / "tuned-in_domain.jsonl").write_text("{}\n")
    folder.shared_report.parent.mkdir(exist_ok=True)
    folder.report.write_text("texts")
    folder.shared_report.write_text("<html>")
    for step in (1, 2, 3):
        tracker.log(
            {"train/loss": 0.7 / step, "eval/in_domain/opa/acc@0": 0.5 + 0.1 * (step % 2)}, step
        )
    tracker.results(tables(rows, [SAMPLE], texts=True), summary(rows))
    tracker.artifacts(folder)
    tracker.finish()


def written(folder: Path, pattern: str) -> bytes:
    """Return the one matching record, once W&B's process has written all of it."""
    import wandb

    wandb.teardown()
    (record,) = folder.glob(f"wandb/{pattern}/run-*.wandb")
    return record.read_bytes()


def holds(folder: Path, secret: str) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and secret.encode() in path.read_bytes()
    ]


def check_told(server: WandbServer, run_id: str) -> None:
    """Check that everything that a tracker must show reached the server."""
    told = server.runs[run_id]
    assert (told.settings["groupName"], told.settings["jobType"]) == (
        "lora_dpo-tiny-sample-paper",
        "lora_dpo",
    )
    assert (told.settings["displayName"], told.settings["tags"]) == (
        "lora_dpo-tiny-sample-paper-12",
        ["sweep"],
    )
    config = told.config()
    assert config["train"]["learning_rate"] == 5e-5
    assert config["run"]["dir"] == "outputs/lora_dpo-tiny-sample-paper-12"  # resolved
    assert config["environment"]["versions"]["torch"]
    metrics = {metric.get("1") or metric.get("2"): metric for metric in config["_wandb"]["m"]}
    assert {"train/step", "train/loss", "eval/in_domain/opa/acc@0"} <= set(metrics)
    curve = {row["train/step"]: row["train/loss"] for row in told.history() if "train/loss" in row}
    assert curve == {1: 0.7, 2: 0.7 / 2, 3: 0.7 / 3}
    summary = told.summary()
    assert summary["train/loss"] == pytest.approx({"min": 0.7 / 3, "last": 0.7 / 3})
    assert summary["eval/in_domain/opa/acc@0"] == pytest.approx({"max": 0.6, "last": 0.6})
    assert summary["tuned/in_domain/opa/acc@0"] == 0.7761
    assert summary["tuned/in_domain/opa/acc@0/dimension/safety"] == 0.83
    kinds = {made["artifactCollectionName"]: made["artifactTypeName"] for made in server.artifacts}
    assert kinds["lora_dpo-tiny-sample-paper-12-adapter"] == "model"
    assert kinds["lora_dpo-tiny-sample-paper-12-scores"] == "scores"
    sent = {name.rpartition("/")[2]: content for name, content in server.uploads.items()}
    assert sent["adapter_model.safetensors"] == b"weights"
    assert sent["tuned-in_domain.jsonl"] == b"{}\n"
    assert server.uploads["files/report.html"] == b"<html>"
    tables = {
        name: json.loads(content) for name, content in sent.items() if name.endswith(".table.json")
    }
    assert tables["samples.table.json"]["data"] == [
        ["in_domain", "p7", "dimension=safety", "What now?", "Wait.", "Run!", -0.25, 0.5]
    ]
    assert [row[0] for row in tables["in_domain_by_level.table.json"]["data"]] == ["High", "Low"]
    assert len(tables["results.table.json"]["data"]) == 41


def test_a_run_online_tells_the_server_everything(
    tmp_path: Path,
    rows: list[Row],
    tracked: MakeConfig,
    wandb_server: WandbServer,
    capfd: pytest.CaptureFixture[str],
) -> None:
    chosen = tracked(tags=["sweep"])
    folder = open_run(tmp_path / "run", chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole_run(start_tracking(chosen, folder), folder, rows)
    run_id = folder.wandb_id.read_text().strip()
    check_told(wandb_server, run_id)
    assert (wandb_server.runs[run_id].exit_code, wandb_server.runs[run_id].preempting) == (0, False)
    assert holds(tmp_path, CANARY) == []
    assert CANARY not in "".join(capfd.readouterr())


def test_an_offline_run_tells_the_same_once_it_is_synced(
    tmp_path: Path, rows: list[Row], tracked: MakeConfig, wandb_server: WandbServer
) -> None:
    chosen = tracked(tags=["sweep"], mode="offline")
    folder = open_run(tmp_path / "run", chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole_run(start_tracking(chosen, folder), folder, rows)
    assert wandb_server.runs == {}
    # nothing that an upload needs lies in the home directory
    assert not (tmp_path / "xdg_data_home").exists()
    ((run, parts),) = offline_runs([tmp_path]).items()
    synced = sync_run(run, parts)
    assert (synced.uploaded, synced.problem) == (1, "")
    check_told(wandb_server, folder.wandb_id.read_text().strip())
    assert holds(tmp_path, CANARY) == []


def test_a_preempted_run_says_so_and_goes_on_under_its_id(
    tmp_path: Path, tracked: MakeConfig, wandb_server: WandbServer
) -> None:
    chosen = tracked()
    folder = open_run(tmp_path / "run", chosen)
    first = start_tracking(chosen, folder)
    first.log({"train/loss": 0.7}, step=1)
    first.log({"train/loss": 0.6}, step=2)
    first.finish(preempted=True)
    (run,) = wandb_server.runs.values()
    assert (run.exit_code, run.preempting) == (1, True)
    again = start_tracking(chosen, open_run(tmp_path / "run", chosen))
    again.log({"train/loss": 0.6}, step=2)  # of the checkpoint, a second time
    again.log({"train/loss": 0.5}, step=3)
    again.finish()
    assert len(wandb_server.runs) == 1
    assert [(row["_step"], row["train/step"]) for row in run.history()] == [
        (0, 1),
        (1, 2),
        (2, 2),
        (3, 3),
    ]
    assert run.exit_code == 0


def test_a_process_that_exits_without_finishing_leaves_its_exit_code(
    tmp_path: Path, wandb_server: WandbServer
) -> None:
    code = (
        "import sys; from pathlib import Path; from mvp_align.config import *; from"
        " mvp_align.tracking.tracker import start_tracking; from mvp_align.runs.run_folder"
        " import open_run\nc = Config('lora_dpo', Model('m', 'm'), Data('d'), Prompt('p',"
        " '{question}'))\nstart_tracking(c, open_run(Path(sys.argv[1]), c)).log({'train/loss':"
        " 0.7}, 1); sys.exit(85)"
    )
    words = [str(tmp_path / "run"), "token=secret-word"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, timeout=100)
    assert done.returncode == 85
    (run,) = wandb_server.runs.values()
    assert run.exit_code == 85
    assert [row["train/loss"] for row in run.history()] == [0.7]
    assert holds(tmp_path, "secret-word") == []
    assert json.loads(wandb_server.uploads["files/wandb-metadata.json"])["args"] == [
        words[0],
        "token=REDACTED",
    ]


# What fails


def test_a_server_that_cannot_be_reached_turns_the_run_offline(
    tmp_path: Path, rows: list[Row], tracked: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", CANARY)
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    chosen = tracked()
    folder = open_run(tmp_path / "run", chosen)
    with pytest.warns(UserWarning) as caught:
        whole_run(start_tracking(chosen, folder), folder, rows)
    (warning,) = caught
    assert "W&B cannot be reached" in str(warning.message)
    assert f"`mvp-align runs sync {folder.path}` uploads it later" in str(warning.message)
    assert b"tuned/in_domain/opa/acc@0" in written(folder.path, "offline-run-*")
    assert holds(tmp_path, CANARY) == []


def test_a_vanished_server_delays_nothing(
    tmp_path: Path,
    rows: list[Row],
    tracked: MakeConfig,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 3)
    chosen = tracked(artifacts=False)
    folder = open_run(tmp_path / "run", chosen)
    tracker = start_tracking(chosen, folder)
    wandb_server.shutdown()
    wandb_server.server_close()
    tracker.log({"train/loss": 0.7}, step=1)
    began = time.monotonic()
    with pytest.warns(UserWarning, match="wandb sync --include-online") as caught:
        tracker.finish()
    assert len(caught) == 1
    assert time.monotonic() - began < 30
    assert b"train/loss" in written(folder.path, "run-*")


def test_a_full_disk_stops_the_tracker_alone(
    rows: list[Row],
    tracked: MakeConfig,
    mount_disk: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import wandb

    disk = mount_disk("3m")
    chosen = tracked()
    folder = open_run(disk / "run", chosen)
    folder.adapter.mkdir()
    tracker = start_tracking(chosen, folder)
    with (
        pytest.raises(OSError, match="No space"),
        (disk / "filler").open("wb", buffering=0) as filler,
    ):
        while True:
            filler.write(b"0" * 4096)
    for step in range(500):
        tracker.log({"train/loss": 0.5}, step)
    with pytest.warns(UserWarning, match="No space left on device.* The run goes on") as caught:
        tracker.results(tables(rows, []), summary(rows))
        tracker.artifacts(folder)
        tracker.finish()
    assert len(caught) == 1
    wandb.teardown()  # or the disk stays in use


def test_a_service_that_is_killed_stops_the_tracker_alone(tmp_path: Path) -> None:
    """Where the kernel ends the largest process of a full machine, W&B's own may be the one."""
    code = (
        "import psutil, sys; from pathlib import Path; from mvp_align.config import *; from"
        " mvp_align.tracking.tracker import start_tracking; from mvp_align.runs.run_folder"
        " import open_run\nc = Config('lora_dpo', Model('m', 'm'), Data('d'), Prompt('p',"
        " '{question}'))\nf = open_run(Path(sys.argv[1]), c); t = start_tracking(c, f)\nkilled = [p"
        " for p in psutil.Process().children() if 'wandb' in p.name()]; assert killed\nfor p in"
        " killed: p.kill(); p.wait()\nfor s in range(50): t.log({'train/loss': 0.7},"
        " s)\nt.results({}, {}); t.artifacts(f); t.finish(); print('went on')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "run")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert done.stderr.count("Tracking failed and is left out") == 1


def test_a_folder_that_cannot_be_written_stops_the_tracker_alone(
    tmp_path: Path, rows: list[Row], tracked: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    chosen = tracked()
    folder = open_run(tmp_path / "run", chosen)
    (folder.path / "wandb").write_text("a file stands where a folder is to be")
    with pytest.warns(UserWarning, match="Not a directory.* The run goes on") as caught:
        whole_run(start_tracking(chosen, folder), folder, rows)
    assert len(caught) == 1


def test_a_tracker_that_cannot_start_warns_and_lets_the_run_go_on(
    tmp_path: Path, rows: list[Row], tracked: MakeConfig
) -> None:
    chosen = tracked(mode="offline")
    folder = open_run(tmp_path / "run", chosen)
    folder.wandb_id.write_text("no/such:id")
    with pytest.warns(
        UserWarning, match="Tracking failed and is left out .*Run ID cannot contain"
    ) as caught:
        whole_run(start_tracking(chosen, folder), folder, rows)
    assert len(caught) == 1


# Code state


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with a package that stands for ours."""
    folder = tmp_path / "clone" / "package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("before = 1\n")
    user = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    origin = f"https://me:{CANARY}@example.org/clone.git"
    for words in (
        ["init", "-q"],
        ["add", "."],
        [*user, "commit", "-qm", "x"],
        ["remote", "add", "origin", origin],
    ):
        subprocess.run(["git", *words], cwd=folder.parent, check=True)
    monkeypatch.setattr(wandb_run, "PACKAGE", folder)
    return folder


@pytest.mark.parametrize(
    ("line", "kept"), [("after = 2\n", True), ('token = "hf_abcdefghijkl"\n', False)]
)
def test_the_diff_is_kept_unless_it_shows_a_secret(
    tmp_path: Path, tracked: MakeConfig, repository: Path, line: str, kept: bool
) -> None:
    (repository / "__init__.py").write_text(line)
    chosen = tracked()
    folder = open_run(tmp_path / "elsewhere", chosen)
    start_tracking(chosen, folder).finish()
    record = written(folder.path, "offline-run-*")
    patches = [
        path.read_text() for path in folder.path.glob("wandb/offline-run-*/files/code.patch")
    ]
    assert [f"+{line}" in patch for patch in patches] == ([True] if kept else [])
    assert holds(folder.path, CANARY) == holds(folder.path, "hf_abcdefghijkl") == []
    assert subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=repository).strip() in record


def test_an_installed_package_has_no_code_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wandb_run, "PACKAGE", tmp_path)
    assert code_state() == {"disable_git": True, "disable_code": True}


@pytest.mark.parametrize("variable", ["WANDB_DISABLE_CODE", "WANDB_DISABLE_GIT"])
def test_no_diff_where_wandb_s_own_variables_say_so(
    tmp_path: Path,
    tracked: MakeConfig,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    (repository / "__init__.py").write_text("after = 2\n")
    monkeypatch.setenv(variable, "true")
    chosen = tracked()
    folder = open_run(tmp_path / "elsewhere", chosen)
    start_tracking(chosen, folder).finish()
    written(folder.path, "offline-run-*")
    assert list(folder.path.rglob("code.patch")) == holds(folder.path, "after = 2") == []


# W&B's own variables


@pytest.mark.parametrize(
    ("variable", "value", "recorded"),
    [
        ("WANDB_MODE", "offline", True),
        ("WANDB_MODE", "dryrun", True),
        ("WANDB_MODE", "disabled", False),
        ("WANDB_DISABLED", "true", False),
    ],
)
def test_a_variable_keeps_a_run_with_a_key_from_the_server(
    tmp_path: Path,
    rows: list[Row],
    tracked: MakeConfig,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    recorded: bool,
) -> None:
    monkeypatch.setenv(variable, value)
    chosen = tracked()
    folder = open_run(tmp_path / "run", chosen)
    whole_run(start_tracking(chosen, folder), folder, rows)
    assert wandb_server.connections == 0
    assert bool(list(folder.path.glob("wandb/offline-run-*"))) == recorded


def test_where_and_how_a_run_is_called_can_be_said_by_variables(
    tmp_path: Path, tracked: MakeConfig, wandb_server: WandbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {
        "PROJECT": "theirs", "ENTITY": "team", "RUN_GROUP": "ablation", "TAGS": "a,b",
        "NAME": "shown", "JOB_TYPE": "sweep",
        "RUN_ID": "their-id", "NOTES": "why",
    }  # fmt: skip
    for name, value in said.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    chosen = tracked()
    folder = open_run(tmp_path / "run", chosen)
    start_tracking(chosen, folder).finish()
    told = wandb_server.runs["their-id"].settings
    names = ("project", "entity", "groupName", "tags", "displayName", "jobType", "notes")
    assert [told[name] for name in names] == [
        "theirs",
        "team",
        "ablation",
        ["a", "b"],
        "shown",
        "sweep",
        "why",
    ]
    monkeypatch.setenv("WANDB_RUN_ID", "another")
    with pytest.raises(
        UserError, match=r"WANDB_RUN_ID=another, but .* goes on as W&B's run their-id: unset it"
    ):
        start_tracking(chosen, open_run(tmp_path / "run", chosen))


def test_records_lie_where_wandb_dir_says(
    tmp_path: Path,
    rows: list[Row],
    tracked: MakeConfig,
    wandb_server: WandbServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "scratch"))
    chosen = tracked(mode="offline", tags=["sweep"])
    folder = open_run(tmp_path / "run", chosen)
    whole_run(start_tracking(chosen, folder), folder, rows)
    assert not (folder.path / "wandb").exists()
    ((run, parts),) = offline_runs([tmp_path / "scratch"]).items()
    assert run == tmp_path / "scratch" / "lora_dpo-tiny-sample-paper-12"
    assert sync_run(run, parts).problem == ""
    check_told(wandb_server, folder.wandb_id.read_text().strip())
