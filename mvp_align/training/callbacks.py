"""Callbacks that evaluate OPA, check the first loss, and show and track a trainer's progress.

`OPACallback` and `OODCallback` work in any transformers or TRL trainer:

    trainer.add_callback(OPACallback(rows, tokenizer))
    trainer.add_callback(OODCallback(tokenizer))

`rows` are {"prompt", "chosen", "rejected"} or PreferencePairs. Out-of-domain pairs are the bundled
synthetic sample, or UF-P-4 with `source=FOLDER`.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.integrations.integration_utils import rewrite_logs
from typing_extensions import override

from mvp_align.config import Prompt
from mvp_align.data.load import read_out_of_domain
from mvp_align.data.prompts import PAPER
from mvp_align.data.sets import IN_DOMAIN, SETS, UFP4, UFP4_SAMPLE
from mvp_align.errors import UserError
from mvp_align.evaluation.eval_sets import EvalSet, scored_rows
from mvp_align.metrics.opa import ACC
from mvp_align.modeling.source import context_length
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PairScore
from mvp_align.scoring.cache import LogpCache, read_folder
from mvp_align.scoring.logps import causal_model, distinct_answers, score_pairs
from mvp_align.tracking.curves import HEADLINES
from mvp_align.tracking.tracker import Tracker
from mvp_align.training.evaluations import EvaluationCallback
from mvp_align.training.given_rows import Rows, eval_set_of

LN_2_TOLERANCE = 1e-3
HALF_PRECISION_TOLERANCE = 2e-2
"""Tolerance in half precision.

With bf16, an answer's summed log-prob varies by about 0.1 nats between batches, and the reference
was scored in other batches.
"""


class OPACallback(EvaluationCallback):
    """Add OPA to each evaluation's metrics, log and reporters.

    Adds `eval_opa/acc@0`, every other acc@d, `eval_opa/mean`, `eval_opa/margin`,
    `eval_opa/chosen_shift` and `eval_reward_accuracy`, so `metric_for_best_model="opa/acc@0"`
    works.

    `rows` are mappings with `prompt`, `chosen`, `rejected` (such as a Hugging Face dataset),
    `PreferencePair`s, or an `EvalSet`, whose name then precedes the metric. `chosen_shift` and
    `reward_accuracy` are relative to the base model: the adapter disabled, or the weights at the
    start of training. The log-probs of the latter are kept in the trainer's output folder for
    resumed runs.

    `worst_by` names a column of the rows (or a group of the pairs), or several joined by `+`, and
    adds `eval_opa/worst_group` and `eval_opa/worst_group_gap` over its groups of `min_users` people
    or more (column `user_id`; without, each row is a person's). Raises UserError if there are fewer
    than two such groups.
    """

    name = ""
    shown = HEADLINES

    def __init__(
        self,
        rows: Rows | EvalSet,
        tokenizer: PreTrainedTokenizerBase,
        *,
        prompt: Prompt = PAPER,
        batch_size: int = 8,
        worst_by: str = "",
        min_users: int = 5,
    ) -> None:
        self.subject = (
            rows
            if isinstance(rows, EvalSet)
            else eval_set_of(self.name, rows, tokenizer, prompt, worst_by, min_users)
        )
        self.batch_size = batch_size
        self.worst_by, self.min_users = worst_by, min_users
        self.base: list[PairScore] | None = None

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        model: nn.Module = kwargs["model"]
        inner = getattr(model, "module", model)
        if isinstance(inner, PeftModel):
            with inner.disable_adapter():
                self.base = self.score(model, "base")
        else:
            self.base = self.start_scores(model, args, state)

    def start_scores(
        self, model: nn.Module, args: TrainingArguments, state: TrainerState
    ) -> list[PairScore] | None:
        """Return scores of the initial weights, or None, with a note, if a resumed run lacks them.

        Raises UserError if `metric_for_best_model` depends on them.
        """
        assert args.output_dir is not None
        folder = Path(args.output_dir) / f"base_logps_{self.subject.name or 'opa'}"
        if state.global_step == 0:
            broadcast_from_main(lambda: shutil.rmtree(folder, ignore_errors=True))
            return self.score(model, "base", LogpCache(folder))
        kept = LogpCache(folder, broadcast_from_main(lambda: read_folder(folder)))
        if all(answer in kept for answer in distinct_answers(self.subject.pairs)):
            return self.score(model, "base", kept)
        lost = (
            f"{folder}, the log-probs of these pairs before training, is not there:"
            " opa/chosen_shift and opa/rejected_shift are not known after a resume"
        )
        if (args.metric_for_best_model or "").endswith("_shift"):
            raise UserError(
                f"metric_for_best_model={args.metric_for_best_model}: {lost}. Choose by another"
                " metric."
            )
        if state.is_world_process_zero:
            tqdm.write(f"{lost}.")
        return None

    @override
    def measured(self, model: nn.Module, state: TrainerState) -> dict[str, float]:
        stage = f"step {state.global_step}"
        return self.numbers(stage, self.score(model, stage), self.base)

    def of_base(self) -> dict[str, float]:
        """What was measured of the base model, by the same names; empty before training."""
        return self.numbers("base", self.base, None) if self.base else {}

    def numbers(
        self, stage: str, scores: Sequence[PairScore], base: Sequence[PairScore] | None
    ) -> dict[str, float]:
        rows = scored_rows(
            self.subject,
            stage,
            scores,
            base,
            min_users=self.min_users,
            worst_by=self.worst_by,
        )
        return {
            "/".join(filter(None, (row.set, row.metric))): row.value
            for row in rows
            if not row.group_by
        }

    def score(
        self, model: nn.Module, stage: str, cache: LogpCache | None = None
    ) -> list[PairScore]:
        """Score the pairs. Raises UserError if one is longer than the model's context.

        The tokenizer need not know that limit.
        """
        context = context_length(causal_model(model).config)
        longest = max(self.subject.pairs, key=lambda pair: pair.longest)
        if context is not None and longest.longest > context:
            raise UserError(
                f"{type(self).__name__}: pair {longest.id} has {longest.longest} tokens, over the"
                f" {context} that the model can take: leave such rows out."
            )
        label = " ".join(filter(None, (stage, self.subject.name or "opa")))
        return score_pairs(
            model, self.subject.pairs, batch_size=self.batch_size, label=label, cache=cache
        )


class OODCallback(OPACallback):
    """OPA on UF-P-4, or on the bundled synthetic sample.

    With `source`, a folder of UF-P-4's four files, adds `eval_ufp4/opa/acc@0` over all pairs, and
    `eval_ufp4/helpfulness/opa/acc@0` and so on by user type. Without it, scores the bundled sample,
    which has the same schema, as `eval_ufp4_sample/opa/acc@0`. Raises UserError if the folder lacks
    one of the files.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        source: str | EvalSet | None = None,
        batch_size: int = 8,
    ) -> None:
        if isinstance(source, EvalSet):
            self.name = source.name
            super().__init__(source, tokenizer, batch_size=batch_size)
        else:
            self.name = UFP4_SAMPLE if source is None else UFP4
            super().__init__(
                read_out_of_domain(self.name, source or SETS[UFP4_SAMPLE].source).pairs,
                tokenizer,
                batch_size=batch_size,
            )


class FirstLoss(TrainerCallback):
    """Stop a fresh sigmoid-DPO run if its first loss is not ln 2.

    Before any update, policy and reference are the same model, so the implicit rewards are equal
    and the loss is -log sigmoid(0), up to rounding. `exact` means that the model computes in fp32.
    A mixture of experts adds its load-balancing loss, `balance_weight` times what TRL logs as
    `aux_loss`, which is taken off first.
    """

    def __init__(self, exact: bool, balance_weight: float = 0.0) -> None:
        self.tolerance = LN_2_TOLERANCE if exact else HALF_PRECISION_TOLERANCE
        self.balance_weight = balance_weight

    @override
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs = kwargs.get("logs") or {}
        if state.global_step != 1 or "loss" not in logs:
            return
        loss = logs["loss"] - self.balance_weight * logs.get("aux_loss", 0.0)
        if abs(loss - math.log(2)) <= self.tolerance:
            return
        raise UserError(
            f"The first DPO loss is {loss:.4f}, not ln 2 = {math.log(2):.4f}: policy and reference"
            " already differ, so the rewards of this run would mean something else. Likely"
            " causes:\n  - dropout is on in one of the two passes (train.disable_dropout=true"
            " switches it off)\n  - training goes on from an adapter (adapter=...) while"
            " train.reference is another model\n  - the adapter was not zero at the start (a"
            " changed LoRA initialisation)\n  - policy and reference run in different precision"
            " (hardware.precision, quantization)"
        )


class Progress(TrainerCallback):
    """One line in the terminal: step, time left, loss, pairs/s, the last evaluation, tokens/s.

    Of the last evaluation it shows acc@0 of the validation pairs.
    """

    LINE = "{desc} {n_fmt}/{total_fmt} {bar:4} ETA {remaining}{postfix}"
    """What does not fit into the terminal's width is cut off at the end."""

    def __init__(self, pairs_a_step: int, tokens_a_pair: float) -> None:
        self.pairs_a_step = pairs_a_step
        self.tokens_a_pair = tokens_a_pair
        self.bar: tqdm[Any] | None = None
        self.step_began = 0.0
        self.seconds = math.nan
        self.loss = math.nan
        self.evaluated = ""

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for entry in state.log_history:
            self.take_evaluation(entry, int(entry["step"]))
        if state.is_world_process_zero:
            self.bar = tqdm(
                total=state.max_steps,
                initial=state.global_step,
                desc="training",
                unit="step",
                bar_format=self.LINE,
                dynamic_ncols=True,
            )

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # start here, so that evaluating and saving between steps do not count
        self.step_began = time.perf_counter()

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.seconds = time.perf_counter() - self.step_began
        if self.bar is not None:
            self.bar.update(1)

    @override
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        logs = kwargs.get("logs") or {}
        self.take_evaluation(logs, state.global_step)
        self.loss = logs.get("loss", self.loss)
        if self.bar is not None and math.isfinite(self.seconds):
            pairs = self.pairs_a_step / self.seconds
            self.bar.set_postfix_str(
                f"loss {self.loss:.4f}, {pairs:.2f} pairs/s{self.evaluated},"
                f" {pairs * self.tokens_a_pair:.0f} tokens/s"
            )

    def take_evaluation(self, logs: Mapping[str, Any], step: int) -> None:
        if (acc := logs.get(f"eval_{IN_DOMAIN}/{ACC}")) is not None:
            self.evaluated = f", validation acc@0 {100 * acc:.1f} % at step {step}"

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.bar is not None:
            self.bar.close()


class TrackingCallback(TrainerCallback):
    """Send every logged number to the run's tracker, named train/ or eval/ as in transformers."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    @override
    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.send(kwargs.get("logs") or {}, state.global_step)

    def send(self, numbers: Mapping[str, Any], step: int) -> None:
        named = rewrite_logs(numbers)
        self.tracker.log(
            {
                key: float(x)
                for key, x in named.items()
                if isinstance(x, int | float) and math.isfinite(x)
            },
            step,
        )
