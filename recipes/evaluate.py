"""The checks of the recipes on any model or adapter, without training: base against adapter, or the
base alone."""

from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.load import load_data
from mvp_align.job import answer, drift_rows, finalize_run, measure, rows_of, rows_of_answers
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import load_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.planning.preflight import make_plan, print_plan
from mvp_align.runs.run_folder import open_run
from mvp_align.tracking.tracker import start_tracking


def main(config: Config) -> None:
    placement = resolve_hardware(config.hardware, dry_run=config.train.dry_run)
    data = load_data(config)
    tokenizer = run_tokenizer(config.model, config.adapter)
    plan = make_plan(config, data, tokenizer, placement)
    print_plan(config, plan, data, placement)
    if config.train.dry_run:
        return

    run = open_run(Path(config.run.dir), config)
    with start_tracking(config, run) as tracker:
        base_model = load_base(config.model, placement, config.quantization)
        base = measure("base", base_model, plan, run, config)
        base_answers = answer("base", base_model, tokenizer, plan, data, run, config)
        model = (
            load_adapter(base_model, Path(config.adapter), any_base=config.adapter_base == "any")
            if config.adapter
            else None
        )
        tuned = measure("tuned", model, plan, run, config) if model else None
        answers = answer("tuned", model, tokenizer, plan, data, run, config) if model else {}
        rows = rows_of(plan, base, tuned, config.evals.min_users) + rows_of_answers(
            plan, data, base_answers, answers, run, config
        )
        if model:
            rows += drift_rows(model, tokenizer, plan, data, answers, run, config)
        finalize_run(rows, config, plan, data, model or base_model, run, tracker)
