"""The plan of a run as text: a table of its sets, what it will do, what it leaves out, its cost."""

import math
from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from mvp_align.config import Config
from mvp_align.data.load import DataSets
from mvp_align.data.prompts import shows_person
from mvp_align.data.sets import IN_DOMAIN
from mvp_align.evaluation.profile_ablation import missing_lines, pass_lines
from mvp_align.evaluation.server_answers import AskedSet
from mvp_align.generation.cost import BYTES_A_TOKEN, tokens_by_bytes
from mvp_align.generation.remote import messages_of
from mvp_align.modeling.base import run_quantization
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.packaged import loaded_id
from mvp_align.planning.forecast import forecast_lines
from mvp_align.training.bounds import bounds_of
from mvp_align.training.plan import Batches, Plan


def print_plan(
    config: Config, plan: Plan, data: DataSets, placement: Placement, console: Console | None = None
) -> None:
    """Print the plan as a table and lines, with a count and a reason for all records left out."""
    if not placement.is_main:
        return
    console = console or Console()
    lengths = Table(
        title="Pairs and tokens (median / 95 % / longest; of the two answers the longer one)",
        title_justify="left",
    )
    for column in ("set", "pairs", "users", "prompt", "with answer", "too long"):
        lengths.add_column(column, justify="left" if column == "set" else "right")
    sets = [(s.name, s.pairs, s.over_limit) for s in plan.eval_sets]
    if plan.train:
        sets.insert(0, ("train", plan.train_tokens, len(plan.train_over_limit)))
    for name, pairs, over in sets:
        prompts = _percentiles([p.prompt_tokens for p in pairs])
        totals = _percentiles([p.longest for p in pairs])
        lengths.add_row(
            name, str(len(pairs)), str(len({p.user_id for p in pairs})), prompts, totals, str(over)
        )
    console.print(lengths)
    for line in [
        *_plan_lines(config, plan, data, placement),
        *forecast_lines(config, plan, placement),
    ]:
        console.print(f"  {line}", highlight=False)


def print_questions(
    asked: Sequence[AskedSet], notes: Sequence[str], console: Console | None = None
) -> None:
    """Print what a server will be asked for: a table of the sets, how it is asked, and notes."""
    console = console or Console()
    lengths = Table(
        title="Pairs and prompts (median / 95 % / longest)",
        title_justify="left",
    )
    for column in ("set", "pairs", "users", "tokens of a prompt"):
        lengths.add_column(column, justify="left" if column == "set" else "right")
    for one in asked:
        counts = [
            sum(tokens_by_bytes(message["content"]) for message in messages_of(prompt))
            for prompt in one.prompts
        ]
        users = len({pair.user_id for pair in one.pairs})
        lengths.add_row(one.name, str(len(one.pairs)), str(users), _percentiles(counts))
    console.print(lengths)
    first = asked[0]
    generation = first.config.generation
    how = (
        f"model {first.server.endpoint.model} at {first.server.recorded_as}; prompt"
        f" {generation.prompt.name} as a user's turn; temperature {generation.temperature:g}, at"
        f" most {generation.max_new_tokens} tokens an answer"
    )
    counting = (
        f"tokens of prompts: one for every {BYTES_A_TOKEN} bytes, because the model's tokenizer is"
        " not here; that is too many for English"
    )
    for line in [how, counting, *notes]:
        console.print(f"  {line}", highlight=False)


def _plan_lines(config: Config, plan: Plan, data: DataSets, placement: Placement) -> list[str]:
    lines = [
        *[
            f"{config.model.id.partition('@')[0]} is not installed here: the Hub's original is"
            " loaded"
        ]
        * (loaded_id(config.model) != config.model.id),
        (
            f"model {loaded_id(config.model)} on {placement.device}, {placement.precision},"
            f" quantization {run_quantization(config.model, config.quantization)}"
        ),
        (
            f"prompt {config.prompt.name}; at most {config.data.max_prompt_tokens} prompt tokens"
            f" and {config.data.max_tokens} in all, longer pairs left out, nothing truncated"
        ),
    ]
    if plan.batches:
        lines.append(f"{plan.batches.steps} steps; {_arithmetic(config, plan.batches)}")
    if plan.disagreements:
        lines.append(
            f"{plan.disagreements.coupled} of {len(plan.train)} training pairs share a step with"
            " one that prefers the other answer (train.order=disagreeing)"
        )
    lines += _best_lines(config, plan)
    if plan.batches:
        does = "stops" if config.train.stop_on.action == "stop" else "warns"
        lines += [f"{does} where {bound.when}" for bound in bounds_of(config.train.stop_on)]
    for subject in plan.eval_sets:
        if subject.ceiling is not None:
            lines.append(
                f"{subject.name}: a model that ignores who is asking cannot pass acc@0"
                f" {subject.ceiling:.1%}"
            )
    lines += pass_lines(plan.profiles)
    merged = plan.train_merged + sum(s.merged for s in plan.eval_sets)
    if merged:
        lines.append(
            f"{merged} answers start inside the prompt's last token; that token is scored with"
            " neither"
        )
    lines += _free_text_lines(config, data)
    lines += left_out_lines(plan, data)
    return lines


def _best_lines(config: Config, plan: Plan) -> list[str]:
    """Say which evaluations `train.best_by` will choose among."""
    every, metric, val = config.evals.every_steps, config.train.best_by, plan.val_set
    if metric is None or every is None or val is None or plan.batches is None:
        return []
    users = len({pair.user_id for pair in val.pairs})
    evaluations = math.ceil(plan.batches.steps / every)
    return [
        f"keeps the best of {evaluations} evaluation{'s' if evaluations > 1 else ''} by {metric} on"
        f" {len(val.pairs)} validation pairs of {users} people"
    ]


def _free_text_lines(config: Config, data: DataSets) -> list[str]:
    """Say which pairs do not fill the prompt's template."""
    pairs = [*data.train, *data.by_set.get(IN_DOMAIN, ())]
    as_text = sum(pair.profile is None and bool(pair.profile_text.strip()) for pair in pairs)
    if not as_text or not shows_person(config.prompt):
        return []
    return [
        f"{as_text} of {len(pairs)} pairs have a profile in free text, which fills no field of"
        f" prompt {config.prompt.name}: their prompts are profile, newline, question"
    ]


def _arithmetic(config: Config, batches: Batches) -> str:
    if config.train.micro_batch_size != "auto":
        return batches.arithmetic
    processes = f"{batches.processes} process{'es' if batches.processes > 1 else ''}"
    return (
        f"{batches.effective} pairs a step in {processes}, as many a pass as fit (tried before step"
        " 1)"
    )


def left_out_lines(plan: Plan, data: DataSets) -> list[str]:
    """List what is not used, and why."""
    over = [
        f"train: {len(plan.train_over_limit)} pairs left out, over the token limits:"
        f" {', '.join(plan.train_over_limit[:10])}"
    ] * bool(plan.train_over_limit)
    if plan.train_unused and plan.batches:
        over.append(f"train: {plan.train_unused} pairs not reached in {plan.batches.steps} steps")
    over += [
        f"{s.name}: {s.over_limit} pairs left out, over the token limits"
        for s in plan.eval_sets
        if s.over_limit
    ]
    return over + plan.drawn + missing_lines(plan.profiles) + plan.notes + data.notes


def _percentiles(values: Sequence[int]) -> str:
    return f"{np.percentile(values, 50):.0f} / {np.percentile(values, 95):.0f} / {max(values)}"
