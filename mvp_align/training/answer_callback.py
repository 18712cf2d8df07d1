"""PAA while a trainer runs: answers to a few pairs at each evaluation, labelled; in anybody's
transformers or TRL trainer.

    trainer.add_callback(PAACallback(rows, tokenizer))

`rows`: {"prompt", "chosen", "rejected"}, or PreferencePairs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerState
from typing_extensions import override

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import generation_prompts
from mvp_align.generation.answers import Generated
from mvp_align.generation.local import generate_locally
from mvp_align.judging.judge import nearness
from mvp_align.judging.labels import PRESETS, Label, judge_label
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PreferencePair
from mvp_align.training.callbacks import pairs_in
from mvp_align.training.evaluations import EvaluationCallback

Judge = Callable[[Sequence[PreferencePair], Sequence[Generated]], Sequence[Label | None]]
"""Pairs and the answers to them -> a label each, None where there is none (a judge's reply did not
parse, say)."""


class PAACallback(EvaluationCallback):
    """Adds `eval_paa/<name>` (the share of W among the labelled), `/loss`, `/tie`, `/coverage` (the
    share labelled), and `eval_answers/empty` and `eval_answers/cut` to what `trainer.evaluate()`
    returns, to its log and to its reporters.

    By default the judge is `semantic`: is the answer nearer the fitting reference than the
    contradicting one, by MiniLM? That is closeness of texts, no judgement of values. The same seed
    draws the same way at every evaluation.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, str] | PreferencePair],
        tokenizer: PreTrainedTokenizerBase,
        *,
        generation: Generation | None = None,
        judge: Judge | None = None,
        name: str = "semantic",
        seed: int = 12,
    ) -> None:
        self.pairs = pairs_in(rows, "PAACallback")
        if not self.pairs:
            raise UserError("PAACallback: there are no pairs to answer.")
        self.tokenizer = tokenizer
        self.generation = generation or Generation()
        self.judge = judge or _semantic
        self.name = name
        self.seed = seed
        self.prompts = generation_prompts(self.pairs, self.generation.prompt, tokenizer)

    @override
    def measured(self, model: nn.Module, state: TrainerState) -> dict[str, float]:
        label = f"step {state.global_step} answers"
        answers = generate_locally(
            model, self.tokenizer, self.prompts, self.generation, self.seed, label=label
        )
        labels = broadcast_from_main(lambda: list(self.judge(self.pairs, answers)))
        return self.shares(answers, labels)

    def shares(
        self, answers: Sequence[Generated], labels: Sequence[Label | None]
    ) -> dict[str, float]:
        counts = Counter(labels)
        labelled = len(labels) - counts[None]
        metric = f"paa/{self.name}"
        found = {f"{metric}/coverage": labelled / len(labels)}
        if labelled:
            found |= {
                metric: counts["W"] / labelled,
                f"{metric}/loss": counts["L"] / labelled,
                f"{metric}/tie": counts["TIE"] / labelled,
            }
        found["answers/empty"] = sum(answer.empty for answer in answers) / len(answers)
        found["answers/cut"] = sum(not answer.finished for answer in answers) / len(answers)
        return found


def _semantic(pairs: Sequence[PreferencePair], answers: Sequence[Generated]) -> list[Label | None]:
    """The preset `semantic`; an empty answer is near neither reference, a tie."""
    verdicts = nearness(pairs, [answer.answer for answer in answers])
    return [judge_label(verdict, PRESETS["semantic"]) for verdict in verdicts]
