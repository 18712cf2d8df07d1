"""HTML report of a finished run: one file, no network, from the run's files alone."""

from pathlib import Path

from markupsafe import Markup

from mvp_align.figures.page_figures import (
    content_policy,
    drawing_script,
    figure_html,
    shared_html,
)
from mvp_align.reporting.curve_panels import NO_CURVES, curve_panels
from mvp_align.reporting.headline import NO_PAIRS
from mvp_align.reporting.pages import page_template, template_text
from mvp_align.reporting.pair_explorer import explore_pairs
from mvp_align.reporting.profile_ablation import CHOICES_HEADING, HEADING
from mvp_align.reporting.report_files import read_report_files
from mvp_align.reporting.result_figures import drawn
from mvp_align.reporting.results import BLIND, Results, shown
from mvp_align.reporting.run_settings import facts, settings_shown, trains
from mvp_align.reporting.set_parts import drift_lines, set_parts, sets_figure
from mvp_align.runtime.atomic import write_text
from mvp_align.runtime.json_files import to_json


def write_report(run_dir: Path, *, texts: bool = True) -> Path:
    """Write `report.html`; without `texts` `shared/report.html`, to be sent elsewhere: it has ids
    and numbers of the pairs, and no question, answer, profile, command or folder of this machine.

    It reads config.yaml, metrics.jsonl, the files of pairs and, if present, environment.json,
    notes.json and curves.jsonl. It can be repeated at any time without model or data. Raises
    UserError if a file is missing or damaged, or the disk is full.
    """
    files = read_report_files(run_dir, paths=texts)
    results = Results(files.rows)
    parts = set_parts(results, files, people_named=texts)
    curves = curve_panels(files.curves or [])
    overview = sets_figure(parts)
    figures = [*drawn([overview]), *curves, *(one for part in parts for one in part.figures())]
    scripts = [drawing_script() if figures else "", template_text("pairs.js")]
    page = page_template("report.html.j2", shown=shown, figure=figure_html).render(
        run_name=str(files.setting("run.name") or run_dir.name),
        headline=parts[0].sentence if parts else "This run has no results.",
        policy=content_policy(scripts),
        drawing_script=Markup(scripts[0]),
        pairs_script=Markup(scripts[1]),
        shared=shared_html(figures),
        who_asks=HEADING,
        blind=BLIND,
        choices_help=CHOICES_HEADING,
        is_sample=files.setting("data.name") in ("sample", "sample_several"),
        facts=facts(files),
        settings=settings_shown(files),
        parts=parts,
        overview=overview,
        trained=trains(files.setting("recipe")),
        curves=curves,
        no_curves=NO_CURVES if files.curves is None else "Nothing was logged while it trained.",
        drift=drift_lines(results, files),
        neutral=NO_PAIRS,
        pairs=explore_pairs(run_dir, {part.name: part.title for part in parts}, texts=texts),
        rows=files.rows,
        scored=any(row.metric.startswith("opa/") for row in files.rows),
        judged=any(row.metric.startswith("paa/") for row in files.rows),
        notes=files.notes.get("notes", []),
        config_text=files.config_text,
        environment_text=to_json(files.environment, indent=2),
    )
    report = files.run.report if texts else files.run.shared_report
    report.parent.mkdir(exist_ok=True)
    write_text(report, page)
    return report
