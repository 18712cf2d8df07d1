"""The W&B workspace: its specification, and the requests to a server."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner
from wandb_server import WandbServer

from mvp_align.cli import app
from mvp_align.data.sets import SETS, UFP4
from mvp_align.errors import UserError
from mvp_align.launch import CONF_DIR
from mvp_align.metrics.rows import Row
from mvp_align.reporting.tracked import summary, tables
from mvp_align.runtime.yaml_files import read_yaml
from mvp_align.schema import DIMENSIONS
from mvp_align.tracking.curves import curve_of
from mvp_align.tracking.dashboard import Bars, Dashboard, Lines, Table

SPEC = CONF_DIR / "dashboard.yaml"


def dashboard(*words: str) -> str:
    result = CliRunner().invoke(app, ["dashboard", *words], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_dry_run_prints_what_would_be_saved() -> None:
    section = json.loads(dashboard("--dry-run"))["section"]
    parts = {part["name"]: part["panels"] for part in section["panelBankConfig"]["sections"]}
    others = "Out of domain (UF-P-4, or ufp4_sample, its synthetic stand-in)"
    assert list(parts) == ["Training", "OPA in domain", others, "By group", "Runs side by side"]
    drawn = {panel["config"].get("chartTitle"): panel for panel in parts["Training"]}
    assert [panel["viewType"] for panel in parts["Training"]] == ["Run History Line Plot"] * 5
    loss = drawn["DPO loss (ln 2 = 0.69 at the start)"]["config"]
    assert (loss["metrics"], loss["xAxis"]) == (["train/loss"], "train/step")
    assert [panel["viewType"] for panel in parts["Runs side by side"]] == ["Run Comparer"]
    assert [panel["viewType"] for panel in parts["By group"]] == [
        "Bar Chart",
        "Bar Chart",
        "Weave",
        "Weave",
    ]
    assert '"groups/in_domain_by_dimension"' in json.dumps(parts["By group"])
    (runs,) = section["runSets"]
    assert [key["name"] for key in runs["grouping"]] == ["group"]
    assert "summary:tuned/in_domain/opa/acc@0" in runs["runFeed"]["columnOrder"]


def test_what_it_shows_is_what_runs_log(rows: list[Row]) -> None:
    """Names of the summary and of tables as a run gives them; curves are TRL's and the
    callbacks'."""
    others = ("ufp4", "ufp4_sample")
    sets = (
        {row.set for row in rows}
        | {*others}
        | {f"{name}/{part}" for name in others for part in SETS[UFP4].user_types}
    )
    whole = [
        Row(stage, name, row.metric, "", "", 0.5, None, None, 1, 1)
        for row in rows
        for name in sets
        for stage in ("base", "tuned")
    ]
    parts = [("dimension", name) for name in DIMENSIONS] + [("level", "High"), ("level", "Low")]
    groups = [
        Row("tuned", "in_domain", "opa/acc@0", by, group, 0.5, None, None, 1, 1)
        for by, group in parts
    ]
    known = set(summary([*whole, *groups]))
    panels = [panel for section in read_yaml(SPEC, Dashboard).sections for panel in section.panels]
    assert [
        name
        for panel in panels
        if isinstance(panel, Bars)
        for name in panel.metrics
        if name not in known
    ] == []
    assert {panel.name for panel in panels if isinstance(panel, Table)} <= {
        *tables(rows, []),
        "samples",
    }
    assert {
        name
        for panel in panels
        if isinstance(panel, Lines)
        for name in panel.metrics
        if not curve_of(name)
    } == set()


def test_it_is_saved_as_a_view_of_the_project(wandb_server: WandbServer) -> None:
    address = dashboard("--project", "values").splitlines()[-1]
    (view,) = wandb_server.views
    assert (view["entityName"], view["projectName"], view["type"]) == (
        "me",
        "values",
        "project-view",
    )
    assert view["displayName"] == read_yaml(SPEC, Dashboard).name
    assert json.loads(view["spec"])["section"]["runSets"][0]["grouping"]
    assert address.startswith(f"{wandb_server.url}/me/values?nw=")
    dashboard("--project", "values", "--entity", "team")
    assert wandb_server.views[1]["entityName"] == "team"


def test_without_a_server_or_a_key_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"W&B did not take the dashboard .*wandb login"):
        dashboard()
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    with pytest.raises(UserError, match="W&B did not take the dashboard"):
        dashboard("--entity", "me")


def test_a_wrong_spec_is_told_with_all_its_problems(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "name: x\nsections:\n- name: a\n  panels: [{kind: pie}, {kind: lines, title: t, metrics:"
        " [], color: red}]\n"
    )
    with pytest.raises(UserError) as caught:
        read_yaml(path, Dashboard)
    said = str(caught.value)
    assert f"{path} cannot be used:" in said
    assert "sections.0.panels.0: Input tag 'pie'" in said
    assert "sections.0.panels.1.lines.metrics: List should have at least 1 item" in said
    assert "no setting sections.0.panels.1.lines.color." in said
    path.write_text("name: [\n")
    with pytest.raises(UserError, match="cannot be read"):
        read_yaml(path, Dashboard)
    with pytest.raises(UserError, match="No such file"):
        read_yaml(tmp_path / "none.yaml", Dashboard)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    with pytest.raises(UserError, match="pip install wandb-workspaces"):
        dashboard("--dry-run")
