"""LoRA + SFT: the same adapter and data as `lora_dpo`, trained on the chosen answers alone. The
baseline without DPO.

Base model scored -> adapter trained with TRL's SFTTrainer on `answer_w` -> same sets scored again.
"""

from pathlib import Path

from mvp_align.config import Config
from mvp_align.data.load import load_data
from mvp_align.job import (
    answer,
    drift_rows,
    finalize_run,
    make_callbacks,
    measure,
    rows_of,
    rows_of_answers,
    start_adapter,
    train,
)
from mvp_align.modeling.adapter_tokenizer import run_tokenizer
from mvp_align.modeling.adapters import save_adapter
from mvp_align.modeling.base import load_base
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.planning.micro_batch import fit_micro_batch
from mvp_align.planning.preflight import make_plan, print_plan
from mvp_align.runs.run_folder import open_run
from mvp_align.tracking.tracker import start_tracking
from mvp_align.training.trainers import sft_trainer


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
        # before the baseline: what does not fit is to fail at once
        model = start_adapter(base_model, config)
        plan = fit_micro_batch(plan, model, config)
        with model.disable_adapter():
            base = measure("base", base_model, plan, run, config)
            base_answers = answer("base", base_model, tokenizer, plan, data, run, config)

        callbacks = make_callbacks(plan, data, config, tokenizer, tracker)
        trainer = sft_trainer(config, plan, model, tokenizer, placement, run.checkpoints, callbacks)
        train(trainer, model, run)
        save_adapter(model, tokenizer, run.adapter, writes=run.writes)

        tuned = measure("tuned", model, plan, run, config)
        answers = answer("tuned", model, tokenizer, plan, data, run, config)
        rows = rows_of(plan, base, tuned, config.evals.min_users) + rows_of_answers(
            plan, data, base_answers, answers, run, config
        )
        rows += drift_rows(model, tokenizer, plan, data, answers, run, config)
        finalize_run(rows, config, plan, data, model, run, tracker)
