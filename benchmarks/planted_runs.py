"""Train on planted people as a user would, and see who is served.

A run is `recipe=lora_dpo` up to its scores, without a report. While settings are chosen its test
set is the validation people; the test people's file is not opened then.
"""

import contextlib
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import override

from benchmarks.our_trainer import started
from benchmarks.planted import Planted
from benchmarks.work import compose
from mvp_align.data.load import load_data
from mvp_align.metrics.opa import ACCS
from mvp_align.modeling.hardware import resolve_hardware
from mvp_align.scoring.logps import score_pairs
from mvp_align.training.trainers import dpo_trainer

BATCH = 16
"""Pairs an optimizer step."""


@dataclass(frozen=True, slots=True)
class Setting:
    """An objective with one configuration that is tried."""

    objective: str
    rate: float
    knob: str = ""
    """gr_dpo's eta or kl_dpo's tau, as an override."""

    @property
    def words(self) -> list[str]:
        chosen = [f"train.objective={self.objective}", f"train.learning_rate={self.rate:g}"]
        return [*chosen, self.knob] if self.knob else chosen

    @override
    def __str__(self) -> str:
        knob = self.knob.removeprefix("train.objective_").replace("=", " ")
        return f"rate {self.rate:g}" + f", {knob}" * bool(knob)


@dataclass(frozen=True, slots=True)
class Served:
    """acc@0 of each pair, 0 or 1, in the order of the pairs' ids."""

    right: tuple[float, ...]
    users: tuple[str, ...]
    levels: tuple[str, ...]

    def share(self, level: str | None = None) -> float:
        """Return acc@0 of the pairs of a group, or of all."""
        kept = [x for x, own in zip(self.right, self.levels, strict=True) if level in (None, own)]
        return sum(kept) / len(kept)

    @property
    def worst(self) -> float:
        return min(map(self.share, set(self.levels)))


def run_words(planted: Planted, tested: str, prompt: Sequence[str]) -> list[str]:
    """Return the overrides of `train.py` that all runs of a condition share."""
    return [
        f"model.id={planted.model}",
        "model.name=planted",
        "data=files",
        f"data.train={planted.files['train']}",
        f"data.test={planted.files[tested]}",
        "data.max_prompt_tokens=256",
        "data.max_tokens=512",
        *prompt,
        "evals=in_domain",
        "evals.batch_size=64",
        "tracking=none",
        "hardware=cpu",
        f"train.batch_size={BATCH}",
        f"train.micro_batch_size={BATCH}",
    ]


def served(words: Sequence[str], trained: bool = True) -> Served:
    """Return whom the model serves, once it is trained or as it is."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        config = compose([*words, f"run.dir={folder}/run"])
        placement = resolve_hardware(config.hardware)
        with started(config, load_data(config), placement) as run:
            model = run.new_adapter()
            if trained:
                run.train(dpo_trainer, model)
            (subject,) = run.plan.eval_sets
            # run.evaluate would score the answers without their prompt too
            scores = score_pairs(model, subject.pairs, batch_size=config.evals.batch_size)
    scores.sort(key=lambda score: score.id)
    return Served(
        right=tuple(ACCS[0].of(scores)),
        users=tuple(score.user_id for score in scores),
        levels=tuple(subject.groups[score.id]["level"] for score in scores),
    )
