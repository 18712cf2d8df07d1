"""The model card of a run's adapter: metadata of the Hugging Face Hub, results and limits."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from mvp_align.config import Config
from mvp_align.data.sets import IN_DOMAIN, SETS
from mvp_align.data.terms import DataTerms, synthetic_parts, training_terms
from mvp_align.metrics.drift import PERPLEXITY
from mvp_align.metrics.opa import ACC, CHOSEN_SHIFT, MARGIN, MEAN
from mvp_align.metrics.rows import Row, read_rows
from mvp_align.metrics.table import metric_named
from mvp_align.modeling.packaged import public_name
from mvp_align.reporting.headline import against_ceiling, sentence
from mvp_align.reporting.results import PROMPT_SETS, Results, counted, prompt_sets, shown
from mvp_align.reporting.run_tables import run_result_tables
from mvp_align.reporting.table import style_of
from mvp_align.reporting.table_formats import format_tables, markdown_text
from mvp_align.runs.run_folder import RunFolder, read_environment
from mvp_align.runs.stored_config import read_config
from mvp_align.runtime.atomic import write_text

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
REPORTED = (ACC, MEAN.name, MARGIN.name)
"""Metrics of OPA in the card's metadata; of answers, all that lead are."""
ANSWERS = re.compile(r"spmr(@[\d.]+)?|paa/[^/]+")
UNKNOWN = "unknown"
"""The Hub's word for a licence that nobody stated."""


def write_model_card(run: Path) -> Path | None:
    """Write `adapter/README.md` from the files of a run; None if it has no adapter of its own.

    Raises UserError if one of them is missing or broken.
    """
    folder = RunFolder(run, resumed=False, writes=False)
    if not folder.adapter.is_dir():
        return None
    path = folder.adapter / "README.md"
    write_text(path, f"{model_card(run)}\n")
    return path


def model_card(run: Path, license: str | None = None, repo: str = "") -> ModelCard:
    """Return the card of a run's adapter, to lie in the repository `repo` of the Hub.

    `license` is the adapter's; without it, that of the data if all of it has one, which the card
    says. Raises UserError if a file of the run is missing or broken.
    """
    config, folder = read_config(run), RunFolder(run, resumed=False, writes=False)
    rows, environment = read_rows(folder.metrics), read_environment(folder.environment_json)
    results, terms = Results(rows), training_terms(config)
    noted = read_environment(folder.notes).get(PROMPT_SETS)
    name = repo.rpartition("/")[2] or config.run.name or run.name
    data = card_data(config, results, license or known_license(terms), name)
    worst_by = config.evals.worst_by or ""
    tables = run_result_tables(rows, data_format=config.data.format, noted=noted, worst_by=worst_by)
    wanted = [table for table in tables if table.name.endswith(("_summary", "_served_worst"))]
    prompts = prompt_sets(results.sets(), config.data.format, noted)
    parts = [
        f"---\n{data.to_yaml()}\n---\n",
        f"# {markdown_text(name)}\n",
        _summary(config),
        "## Results\n",
        *(f"{_sentence(results, set_name, prompts)}\n" for set_name in results.sets()),
        f"{format_tables('md', wanted)}\n",
        "## Limits\n",
        _limits(config, results),
        "## How to load it\n",
        _loading(config, repo),
        "## Settings\n",
        _settings(config, environment),
        "## Licence\n",
        _licence(license, terms),
    ]
    return ModelCard("\n".join(parts).rstrip("\n"))


def known_license(terms: Sequence[DataTerms]) -> str | None:
    """Return the Hub's name of the one licence that all the data is under, or None."""
    found = {one.hub_name for one in terms}
    return found.pop() if len(found) == 1 else None


def card_data(config: Config, results: Results, license: str | None, name: str) -> ModelCardData:
    """Return the card's metadata. What is not known, as a base that is on no Hub, is left out."""
    sources = [source for source in (config.data.train, config.data.test) if source]
    hub = list(dict.fromkeys(s.split(":")[1] for s in sources if s.startswith("hf:")))
    on_sample = bool(sources) and all(source.startswith("sample:") for source in sources)
    results_of = eval_results(results)
    return ModelCardData(
        base_model=_base_on_hub(config),
        library_name="peft",
        license=license or UNKNOWN,
        datasets=hub or None,
        language="en" if on_sample else None,
        pipeline_tag="text-generation",
        tags=["mvp-align", "lora", *["dpo"] * ("dpo" in config.recipe), "personalisation"],
        model_name=name if results_of else None,
        eval_results=results_of or None,
    )


def _base_on_hub(config: Config) -> str | None:
    base = public_name(config.model)
    return base if HUB_ID.fullmatch(base) and not Path(base).exists() else None


def eval_results(results: Results) -> list[EvalResult]:
    """Return the tuned model's metrics of whole sets, with interval, counts, base and lift."""
    return [
        _eval_result(results, row)
        for row in results.rows
        if row.stage == "tuned"
        and not row.group_by
        and "/" not in row.set
        and (row.metric in REPORTED or ANSWERS.fullmatch(row.metric))
    ]


def _eval_result(results: Results, row: Row) -> EvalResult:
    line = results.line(row.set, row.metric)
    known = {"low": row.low, "high": row.high, "pairs": row.n, "users": row.users}
    if line.base:
        known["base"] = line.base.value
    if line.lift:
        known |= {"lift": line.lift.value, "lift_low": line.lift.low, "lift_high": line.lift.high}
    metric, unit = metric_named(row.metric), style_of(row.metric).unit or "number"
    return EvalResult(
        task_type="text-generation",
        task_name="agreement with stated preferences",
        dataset_type=row.set,
        dataset_name=SETS[row.set].title if row.set in SETS else row.set,
        dataset_split="test",
        metric_type=row.metric,
        metric_name=metric.label.strip(),
        metric_value=row.value,
        metric_args={"interval": "95 %, clustered by user", "unit": unit}
        | {name: value for name, value in known.items() if value is not None},
    )


def _summary(config: Config) -> str:
    base = _base_on_hub(config)
    of = f"`{base}`" if base else f"`{Path(config.model.id).name}`, which is on no Hub"
    names = ", ".join(markdown_text(one.title) for one in training_terms(config))
    return (
        f"A LoRA adapter of {of}, trained by the recipe `{config.recipe}` of mvp-align towards the"
        f" answers that people prefer. Trained and tested on: {names}.\n"
    )


def _sentence(results: Results, set_name: str, prompts: Sequence[str]) -> str:
    line = results.line(set_name, results.lead(set_name), label="everyone")
    said = sentence(line, counted(set_name, prompts), unseen=True)
    return f"`{set_name}`: {markdown_text(said)}"


def _limits(config: Config, results: Results) -> str:
    """Say what the numbers do not show, with this run's figures."""
    lines = []
    acc = results.line(IN_DOMAIN, ACC)
    if against := against_ceiling(acc):
        lines.append(
            f"{against[0].upper()}{against[1:]}. Below that, nothing shows that it heeds who asks."
        )
    for metric, text in (
        (CHOSEN_SHIFT.name, "The chosen answers' own log-probability moved by {} nats a token."),
        (PERPLEXITY.name, "Perplexity of a neutral text, base to tuned: {}."),
    ):
        for set_name in results.sets():
            line = results.line(set_name, metric)
            if line.tuned:
                both = [shown(row, unit="") for row in (line.base, line.tuned) if row]
                lines.append(f"{text.format(' to '.join(both))} (`{set_name}`)")
    if synthetic := synthetic_parts(config):
        told = ": the numbers say nothing about real people of any country" * ("test" in synthetic)
        lines.append(f"The people of the {' and '.join(synthetic)} data are synthetic{told}.")
    lines += [
        f"The set `{name}` is synthetic and stands in for a benchmark."
        for name in results.sets()
        if name in SETS and SETS[name].synthetic
    ]
    lines.append(
        "Groups of too few people are counted and not shown; who is served worst stands in the"
        " tables above."
    )
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _loading(config: Config, repo: str) -> str:
    place = repo or "PATH_OF_THIS_FOLDER"
    return (
        "```python\nfrom peft import AutoPeftModelForCausalLM\nfrom transformers import"
        f' AutoTokenizer\n\nmodel = AutoPeftModelForCausalLM.from_pretrained("{place}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{place}")\n```\n\n'
        f"The prompt it was trained with is `{config.prompt.name}` of mvp-align.\n"
    )


def _settings(config: Config, environment: dict[str, Any]) -> str:
    train, lora = config.train, config.lora
    length = f"{train.max_steps} steps" if train.max_steps else f"{train.epochs:g} epochs"
    lines = [
        f"Learning rate {train.learning_rate:g} ({train.lr_scheduler}), {length} of"
        f" {train.batch_size} pairs, beta {train.beta:g}, loss `{train.loss_type}`, seed"
        f" {config.seed}.",
        f"LoRA rank {lora.r}, alpha {lora.alpha}, dropout {lora.dropout:g}, on"
        f" `{', '.join(lora.target_modules)}`; base quantised: {config.quantization}.",
    ]
    versions = environment.get("versions") or {}
    if versions:
        lines.append(
            "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items())
        )
    return "\n".join(f"- {line}" for line in lines) + "\n"


def _licence(license: str | None, terms: Sequence[DataTerms]) -> str:
    known = known_license(terms)
    if license:
        said = f"`{license}`, as whoever published it stated."
    elif known:
        said = f"`{known}`, that of the data; nobody stated another."
    else:
        said = "Nobody stated one. Without it, nobody may use the adapter: add one to publish it."
    of_data = "\n".join(f"- {markdown_text(one.title)}: {markdown_text(one.said)}" for one in terms)
    return f"{said} The base model's own licence holds for its use as well.\n\nData:\n\n{of_data}\n"
