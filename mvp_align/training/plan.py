"""The plan of a run, made before the model loads."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mvp_align.data.disagreements import Disagreements
from mvp_align.evaluation.eval_sets import EvalSet
from mvp_align.evaluation.profile_ablation import ProfilePasses
from mvp_align.runs.run_folder import Passes
from mvp_align.schema import PromptedPair
from mvp_align.scoring.tokens import TokenizedPair


@dataclass(frozen=True, slots=True)
class Batches:
    """Batch sizes in pairs: effective = micro x accumulation x processes."""

    effective: int
    micro: int
    accumulation: int
    processes: int
    steps: int
    checkpointing: bool = False
    """Whether layers are computed again in the backward pass."""

    @property
    def passes(self) -> Passes:
        return Passes(self.micro, self.checkpointing)

    @property
    def arithmetic(self) -> str:
        return (
            f"{self.effective} pairs a step = {self.micro} a pass x {self.accumulation} accumulated"
            f" x {self.processes} process{'es' if self.processes > 1 else ''}"
            + ", layers checkpointed"
            * self.checkpointing
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run will do. `train` holds the training pairs as text, `train_tokens` as tokens."""

    train: list[PromptedPair]
    train_tokens: list[TokenizedPair]
    train_over_limit: list[str]
    train_unused: int
    """Pairs within the limits that the run's steps do not reach."""
    train_merged: int
    eval_sets: list[EvalSet]
    val_set: EvalSet | None
    val_texts: list[PromptedPair]
    batches: Batches | None
    profiles: Sequence[ProfilePasses] = ()
    """Set by set; empty without `evals.profiles` and `evals.choices`."""
    drawn: list[str] = field(default_factory=list)
    """Notes on sets that are only sampled."""
    notes: list[str] = field(default_factory=list)
    """Notes on the run's adapters."""
    train_groups: list[str] = field(default_factory=list)
    """Of each training pair, the group that `train.objective` weighs it by, if by any."""
    disagreements: Disagreements | None = None
    """Which training pairs disagree, if `train.order` asks for it."""
    train_prompts_sha256: str = ""
    """Hash of the prompts of all training pairs within the limits.

    Includes pairs that the run does not reach, so it is the same for every seed.
    """

    @property
    def prompt_hashes(self) -> dict[str, str]:
        """SHA-256 of the prompts of each set, by `prompts/<set>`."""
        hashes = {"prompts/train": self.train_prompts_sha256} if self.train else {}
        return hashes | {
            f"prompts/{subject.name}": subject.prompts_sha256 for subject in self.eval_sets
        }

    @property
    def scored(self) -> list[list[TokenizedPair]]:
        """All sets of pairs that are scored before and after training."""
        sets = [
            pairs for subject in self.eval_sets for pairs in (subject.pairs, subject.prompt_free)
        ]
        return sets + [pairs for passes in self.profiles for pairs in passes.kinds.values()]
