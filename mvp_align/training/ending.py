"""How training ended: which checkpoint's adapter the run keeps, and which bounds it passed."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from peft import PeftModel
from transformers import Trainer

from mvp_align.config import Train
from mvp_align.training.best_adapter import take_best
from mvp_align.training.best_checkpoint import BEST, BestCheckpoint
from mvp_align.training.bounds import PASSED, Passed, passed_bounds
from mvp_align.training.evaluations import EvaluationCallback


@dataclass(frozen=True, slots=True)
class Ending:
    """What a reader of the results must know of how training ended."""

    best: BestCheckpoint | None = None
    """Which evaluation's adapter the run kept, where `train.best_by` chose it."""
    passed: Sequence[Passed] = ()
    """Which bounds of `train.stop_on` training passed, and where."""

    def sentences(self) -> list[str]:
        best = [self.best.sentence()] if self.best else []
        return [*best, *(one.sentence for one in self.passed)]

    def records(self) -> dict[str, object]:
        """Return the same as values, for notes.json."""
        found: dict[str, object] = {BEST: asdict(self.best)} if self.best else {}
        if self.passed:
            found[PASSED] = [asdict(one) for one in self.passed]
        return found


def end_training(
    train: Train,
    trainer: Trainer,
    model: PeftModel,
    checkpoints: Path,
    evaluations: Sequence[EvaluationCallback],
) -> Ending:
    """Load the best adapter into `model` if `train.best_by` is set, and say how training ended.

    Raises the same errors as `take_best`.
    """
    best = None
    if train.best_by:
        best = take_best(train.best_by, trainer, model, checkpoints, evaluations)
    return Ending(best, passed_bounds(trainer.state.log_history, train.stop_on))
