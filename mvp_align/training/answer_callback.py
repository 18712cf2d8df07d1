"""PAA and SPMR during training: answers to a few pairs at each evaluation, labelled and compared.

Works in any transformers or TRL trainer:

    trainer.add_callback(PAACallback(rows, tokenizer))

`rows` are {"prompt", "chosen", "rejected"} or PreferencePairs.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from torch import nn
from transformers import PreTrainedTokenizerBase, TrainerState
from typing_extensions import override

from mvp_align.config import Generation
from mvp_align.errors import UserError
from mvp_align.evaluation.answer_metrics import answer_cosines, generation_prompts
from mvp_align.generation.answers import Generated
from mvp_align.generation.local import generate_locally
from mvp_align.judging.judge import nearness
from mvp_align.judging.labels import PRESETS, Label, judge_label
from mvp_align.metrics.table import SIMILARITIES
from mvp_align.runtime.processes import broadcast_from_main
from mvp_align.schema import PreferencePair
from mvp_align.training.evaluations import EvaluationCallback
from mvp_align.training.given_rows import Rows, pairs_in

Judge = Callable[[Sequence[PreferencePair], Sequence[Generated]], Sequence[Label | None]]
"""Maps pairs and answers to one label each, or None (if, say, a judge's reply did not parse)."""


class PAACallback(EvaluationCallback):
    """Add PAA and SPMR to each evaluation's metrics, log and reporters.

    Adds `eval_paa/<name>` (share of W among labelled answers), `/loss`, `/tie`, `/coverage` (share
    labelled), `eval_answers/empty` and `eval_answers/cut`, and with `spmr` `eval_spmr@0.8` and
    `eval_spmr_authors@0.8`, so `metric_for_best_model="paa/semantic"` and `"spmr@0.8"` work.

    The default judge is `semantic`: by MiniLM, is the answer closer to the chosen reference than to
    the rejected one? That measures similarity of texts and does not judge values. `spmr` is by the
    same model, so that it is on by default with this judge only. Every evaluation draws with the
    same seed.
    """

    def __init__(
        self,
        rows: Rows,
        tokenizer: PreTrainedTokenizerBase,
        *,
        generation: Generation | None = None,
        judge: Judge | None = None,
        name: str = "semantic",
        paa: bool = True,
        spmr: bool | None = None,
        seed: int = 12,
    ) -> None:
        self.pairs = pairs_in(rows, "PAACallback")
        if not self.pairs:
            raise UserError("PAACallback: there are no pairs to answer.")
        self.tokenizer = tokenizer
        self.generation = generation or Generation()
        self.judge = judge or _semantic
        self.name = name
        self.paa = paa
        self.spmr = judge is None if spmr is None else spmr
        self.seed = seed
        self.prompts = generation_prompts(self.pairs, self.generation.prompt, tokenizer)

    @override
    def measured(self, model: nn.Module, state: TrainerState) -> dict[str, float]:
        label = f"step {state.global_step} answers"
        answers = generate_locally(
            model, self.tokenizer, self.prompts, self.generation, self.seed, label=label
        )
        found: dict[str, float] = {}
        if self.paa:
            found |= self.shares(broadcast_from_main(lambda: [*self.judge(self.pairs, answers)]))
        if self.spmr:
            found |= broadcast_from_main(lambda: self.similar(answers))
        found["answers/empty"] = sum(answer.empty for answer in answers) / len(answers)
        found["answers/cut"] = sum(not answer.finished for answer in answers) / len(answers)
        return found

    def similar(self, answers: Sequence[Generated]) -> dict[str, float]:
        near = answer_cosines(self.pairs, answers, self.generation.prompt)
        return {metric.name: sum(metric.of(near)) / len(near) for metric in SIMILARITIES}

    def shares(self, labels: Sequence[Label | None]) -> dict[str, float]:
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
        return found


def _semantic(pairs: Sequence[PreferencePair], answers: Sequence[Generated]) -> list[Label | None]:
    """Label answers by the preset `semantic`. An empty answer, close to neither reference, ties."""
    verdicts = nearness(pairs, [answer.answer for answer in answers])
    return [judge_label(verdict, PRESETS["semantic"]) for verdict in verdicts]
