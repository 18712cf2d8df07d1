"""LoRA + SFT: the same adapter and data as `lora_dpo`, trained on chosen answers only.

This is the baseline without DPO. Score the base model, train an adapter with TRL's SFTTrainer on
the chosen answers, and score the same sets again.
"""

from mvp_align.config import Config
from mvp_align.job import Job
from mvp_align.runtime.recipes import Recipe
from mvp_align.training.trainers import sft_trainer

RECIPE = Recipe(trains_on="chosen")


def main(config: Config) -> None:
    job = Job.prepare(config)
    if config.train.dry_run:
        return
    with job.start() as run:
        model = run.new_adapter()
        base = run.evaluate("base", model)
        run.train(sft_trainer, model)
        tuned = run.evaluate("tuned", model)
        run.finish(base, tuned)
