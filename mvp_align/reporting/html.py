"""HTML report of a finished run: one file, no network, from the run's files alone."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from mvp_align.data.sets import SETS
from mvp_align.errors import UserError
from mvp_align.metrics.drift import NEUTRAL
from mvp_align.metrics.rows import read_rows
from mvp_align.reporting.charts import Chart, chart
from mvp_align.reporting.headline import sentence
from mvp_align.reporting.leading import spoken
from mvp_align.reporting.pages import page_template
from mvp_align.reporting.pair_explorer import explore_pairs
from mvp_align.reporting.profile_ablation import CHOICES_HEADING, HEADING, Ablation, ablations
from mvp_align.reporting.references import converted_from, name_now, published_lines
from mvp_align.reporting.results import (
    BLIND,
    PROMPT_SETS,
    GroupGap,
    Line,
    Results,
    Section,
    counted,
    prompt_sets,
    shown,
)
from mvp_align.runs.run_folder import RunFolder
from mvp_align.runtime.atomic import write_text
from mvp_align.runtime.json_files import from_json, to_json
from mvp_align.runtime.recipes import recipe_named

NO_PAIRS = (
    "Prose that is about nobody’s values: where its perplexity rises, training has cost the model"
    " some of its language."
)


@dataclass(frozen=True)
class SetPart:
    """One set in the report: its summary, its chart, and the groups in the chart."""

    name: str
    lead: str
    """The metric of the sentence, the chart and the groups (`leading.leading_metric`)."""
    lead_name: str
    title: str
    sentence: str
    counted: str
    """What `users` counts: people, or prompts if the records name no user."""
    summary: list[Line]
    chart: Chart | None
    sections: list[Section]
    blind: bool
    """Whether it is known what a value-blind model gets right of the groups."""
    group_gaps: list[GroupGap]
    people: list[tuple[str, list[Line], str]]
    better_off: str
    worst_group: str
    design_effect: str
    ablations: list[Ablation]
    """Of profiles and of earlier choices, where they were measured."""
    published: list[str]
    """What others published for this model and data."""


def write_report(run_dir: Path, *, texts: bool = True) -> Path:
    """Write `report.html`; without `texts` `shared/report.html`, to be sent elsewhere: it has ids
    and numbers of the pairs, and no question, answer or profile.

    It reads config.yaml, metrics.jsonl, the files of pairs and, if present, environment.json and
    notes.json. It can be repeated at any time without model or data. Raises UserError if a file is
    missing or damaged, or the disk is full.
    """
    rows = read_rows(run_dir / "metrics.jsonl")
    config_text = _read_text(run_dir / "config.yaml")
    config = _parsed(config_text, run_dir)
    environment = _read_json(run_dir / "environment.json")
    notes = _read_json(run_dir / "notes.json")
    parts = _set_parts(Results(rows), config, environment, notes.get(PROMPT_SETS))
    page = page_template("report.html.j2", shown=shown).render(
        run_name=str(_setting(config, "run.name") or run_dir.name),
        headline=parts[0].sentence if parts else "This run has no results.",
        who_asks=HEADING,
        blind=BLIND,
        choices_help=CHOICES_HEADING,
        is_sample=_setting(config, "data.name") in ("sample", "sample_several"),
        facts=_facts(config, environment),
        parts=parts,
        pairs=explore_pairs(run_dir, {part.name: part.title for part in parts}, texts=texts),
        rows=rows,
        scored=any(row.metric.startswith("opa/") for row in rows),
        judged=any(row.metric.startswith("paa/") for row in rows),
        notes=notes.get("notes", []),
        config_text=config_text,
        environment_text=to_json(environment, indent=2),
    )
    run = RunFolder(run_dir, resumed=False)
    report = run.report if texts else run.shared_report
    report.parent.mkdir(exist_ok=True)
    write_text(report, page)
    return report


def _title_of(name: str, config: Any) -> str:
    name = name_now(name, config)
    return SETS[name].title if name in SETS else "A neutral text" if name == NEUTRAL else name


def _set_parts(
    results: Results,
    config: Any,
    environment: Mapping[str, Any],
    noted: Sequence[str] | None = None,
) -> list[SetPart]:
    prompts = prompt_sets(results.sets(), str(_setting(config, "data.format")), noted)
    worst_by = str(_setting(config, "evals.worst_by") or "")
    parts = []
    for name in results.sets():
        sections = results.sections(name)
        lead = results.lead(name)
        everyone = results.line(name, lead, label="everyone")
        unit = counted(name, prompts)
        parts.append(
            SetPart(
                name=name,
                lead=lead,
                lead_name=spoken(lead),
                title=_title_of(name, config),
                sentence=sentence(everyone, unit, unseen=_trains(_setting(config, "recipe"))),
                counted=unit,
                summary=results.summary(name),
                chart=(
                    chart([("Whole set", [everyone]), *sections])
                    if everyone.base or everyone.tuned
                    else None
                ),
                sections=sections,
                blind=any(line.ceiling for _, lines in sections for line in lines),
                group_gaps=results.group_gaps(name),
                people=results.people(name),
                better_off=results.better_off(name),
                worst_group=results.worst_group(name, worst_by),
                design_effect=results.design_effect(name),
                ablations=ablations(results, name),
                published=published_lines(config, environment, name, results.rows),
            )
        )
    return parts


def _trains(recipe: object) -> bool:
    """Whether the run trained, so that its test pairs are of people it has not seen.

    A report must open where the user's own recipe is not at hand; all of those train.
    """
    try:
        return recipe_named(str(recipe)).trains
    except UserError:
        return True


def _facts(config: Any, environment: dict[str, Any]) -> list[tuple[str, str]]:
    """Return facts about the run that readers want before its numbers."""
    versions, git, device, inputs = (
        environment.get(key) or {} for key in ("versions", "git", "device", "inputs")
    )
    commit = str(git.get("commit", ""))[:10]
    found = {
        "Model": inputs.get("model") or _setting(config, "model.id"),
        "Asked at": _setting(config, "model.api.base_url"),
        "Converted from": converted_from(environment),
        "Recipe": _setting(config, "recipe"),
        "Data": _setting(config, "data.name"),
        "Prompt": _setting(config, "prompt.name"),
        "Seed": _setting(config, "seed"),
        "Device": device.get("name"),
        "mvp-align": versions.get("mvp-align"),
        "Commit": f"{commit} with changes" if commit and git.get("dirty") else commit,
        "Time": environment.get("time"),
    }
    return [(name, str(value)) for name, value in found.items() if value not in (None, "")]


def _parsed(config_text: str, run_dir: Path) -> Any:
    """Parse the config without checks, because a report must open for runs of any version."""
    try:
        return OmegaConf.create(config_text)
    except yaml.YAMLError as error:
        raise UserError(
            f"{run_dir / 'config.yaml'}: broken YAML ({str(error).splitlines()[0]})."
        ) from None


def _setting(config: Any, key: str) -> Any:
    return OmegaConf.select(config, key) if isinstance(config, DictConfig) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file. A report needs the whole folder of a run."
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    """Return the object in `path`, or {} if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        value = from_json(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: broken JSON ({error.msg}).") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}.") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: an object belongs there, not a {type(value).__name__}.")
    return value
