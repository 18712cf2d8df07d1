"""Evaluate any model or adapter without training: base against adapter, or the base alone.

It measures the same as the training recipes do.
"""

from mvp_align.config import Config
from mvp_align.job import Job
from mvp_align.runtime.recipes import Recipe

RECIPE = Recipe(trains_on="nothing")


def main(config: Config) -> None:
    job = Job.prepare(config)
    if config.train.dry_run:
        return
    with job.start() as run:
        model = run.load_base()
        base = run.evaluate("base", model)
        tuned = run.evaluate("tuned", run.load_adapter(model)) if config.adapter else None
        run.finish(base, tuned)
