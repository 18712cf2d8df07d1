"""Stop training on the first non-finite number, with a list of remedies.

Nothing of the failing step is saved.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer
from typing_extensions import override

from mvp_align.errors import UserError
from mvp_align.runtime.preemption import any_rank_requested_stop

SKIPPED = 20
"""Consecutive steps that fp16 may skip.

Each skip halves the loss scale, which starts at 65,536, so that it is below 1 by then.
"""


class DivergenceGuard(Trainer):
    """Mixin for TRL's trainers that stops on a non-finite loss, gradient or saved weight.

    It comes before the mixin that saves checkpoints. Loss and gradient norm cover all processes, so
    all of them raise UserError at the same step.
    """

    skipped = 0

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`, without other non-finite metrics, because the record is written as JSON."""
        problem = self.divergence(logs)
        if problem:
            raise UserError(self.stopped(problem))
        super().log(logs, start_time)
        entry: dict[str, Any] = self.state.log_history[-1]
        for key in [
            key
            for key, value in entry.items()
            if isinstance(value, float) and not math.isfinite(value)
        ]:
            del entry[key]

    def divergence(self, logs: dict[str, float]) -> str:
        """Return which number in `logs` shows that training diverged; empty if none does."""
        for key, value in logs.items():
            if key.endswith("loss") and not math.isfinite(value):
                return (
                    f"the loss is {value}"
                    if key == "loss"
                    else f"the loss on the evaluation set ({key}) is {value}"
                )
        norm = logs.get("grad_norm")
        if norm is None:
            return ""
        skipping = self.args.fp16 and self.accelerator.optimizer_step_was_skipped
        self.skipped = self.skipped + 1 if skipping else 0
        if math.isfinite(norm) or 0 < self.skipped <= SKIPPED:
            return ""
        return f"the norm of the gradients is {norm}"

    @override
    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if any_rank_requested_stop(
            not all(_finite(p) for p in model.parameters() if p.requires_grad)
        ):
            raise UserError(self.stopped("a trained weight is no finite number"))
        super()._save_checkpoint(model, trial)

    def stopped(self, problem: str) -> str:
        args = self.args
        remedies = [f"a lower train.learning_rate (it is {args.learning_rate:g})"]
        if not 0 < args.max_grad_norm <= 1:
            remedies.append(f"train.max_grad_norm=1 (it is {args.max_grad_norm:g})")
        else:
            remedies.append(f"a train.max_grad_norm below {args.max_grad_norm:g}")
        remedies.append(
            f"a longer warm-up: a higher train.warmup_share (it is {args.warmup_steps:g})"
        )
        if args.fp16:
            remedies.insert(
                0, "hardware.precision=bf16, or fp32: fp16, which this run has, ends at 65,504"
            )
        elif args.bf16:
            remedies.append("hardware.precision=fp32 (it is bf16)")
        return "\n".join(
            [
                (
                    f"Training stopped at step {self.state.global_step}: {problem}. Nothing of this"
                    " step is kept. It may help to set, in a run of another run.name:"
                ),
                *(f"  - {remedy}" for remedy in remedies),
            ]
        )


def _finite(parameter: Tensor) -> bool:
    """Return whether all values are finite. Of a sharded parameter, checks this process's part."""
    held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return bool(torch.isfinite(held.detach()).all())
