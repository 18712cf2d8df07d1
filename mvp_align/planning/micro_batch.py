"""Run the longest micro-batch and the largest scoring batch once, before step 1.

A run that does not fit then fails in its first minute. This also decides what is `auto`:
`train.micro_batch_size`, the largest number of pairs per pass that fits, and
`hardware.gradient_checkpointing`, off where that costs nothing.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import psutil
import torch
from accelerate.utils import gather_object
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from peft import PeftModel
from torch import Tensor

from mvp_align.config import Config
from mvp_align.errors import UserError
from mvp_align.modeling.compiled import compile_seconds, is_compiled, uncompiled
from mvp_align.planning.forecast import remedies
from mvp_align.runs.run_folder import Passes
from mvp_align.runtime.recipes import recipe_named
from mvp_align.scoring.tokens import TokenizedPair
from mvp_align.training.pair_trainer import BATCH_LOSSES
from mvp_align.training.plan import Batches, Plan
from mvp_align.training.step import (
    as_in_training,
    largest_batch,
    longest_first,
    score_pass,
    train_pass,
)

CPU_SHARE, HELD_ON_CPU = 0.5, 2.0
"""Share of a machine's memory that `auto` fills on a CPU, and what a process takes for a pass, over
what the pass keeps for its gradients.

Processes held 1.2 to 3.8 times their live tensors (docs/memory.md). A CPU without memory does not
raise an error: it swaps, or the process is killed. All memory counts, and not what is free now, so
that the same command gives the same bytes.
"""
GPU_SPARE = 0.05
"""Share of a GPU's memory left free for fragmentation while `auto` sizes are tried."""


def fit_micro_batch(
    plan: Plan, model: PeftModel, config: Config, kept: Passes | None = None
) -> Plan:
    """Return the plan with what is `auto` decided: pairs per pass, and checkpointing.

    Sizes are tried downwards among those that divide the effective batch, which therefore stays
    what it was (accelerate's `find_executable_batch_size` goes down by tenths, each process by
    itself), first without checkpointing. On a GPU, where checkpointing makes room for more pairs,
    the faster of both per pair is taken. All processes take the same passes. A resumed run takes
    those that it was begun with, `kept`, because they decide the last bits. The model and the
    random state are left as they were.

    Raises UserError if the size that is set, or a single pair, or the largest batch that is scored
    does not fit.
    """
    if plan.batches is None:
        return plan
    longest = longest_first(plan.train_tokens, config)
    found, why = _kept_passes(plan.batches, kept, model, longest, config) or _found_passes(
        plan.batches, model, longest, config
    )
    _check_scoring(plan, model, config)
    batches = replace(
        plan.batches,
        micro=found.micro,
        accumulation=_share(plan.batches) // found.micro,
        checkpointing=found.checkpointing,
    )
    if config.train.micro_batch_size == "auto":
        print(f"train.micro_batch_size=auto: {batches.arithmetic}{_size_matters(config)}")
    if config.hardware.gradient_checkpointing == "auto" and why:
        print(f"hardware.gradient_checkpointing=auto: {str(found.checkpointing).lower()}, {why}")
    if is_compiled(model):
        print(f"hardware.compile=true: the layers took {compile_seconds():.0f} s to compile")
    return replace(plan, batches=batches)


def _size_matters(config: Config) -> str:
    """Return a warning if the loss depends on which pairs share a pass."""
    found = BATCH_LOSSES & {*config.train.loss_type.split("+")}
    if not found or recipe_named(config.recipe).trains_on != "pairs":
        return ""
    return (
        f". {', '.join(sorted(found))} depends on the pairs of a pass: set train.micro_batch_size"
        " for the same loss on any machine"
    )


def _share(batches: Batches) -> int:
    return batches.effective // batches.processes


def _kept_passes(
    batches: Batches,
    kept: Passes | None,
    model: PeftModel,
    longest: Sequence[TokenizedPair],
    config: Config,
) -> tuple[Passes, str] | None:
    """Return the passes that the run was begun with, or None if they do not fit here."""
    if kept is None or _share(batches) % kept.micro:
        return None
    if _smallest(_largest(model, longest, [kept.micro], config, kept.checkpointing), batches):
        return kept, "as the run was begun"
    print(
        f"The run was begun with {kept.micro} pairs a pass, which do not fit here: its last bits"
        " will be other ones from now on."
    )
    return None


def _found_passes(
    batches: Batches, model: PeftModel, longest: Sequence[TokenizedPair], config: Config
) -> tuple[Passes, str]:
    """Try the passes that the settings allow; return the best, and why it is checkpointed or not.

    Raises UserError if none fits.
    """
    sizes = _sizes(batches, model, longest, config)
    fitting: list[Passes] = []
    for checkpointing in _modes(config, model):
        micro = _smallest(_largest(model, longest, sizes, config, checkpointing), batches)
        if micro:
            fitting.append(Passes(micro, checkpointing))
        # on a CPU the same command gives the same bytes, so that no clock may decide
        if micro == sizes[0] or (micro and model.device.type == "cpu"):
            break
    if not fitting:
        pairs = "The longest pair does" if sizes[-1] == 1 else f"The {sizes[-1]} longest pairs do"
        raise UserError(
            f"{pairs} not fit in a training pass ({longest[0].longest} tokens with the longer"
            f" answer): try {remedies(config, training=True)}."
        )
    if len(fitting) == 1:
        (only,) = fitting
        if only.checkpointing:
            return only, "the longest passes do not fit without"
        return only, "the longest passes fit" * (model.device.type == "cuda")
    return _faster(fitting, batches, model, longest, config)


def _modes(config: Config, model: PeftModel) -> list[bool]:
    """Return whether to checkpoint, in the order of trial."""
    setting = config.hardware.gradient_checkpointing
    if isinstance(setting, bool):
        return [setting]
    return [False, True] if model.supports_gradient_checkpointing else [False]


def _sizes(
    batches: Batches, model: PeftModel, longest: Sequence[TokenizedPair], config: Config
) -> list[int]:
    """Return the micro-batches to try, largest first."""
    if config.train.micro_batch_size != "auto":
        return [batches.micro]
    share = _share(batches)
    sizes = [n for n in range(share, 0, -1) if share % n == 0]
    if model.device.type != "cpu" or share == 1:
        return sizes
    need = HELD_ON_CPU * _kept_for_gradients(model, longest[0], config)
    room = CPU_SHARE * psutil.virtual_memory().total / batches.processes
    most = _smallest(max(1, int(room / need)), batches)
    return [n for n in sizes if n <= most]


def _kept_for_gradients(model: PeftModel, pair: TokenizedPair, config: Config) -> int:
    """Return the bytes that a training pass over `pair` keeps for its backward pass."""
    held = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

    def count(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with (
        as_in_training(model, config, checkpointing=False),
        uncompiled(model),  # a compiled layer shows only some of what it keeps
        torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor),
    ):
        _fits(model, partial(train_pass, model, [pair], config))
    return max(1, sum(held.values()))


def _largest(
    model: PeftModel,
    longest: Sequence[TokenizedPair],
    sizes: Sequence[int],
    config: Config,
    checkpointing: bool,
) -> int:
    """Return the first of `sizes` whose longest micro-batch fits, or 0."""
    auto = config.train.micro_batch_size == "auto"
    with as_in_training(model, config, checkpointing=checkpointing), _spare(model, auto):
        return next(
            (n for n in sizes if _fits(model, partial(train_pass, model, longest[:n], config))), 0
        )


@contextmanager
def _spare(model: PeftModel, auto: bool) -> Iterator[None]:
    """Keep GPU_SPARE of a GPU's memory free inside."""
    if not auto or model.device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(1 - GPU_SPARE, model.device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, model.device)


def _faster(
    fitting: Sequence[Passes],
    batches: Batches,
    model: PeftModel,
    longest: Sequence[TokenizedPair],
    config: Config,
) -> tuple[Passes, str]:
    """Time a pass of each and return the faster one per pair, in the slowest process."""
    times = []
    for passes in fitting:
        with as_in_training(model, config, checkpointing=passes.checkpointing):
            run = partial(train_pass, model, longest[: passes.micro], config)
            times.append(_seconds(model, run) / passes.micro)
    if batches.processes > 1:
        times = [max(column) for column in zip(*gather_object([times]), strict=True)]
    best = min(range(len(times)), key=times.__getitem__)
    shown = " and ".join(
        f"{seconds:.3g} s {'with' if passes.checkpointing else 'without'} ({passes.micro} a pass)"
        for seconds, passes in zip(times, fitting, strict=True)
    )
    return fitting[best], f"because a pair takes {shown}"


def _seconds(model: PeftModel, run: Callable[[], None]) -> float:
    """Return the seconds of `run`, which has run before."""

    def finished() -> float:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        return time.perf_counter()

    began = finished()
    _fits(model, run)
    return finished() - began


def _check_scoring(plan: Plan, model: PeftModel, config: Config) -> None:
    """Raise UserError if the largest batch that is scored does not fit."""
    assert plan.batches is not None
    largest = largest_batch(model, [plan.train_tokens, *plan.scored], config)
    if not _smallest(int(_fits(model, lambda: score_pass(model, largest))), plan.batches):
        raise UserError(
            f"The largest batch of evals.batch_size={config.evals.batch_size} does not fit: "
            f"try {remedies(config, training=False)}."
        )


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
