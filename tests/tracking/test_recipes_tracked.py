"""A tracked recipe: curves, results, samples and the adapter reach W&B."""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from wandb_server import StoredRun, WandbServer

from mvp_align.config import Config
from mvp_align.data.sets import SETS, UFP4
from mvp_align.launch import CONF_DIR
from mvp_align.reporting.export import export_tables
from mvp_align.reporting.table_formats import format_tables
from mvp_align.runs.checkpoints import latest_valid
from mvp_align.runtime.yaml_files import read_yaml
from mvp_align.schema import PreferencePair
from mvp_align.tracking.curves import CURVES, curve_of
from mvp_align.tracking.dashboard import Bars, Dashboard, Lines
from mvp_align.tracking.sync import offline_runs, sync_run

Compose = Callable[..., Config]


@pytest.fixture
def told(
    compose: Compose,
    tiny: list[str],
    few_pairs: list[PreferencePair],
    wandb_server: WandbServer,
    tmp_path: Path,
) -> tuple[Path, StoredRun]:
    """A run's folder, and what W&B's server received."""
    (tmp_path / "ufp4").mkdir()
    records = [
        {"prompt": pair.question, "chosen": pair.chosen, "rejected": pair.rejected}
        for pair in few_pairs
    ]
    for number, user_type in enumerate(SETS[UFP4].user_types):
        (tmp_path / "ufp4" / f"{user_type}.json").write_text(json.dumps(records[number::8]))
    small = ["data.limit=10", "evals.every_steps=1", "evals.every_pairs=null", "train.max_steps=2"]
    small += [f"evals.ufp4={tmp_path / 'ufp4'}", "evals.min_users=1"]
    small += ["train.stop_on.perplexity=1e9"]  # so that it is measured
    config = compose(*tiny, *small, "tracking=wandb", "tracking.mode=offline", "tracking.samples=3")
    import_module(f"recipes.{config.recipe}").main(config)
    folder = Path(config.run.dir)
    ((_, parts),) = offline_runs([folder]).items()
    assert sync_run(folder, parts).problem == ""
    (run,) = wandb_server.runs.values()
    return folder, run


def test_calls_of_a_recipe_to_its_tracker(
    told: tuple[Path, StoredRun], wandb_server: WandbServer
) -> None:
    folder, run = told
    losses = [row["train/loss"] for row in run.history() if "train/loss" in row]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (acc,) = [
        m["value"]
        for m in metrics
        if (m["stage"], m["set"], m["metric"], m["group_by"])
        == ("tuned", "in_domain", "opa/acc@0", "")
    ]
    assert run.summary()["tuned/in_domain/opa/acc@0"] == acc
    sent = {name.rpartition("/")[2]: content for name, content in wandb_server.uploads.items()}
    assert (
        sent["adapter_model.safetensors"]
        == (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    )
    assert (
        sent["tuned-in_domain.jsonl"] == (folder / "scores" / "tuned-in_domain.jsonl").read_bytes()
    )
    assert sent["report.html"] == (folder / "shared" / "report.html").read_bytes()
    for texts in (folder / "texts").iterdir():
        for one in map(json.loads, texts.read_text("utf-8").splitlines()):
            preference = one["profile"].get("preference", "no such text")
            for text in (one["question"], one["chosen"], one["rejected"], preference):
                plain = re.split("[<>&'\"\\n]", text)[0]  # what no markup escapes
                assert plain.encode() not in sent["report.html"]
            assert plain in (folder / "report.html").read_text("utf-8") or plain == "no such text"
    samples = json.loads(sent["samples.table.json"])
    assert samples["columns"] == ["set", "id", "base_margin", "tuned_margin"]
    assert [row[0] for row in samples["data"]].count("in_domain") == 3
    assert (folder / "DONE").is_file()
    check_report_tables(folder, wandb_server)
    check_curves(folder, run)


def check_report_tables(folder: Path, server: WandbServer) -> None:
    """The tables of `mvp-align export`, to the last bit, and the map."""
    shown = json.loads(format_tables("json", export_tables(folder)))["tables"]
    sent = {
        name.removeprefix("files/media/table/"): json.loads(content)
        for name, content in server.uploads.items()
        if name.endswith(".table.json")
    }
    assert len(shown) > 5
    for table in shown:
        named = re.compile(rf"report/{re.escape(table['name'])}_\d+_[0-9a-f]+\.table\.json")
        (name,) = filter(named.fullmatch, sent)
        assert sent[name]["columns"] == table["columns"]
        wanted = [[row[key] for key in table["columns"]] for row in table["rows"]]
        plain = [[json.dumps(c) if isinstance(c, list) else c for c in row] for row in wanted]
        assert sent[name]["data"] == plain
    (page,) = [content for name, content in server.uploads.items() if "map/in_domain" in name]
    assert page == (folder / "shared" / "map-in_domain.html").read_bytes()


def check_curves(folder: Path, run: StoredRun) -> None:
    """Logs, dashboard, best values and docs use the names that this run sent."""
    history = run.history()
    sent = [name for row in history for name in row]
    watched = {name for name in sent if curve_of(name)}
    assert {curve_of(name) for name in watched} == set(CURVES)
    assert {name: sent.count(name) for name in watched} == dict.fromkeys(watched, 2)  # once a step
    state = json.loads((newest(folder) / "trainer_state.json").read_text())
    logged = {key for entry in state["log_history"] for key in entry if key.startswith("eval_")}
    assert {name for name in sent if name.startswith("eval/")} == {
        key.replace("eval_", "eval/", 1) for key in logged
    }

    panels = [
        panel
        for section in read_yaml(CONF_DIR / "dashboard.yaml", Dashboard).sections
        for panel in section.panels
    ]
    summary = run.summary()
    shown = [(name, sent) for panel in panels if isinstance(panel, Lines) for name in panel.metrics]
    shown += [
        (name, summary) for panel in panels if isinstance(panel, Bars) for name in panel.metrics
    ]
    for name, known in shown:
        # Of groups, and of questions that two people were asked, ten pairs have too few.
        if not any(words in name for words in ("/dimension/", "/level/", "value_blind_ceiling")):
            # of the benchmark's files and of the bundled stand-in a run has one
            assert {
                name,
                name.replace("ufp4", "ufp4_sample"),
                name.replace("ufp4_sample", "ufp4"),
            } & set(known), name

    for name in watched:
        curve = curve_of(name)
        assert curve is not None
        values = [row[name] for row in history if name in row]
        if curve.best:
            kept = {"max": max(values)} if curve.best == "max" else {"min": min(values)}
            assert (name, summary[name]) == (name, pytest.approx({**kept, "last": values[-1]}))
        else:
            assert (name, summary[name]) == (name, pytest.approx(values[-1]))

    named = re.findall(
        r"`((?:train|eval)/[^`]+)`", (CONF_DIR.parent / "docs" / "tracking.md").read_text()
    )
    in_a_trainer_of_ones_own = {"eval/opa/acc@0"}
    examples = {name for name in named if name in sent}
    assert set(named) - examples - in_a_trainer_of_ones_own <= {curve.name for curve in CURVES}
    assert {curve.name for curve in CURVES} <= set(named)


def newest(folder: Path) -> Path:
    found = latest_valid(folder / "checkpoints")
    assert found is not None
    return found
