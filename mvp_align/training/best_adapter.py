"""Give a trained model the adapter of its run's best evaluation."""

from collections.abc import Sequence
from pathlib import Path

from peft import PeftModel
from transformers import Trainer

from mvp_align.errors import UserError
from mvp_align.modeling.adapters import ADAPTER
from mvp_align.runs.checkpoints import damage_of
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.training.answer_callback import PAACallback
from mvp_align.training.best_checkpoint import (
    BestCheckpoint,
    best_evaluation,
    is_of_answers,
    log_name,
)
from mvp_align.training.callbacks import OPACallback
from mvp_align.training.evaluations import EvaluationCallback


def take_best(
    metric: str,
    trainer: Trainer,
    model: PeftModel,
    checkpoints: Path,
    evaluations: Sequence[EvaluationCallback],
) -> BestCheckpoint:
    """Load the best evaluation's adapter from its checkpoint into `model`, and say which it is.

    Call it after the last step. `evaluations` are the run's callbacks. Raises UserError if that
    checkpoint is missing or broken.
    """
    opa = next(one for one in evaluations if type(one) is OPACallback)
    answered = next((one.pairs for one in evaluations if isinstance(one, PAACallback)), [])
    pairs = answered if is_of_answers(metric) else opa.subject.pairs
    found = best_evaluation(trainer.state.log_history, metric)
    if found is None:
        raise UserError(
            f"train.best_by={metric}: no evaluation in training measured it. Does this recipe's"
            " trainer evaluate?"
        )
    step, value, evaluated = found
    folder = checkpoints / f"checkpoint-{step}"
    if damage := broadcast_from_main(lambda: damage_of(folder)):
        raise UserError(
            f"{folder}, the best of the run by train.best_by={metric}, is broken: {damage}."
            " run.on_exists=overwrite starts the run again."
        )
    model.load_adapter(str(folder), ADAPTER, is_trainable=True)
    return BestCheckpoint(
        metric=metric,
        step=step,
        value=value,
        evaluations=evaluated,
        last_step=trainer.state.global_step,
        base=opa.of_base().get(log_name(metric)),
        pairs=len(pairs),
        users=len({pair.user_id for pair in pairs}),
    )
