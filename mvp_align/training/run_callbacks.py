"""What a run measures at each of its evaluations in training."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from mvp_align.config import Config
from mvp_align.data.sets import SETS
from mvp_align.data.subsets import draw
from mvp_align.evaluation.answer_metrics import needs_answers
from mvp_align.schema import PreferencePair
from mvp_align.training.answer_callback import PAACallback
from mvp_align.training.bound_watch import PerplexityCallback
from mvp_align.training.callbacks import OODCallback, OPACallback
from mvp_align.training.evaluations import EvaluationCallback
from mvp_align.training.plan import Plan


def evaluation_callbacks(
    plan: Plan,
    val: Sequence[PreferencePair],
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
) -> list[EvaluationCallback]:
    """Return OPA on validation pairs, OPA out of domain, PAA and SPMR on answers to pairs of `val`
    as far as `evals.metrics` has them, and the neutral text's perplexity where it has a bound;
    nothing without `evals.every_steps`."""
    if plan.val_set is None:
        return []
    evals, size = config.evals, config.evals.batch_size
    opa = OPACallback(
        plan.val_set,
        tokenizer,
        batch_size=size,
        worst_by=evals.worst_by or "",
        min_users=evals.min_users,
    )
    others = [subject for subject in plan.eval_sets if SETS[subject.name].out_of_domain]
    found: list[EvaluationCallback] = [opa]
    found += [OODCallback(tokenizer, source=subject, batch_size=size) for subject in others]
    if needs_answers(config):
        found.append(
            PAACallback(
                draw(val, config.generation.every_pairs, config.seed),
                tokenizer,
                generation=config.generation,
                paa="paa" in evals.metrics,
                spmr="spmr" in evals.metrics,
                seed=config.seed,
            )
        )
    if config.train.stop_on.perplexity is not None:
        found.append(PerplexityCallback(tokenizer, size))
    return found
