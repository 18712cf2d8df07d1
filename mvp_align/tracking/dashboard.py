"""W&B workspaces that compare runs, from a YAML file: `conf/dashboard.yaml` or a user's own."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from mvp_align.errors import UserError
from mvp_align.tracking.wandb import STEP

if TYPE_CHECKING:
    from wandb_workspaces.workspaces import Workspace


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Lines(Spec):
    """Curves over optimizer steps: a line per run, or mean and range of grouped runs."""

    kind: Literal["lines"]
    title: str
    metrics: list[str] = Field(min_length=1)
    smoothing: float = Field(0, ge=0, lt=1)


class Bars(Spec):
    """Numbers of the summary, one bar each."""

    kind: Literal["bars"]
    title: str
    metrics: list[str] = Field(min_length=1)


class Table(Spec):
    """A table that runs log at the end, with the rows of all shown runs."""

    kind: Literal["table"]
    name: str


class Comparer(Spec):
    """Configs and summaries side by side, limited to differences."""

    kind: Literal["comparer"]


class Section(Spec):
    name: str
    open: bool = True
    panels: list[Annotated[Lines | Bars | Table | Comparer, Field(discriminator="kind")]]


class Dashboard(Spec):
    name: str
    group_by: list[str] = []
    """`Group`, `JobType`, or a setting such as `config.seed`."""
    columns: list[str] = []
    """Pinned columns of the list of runs: `summary:NAME` or `config:KEY`."""
    sections: list[Section]


def workspace(dashboard: Dashboard, project: str, entity: str) -> "Workspace":
    """Build the W&B workspace without sending it. Raises UserError if its library is missing."""
    ws, wr = _library()
    sections = [
        ws.Section(
            name=section.name,
            is_open=section.open,
            panels=[_panel_of(panel, wr) for panel in section.panels],
        )
        for section in dashboard.sections
    ]
    return ws.Workspace(  # type: ignore[no-any-return]
        name=dashboard.name,
        entity=entity,
        project=project,
        sections=sections,
        settings=ws.WorkspaceSettings(x_axis=STEP),
        runset_settings=ws.RunsetSettings(
            groupby=[
                (
                    ws.Config(name.removeprefix("config."))
                    if name.startswith("config.")
                    else ws.Metric(name)
                )
                for name in dashboard.group_by
            ],
            pinned_columns=list(dashboard.columns),
        ),
    )


def _panel_of(panel: Lines | Bars | Table | Comparer, wr: Any) -> Any:
    match panel:
        case Lines():
            smoothing = (
                {"smoothing_type": "exponential", "smoothing_factor": panel.smoothing}
                if panel.smoothing
                else {}
            )
            return wr.LinePlot(title=panel.title, x=STEP, y=panel.metrics, **smoothing)
        case Bars():
            return wr.BarPlot(title=panel.title, metrics=panel.metrics)
        case Table():
            return wr.WeavePanelSummaryTable(table_name=panel.name)
        case Comparer():
            return wr.RunComparer(diff_only="split")


def _library() -> tuple[Any, Any]:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError:
        raise UserError(
            "`mvp-align dashboard` needs a package that is not installed: pip install"
            " wandb-workspaces"
        ) from None
    return ws, wr


def as_json(shown: "Workspace") -> str:
    """Return what would be saved."""
    return shown._to_model().spec.model_dump_json(by_alias=True, exclude_none=True, indent=2)


def save(dashboard: Dashboard, project: str, entity: str | None) -> str:
    """Save the dashboard as a new view of the project, and return its URL.

    Raises UserError if W&B rejects it.
    """
    import wandb

    try:
        api = wandb.Api(timeout=10)  # asks the server whether it knows the key
        owner = entity or api.default_entity or ""
        return str(workspace(dashboard, project, owner).save_as_new_view().url)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"W&B did not take the dashboard ({type(error).__name__}:"
            f" {' '.join(str(error).split())}). Is there a network, a key (`wandb login`), and a"
            f" project {entity or 'of yours'}/{project}?"
        ) from None
