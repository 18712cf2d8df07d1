"""LoRA + DPO: the adapter learns to prefer the answer that fits the user's values.

Score the base model, train an adapter with TRL's DPOTrainer and the base model as reference, and
score the same sets again.
"""

from mvp_align.config import Config
from mvp_align.job import Job
from mvp_align.runtime.recipes import Recipe
from mvp_align.training.trainers import dpo_trainer

RECIPE = Recipe(trains_on="pairs", reference=True)


def main(config: Config) -> None:
    job = Job.prepare(config)
    if config.train.dry_run:
        return
    with job.start() as run:
        model = run.new_adapter()
        base = run.evaluate("base", model)
        run.train(dpo_trainer, model)
        tuned = run.evaluate("tuned", model)
        run.finish(base, tuned)
