"""What the page of a run says of each set."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mvp_align.data.sets import SETS
from mvp_align.figures.figure import Figure
from mvp_align.metrics.drift import KL, NEUTRAL, PERPLEXITY
from mvp_align.metrics.opa import CHOSEN_SHIFT, REJECTED_SHIFT
from mvp_align.metrics.variables import crossed_name
from mvp_align.reporting.breakdowns import (
    GroupTable,
    group_tables,
    largest_loss_first,
    variable_label,
)
from mvp_align.reporting.headline import sentence
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.map_figures import country_maps, held_countries
from mvp_align.reporting.profile_ablation import Ablation, ablations
from mvp_align.reporting.references import name_now, published_lines
from mvp_align.reporting.report_files import ReportFiles
from mvp_align.reporting.result_figures import (
    CROSSED_IN_PAPER,
    ablation_figure,
    drawn,
    gain_figure,
    group_figure,
    paper_figures,
)
from mvp_align.reporting.results import (
    PROMPT_SETS,
    GroupGap,
    Line,
    Results,
    counted,
    prompt_sets,
    shown,
)
from mvp_align.reporting.run_settings import trains

MOST_IN_WORDS = 4


@dataclass(frozen=True, slots=True)
class SetPart:
    """One set in the report: its summary, its figures, and the groups in them."""

    name: str
    lead: str
    """The metric of the sentence, the figures and the groups (`leading.leading_metric`)."""
    lead_name: str
    title: str
    sentence: str
    for_whom: str
    """The change of each group by `evals.worst_by`, in words; empty where that says nothing."""
    counted: str
    """What `users` counts: people, or prompts if the records name no user."""
    everyone: Line
    summary: list[Line]
    groups: list[GroupTable]
    blind: bool
    """Whether it is known what a value-blind model gets right of the groups."""
    overview: Figure | None
    maps: list[Figure]
    gains: list[Figure]
    paper: list[Figure]
    not_crossed: list[str]
    """Variables that the paper crosses with the region, and this run does not."""
    group_gaps: list[GroupGap]
    better_off: str
    worst_group: str
    design_effect: str
    ablations: list[tuple[Ablation, Figure | None]]
    """Of profiles and of earlier choices, where they were measured."""
    published: list[str]
    """What others published for this model and data."""

    @property
    def has_changes(self) -> bool:
        """Whether it is known what training changed for a group."""
        return any(line.lift for table in self.groups for line in table.lines)

    def figures(self) -> list[Figure]:
        ablated = [figure for _, figure in self.ablations]
        return drawn([self.overview, *self.maps, *self.gains, *self.paper, *ablated])


def set_parts(results: Results, files: ReportFiles, *, people_named: bool) -> list[SetPart]:
    """Return a part for each set of pairs. Without `people_named`, nothing says that somebody of a
    country with too few people was asked."""
    names = [name for name in results.sets() if name != NEUTRAL]
    return [
        _set_part(results, files, name, f"set{number}", people_named=people_named)
        for number, name in enumerate(names, 1)
    ]


def _set_part(
    results: Results, files: ReportFiles, name: str, prefix: str, *, people_named: bool
) -> SetPart:
    noted = files.notes.get(PROMPT_SETS)
    prompts = prompt_sets(results.sets(), str(files.setting("data.format")), noted)
    lead, unit = results.lead(name), counted(name, prompts)
    title, lead_name = title_of(name, files), spoken(lead)
    everyone = results.line(name, lead, label="everyone")
    said = sentence(everyone, unit, unseen=trains(files.setting("recipe")))
    tables = group_tables(results, name)
    sections = [("Whole set", [everyone]), *results.sections(name)]
    held = held_countries(files.run, results, name) if people_named else None
    return SetPart(
        name=name,
        lead=lead,
        lead_name=lead_name,
        title=title,
        sentence=said,
        for_whom=for_whom(results, name, str(files.setting("evals.worst_by") or "")),
        counted=unit,
        everyone=everyone,
        summary=results.summary(name),
        groups=tables,
        blind=any(line.ceiling for table in tables for line in table.lines),
        overview=group_figure(
            sections, f"{prefix}-groups", f"{title}: {lead_name} by group", said, unit
        )
        if sections[1:]
        else None,
        maps=country_maps(results, name, held, f"{prefix}-map", unit),
        gains=drawn(
            gain_figure(table, f"{prefix}-gain-{number}", unit)
            for number, table in enumerate(largest_loss_first(tables), 1)
        ),
        paper=paper_figures(tables, f"{prefix}-paper", unit),
        not_crossed=[
            variable
            for variable in CROSSED_IN_PAPER
            if not {f"region,{variable}", f"{variable},region"} & {table.by for table in tables}
        ],
        group_gaps=results.group_gaps(name),
        better_off=results.better_off(name),
        worst_group=results.worst_group(name, str(files.setting("evals.worst_by") or "")),
        design_effect=results.design_effect(name),
        ablations=[
            (one, ablation_figure(one, f"{prefix}-ablation-{number}", unit))
            for number, one in enumerate(ablations(results, name), 1)
        ],
        published=published_lines(files.config, files.environment, name, results.rows),
    )


def for_whom(results: Results, set_name: str, worst_by: str) -> str:
    """State the change of each group by a variable that was chosen before the run. Empty for one
    group, and for more than a sentence can hold."""
    by = crossed_name(worst_by)
    changes = [
        f"{line.label} {shown(line.lift)}" for line in results.groups(set_name, by) if line.lift
    ]
    if not 2 <= len(changes) <= MOST_IN_WORDS:
        return ""
    return f"By {variable_label(by)}: {', '.join(changes)} points."


def title_of(name: str, files: ReportFiles) -> str:
    """What a set is, in words."""
    name = name_now(name, files.config)
    return SETS[name].title if name in SETS else name


def drift_lines(results: Results, files: ReportFiles) -> list[tuple[Line, str]]:
    """What training may have broken: perplexity of a neutral text, KL, and both shifts, each with
    what it counts."""
    prompts = prompt_sets(
        results.sets(), str(files.setting("data.format")), files.notes.get(PROMPT_SETS)
    )
    lines = [results.line(NEUTRAL, PERPLEXITY.name, label="perplexity of a neutral text")]
    for metric in (KL, CHOSEN_SHIFT, REJECTED_SHIFT):
        lines += [
            results.line(name, metric.name, label=f"{metric.label}: {title_of(name, files)}")
            for name in results.sets()
        ]
    return [(line, counted(row.set, prompts)) for line in lines if (row := line.tuned or line.base)]


def sets_figure(parts: Sequence[SetPart]) -> Figure | None:
    """Base against tuned on every set, each named for what it is."""
    measured = [part for part in parts if part.everyone.base or part.everyone.tuned]
    leads = {part.lead_name for part in measured}
    said = " ".join(f"{part.title}: {part.sentence}" for part in parts)
    lines = [
        (
            replace(part.everyone, label=f"{part.title}{f', {part.lead_name}' * (len(leads) > 1)}"),
            part,
        )
        for part in measured
    ]
    units = {line.label: part.counted for line, part in lines}
    title = f"{leads.pop()} of every set" if len(leads) == 1 else "Every set"
    if any(part.everyone.base and part.everyone.tuned for part in measured):
        title = f"Base against tuned: {title}"
    return group_figure([("", [line for line, _ in lines])], "sets", title, said, units)
