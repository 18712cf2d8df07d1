"""Run the longest micro-batch and the largest scoring batch once, before step 1.

A run that does not fit then fails in its first minute. This also decides
`train.micro_batch_size=auto`: the largest number of pairs per pass that fits.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from peft import PeftModel

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.planning.forecast import remedies
from mvp_align.training.plan import Batches, Plan
from mvp_align.training.step import (
    as_in_training,
    largest_batch,
    longest_first,
    score_pass,
    train_pass,
)


def fit_micro_batch(plan: Plan, model: PeftModel, config: Config) -> Plan:
    """Return the plan with `train.micro_batch_size=auto` decided, or unchanged if it is set.

    Sizes are tried downwards among those that divide the effective batch, which therefore stays
    what it was (accelerate's `find_executable_batch_size` goes down by tenths, each process by
    itself). All processes take the smallest size found by any. The model and the random state
    are left as they were. Raises UserError where the size that is set, or a single pair, or the
    largest batch that is scored does not fit.
    """
    batches = plan.batches
    if batches is None:
        return plan
    share = batches.effective // batches.processes
    longest = longest_first(plan.train_tokens, config)
    auto = config.train.micro_batch_size == "auto"
    sizes = [n for n in range(share, 0, -1) if share % n == 0] if auto else [batches.micro]
    with as_in_training(model, config):
        fitting = next(
            (n for n in sizes if _fits(model, partial(train_pass, model, longest[:n], config))), 0
        )
    fitting = _smallest(fitting, batches)
    if fitting == 0:
        pairs = "The longest pair does" if sizes[-1] == 1 else f"The {sizes[-1]} longest pairs do"
        raise UserError(
            f"{pairs} not fit in a training pass ({longest[0].longest} tokens with the longer"
            f" answer): try {remedies(config, training=True)}."
        )
    scored = [plan.train_tokens, *plan.scored]
    largest = largest_batch(model, scored, config)
    if not _smallest(int(_fits(model, lambda: score_pass(model, largest))), batches):
        raise UserError(
            f"The largest batch of evals.batch_size={config.evals.batch_size} does not fit: "
            f"try {remedies(config, training=False)}."
        )
    if not auto:
        return plan
    found = replace(batches, micro=fitting, accumulation=share // fitting)
    print(f"train.micro_batch_size=auto: {found.arithmetic}")
    return replace(plan, batches=found)


def _fits(model: PeftModel, run: Callable[[], None]) -> bool:
    """Return whether `run` fits in memory. Clears gradients and preserves the random state."""
    try:
        with torch.random.fork_rng():
            run()
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
        return False
    finally:
        model.zero_grad(set_to_none=True)
        clear_device_cache(garbage_collection=True)
    return True


def _smallest(found: int, batches: Batches) -> int:
    """Return the minimum over all processes."""
    return min(gather_object([found])) if batches.processes > 1 else found
