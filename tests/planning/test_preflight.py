"""Batches, steps and limits of the plan, compared with calculations by hand."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mvp_align.config import Config, Train
from mvp_align.data.load import DataSets
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError
from mvp_align.modeling.hardware import Placement
from mvp_align.modeling.source import load_tokenizer
from mvp_align.planning.plan_text import left_out_lines
from mvp_align.planning.preflight import make_plan, plan_batches
from mvp_align.schema import DIMENSIONS, PreferencePair
from mvp_align.training.plan import Batches, Plan
from recipes import lora_dpo

Compose = Callable[..., Config]


@pytest.mark.parametrize(
    ("train", "pairs", "processes", "expected"),
    [
        (
            Train(micro_batch_size=2),
            20,
            1,
            Batches(8, 2, 4, 1, 9),
        ),  # 3 epochs of 3 steps, the last of 4 pairs
        (Train(micro_batch_size=2), 20, 2, Batches(8, 2, 2, 2, 9)),
        (Train(micro_batch_size=2), 20, 4, Batches(8, 2, 1, 4, 9)),
        (Train(), 20, 1, Batches(8, 8, 1, 1, 9)),
        (Train(), 20, 2, Batches(8, 4, 1, 2, 9)),
        (Train(batch_size=6, micro_batch_size=3, epochs=1.0), 12, 1, Batches(6, 3, 2, 1, 2)),
        (Train(epochs=0.5, micro_batch_size=2), 40, 1, Batches(8, 2, 4, 1, 3)),
        (Train(max_steps=7, micro_batch_size=2), 20, 1, Batches(8, 2, 4, 1, 7)),
    ],
)
def test_batches_multiply_to_the_effective_one(
    train: Train, pairs: int, processes: int, expected: Batches
) -> None:
    found = plan_batches(train, pairs, processes)
    assert found == expected
    assert found.micro * found.accumulation * found.processes == found.effective
    shown = (
        f"{found.effective} pairs a step = {found.micro} a pass x {found.accumulation} accumulated"
        f" x {processes} process"
    )
    assert found.arithmetic.startswith(shown)


@pytest.mark.parametrize(
    ("train", "processes", "multiple"),
    [
        (Train(), 3, 6),
        (Train(batch_size=2, micro_batch_size="auto"), 4, 4),
        (Train(micro_batch_size="auto"), 3, 6),
    ],
)
def test_batches_that_do_not_divide_say_what_does(
    train: Train, processes: int, multiple: int
) -> None:
    with pytest.raises(
        UserError, match=rf"cannot be shared by {processes} processes.*a multiple of {multiple}\."
    ):
        plan_batches(train, 20, processes)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.epochs=1"],
        ["train.epochs=2", "train.micro_batch_size=1"],
        ["train.epochs=0.5"],
        ["train.epochs=1", "train.batch_size=6", "train.micro_batch_size=3"],
        ["train.max_steps=5"],
    ],
)
def test_the_trainer_takes_the_steps_that_were_announced(
    bench, few_pairs, overrides: list[str]
) -> None:
    if "train.max_steps=5" not in overrides:
        overrides = [*overrides, "train.max_steps=null"]
    made = bench(*overrides, pairs=few_pairs[:9])
    trainer = made.dpo()
    *_, steps = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    assert steps == made.plan.batches.steps


@pytest.fixture
def plan_of(
    compose: Compose, sharp: list[str], placement: Placement
) -> Callable[..., tuple[Config, DataSets, Plan]]:
    def made(pairs: Sequence[PreferencePair], *overrides: str) -> tuple[Config, DataSets, Plan]:
        config = compose(*sharp, "train.batch_size=4", "evals.sets=[in_domain]", *overrides)
        data = DataSets(train=list(pairs), val=list(pairs), test=list(pairs))
        return config, data, make_plan(config, data, load_tokenizer(config.model), placement)

    return made


def test_pairs_over_the_limits_are_counted_and_listed_and_none_is_cut(plan_of, few_pairs) -> None:
    long_prompt = replace(few_pairs[0], id="long-prompt", question="why " * 100 + "?")
    long_answer = replace(few_pairs[1], id="long-answer", rejected="no " * 100 + ".")
    limits = ["data.max_prompt_tokens=60", "data.max_tokens=90", "train.max_steps=null"]
    _, data, plan = plan_of([*few_pairs, long_prompt, long_answer], *limits)
    assert plan.train_over_limit == ["long-prompt", "long-answer"]
    assert (
        [pair.id for pair in plan.train]
        == [pair.id for pair in plan.train_tokens]
        == [p.id for p in few_pairs]
    )
    assert [(text.chosen, text.rejected) for text in plan.train] == [
        (p.chosen, p.rejected) for p in few_pairs
    ]
    assert max(pair.longest for pair in plan.train_tokens) < 90
    assert (plan.eval_sets[0].over_limit, len(plan.eval_sets[0].pairs)) == (2, 16)
    assert left_out_lines(plan, data) == [
        "train: 2 pairs left out, over the token limits: long-prompt, long-answer",
        "in_domain: 2 pairs left out, over the token limits",
    ]


def test_less_than_an_epoch_trains_on_a_seeded_draw_and_says_so(plan_of, few_pairs) -> None:
    _, data, plan = plan_of(few_pairs, "train.max_steps=3")
    drawn = [pair.id for pair in plan.train]
    assert drawn == [pair.id for pair in plan.train_tokens]
    assert len(set(drawn)) == 12 and set(drawn) < {pair.id for pair in few_pairs}
    assert left_out_lines(plan, data) == ["train: 4 pairs not reached in 3 steps"]
    assert [pair.id for pair in plan_of(few_pairs, "train.max_steps=3")[2].train] == drawn
    assert [pair.id for pair in plan_of(few_pairs, "train.max_steps=3", "seed=7")[2].train] != drawn
    assert plan_of(few_pairs, "train.max_steps=4")[2].train_unused == 0


def test_pairs_looked_at_during_training_are_drawn_from_every_group(plan_of) -> None:
    """The first 40 by dimension are of two dimensions alone."""
    pairs = sorted(
        read_pairs("sample:test.json", "mvpbench").pairs, key=lambda pair: pair.groups["dimension"]
    )
    looked = [
        "evals.every_steps=1",
        "evals.every_pairs=14",
        "evals.metrics=[opa,paa]",
        "generation.every_pairs=7",
    ]
    _, data, plan = plan_of(pairs, *looked, "generation.limit=40", "data.max_tokens=2000")
    dimensions = {pair.id: pair.groups["dimension"] for pair in pairs}
    assert plan.val_set is not None
    assert Counter(dimensions[pair.id] for pair in plan.val_set.pairs) == dict.fromkeys(
        DIMENSIONS, 2
    )
    assert [text.id for text in plan.val_texts] == [pair.id for pair in plan.val_set.pairs]
    assert [line for line in left_out_lines(plan, data) if "drawn" in line] == [
        (
            "in_domain, answers: 40 of 208 pairs, drawn by seed 12 evenly over dimension, level (1"
            " to 3 of each of 14)"
        ),
        (
            "val, during training: 14 of 208 pairs, drawn by seed 12 evenly over dimension, level"
            " (1 of each of 14)"
        ),
        (
            "val, answers during training: 7 of 208 pairs, drawn by seed 12 evenly over dimension,"
            " level (0 to 1 of each of 14)"
        ),
    ]


def test_the_limit_leaves_room_for_the_eos_that_training_adds(plan_of, few_pairs) -> None:
    _, _, plan = plan_of(few_pairs)
    longest = max(pair.longest for pair in plan.train_tokens)
    at_limit = [pair.id for pair in plan.train_tokens if pair.longest == longest]
    _, _, tight = plan_of(few_pairs, "data.max_prompt_tokens=20", f"data.max_tokens={longest}")
    assert tight.train_over_limit == at_limit
    assert tight.eval_sets[0].over_limit == 0  # scored without EOS
    _, _, enough = plan_of(few_pairs, "data.max_prompt_tokens=20", f"data.max_tokens={longest + 1}")
    assert enough.train_over_limit == []


def test_no_pair_left_is_an_error(plan_of, few_pairs) -> None:
    with pytest.raises(
        UserError,
        match=r"all 16 training pairs are over data\.max_prompt_tokens or data\.max_tokens",
    ):
        plan_of(few_pairs, "data.max_prompt_tokens=3")


def test_a_limit_beyond_the_models_context_is_an_error(plan_of, few_pairs) -> None:
    with pytest.raises(
        UserError,
        match=r"is over the 2048 tokens that model=sharp .*set data\.max_tokens=2048 or less",
    ):
        plan_of(few_pairs, "data.max_tokens=2049")
    plan_of(few_pairs, "data.max_tokens=2048")
    with pytest.raises(
        UserError,
        match=r"set data\.max_tokens=2048 and data\.max_prompt_tokens=1024 or less\. Longer",
    ):
        plan_of(few_pairs, "data.max_tokens=4000", "data.max_prompt_tokens=3000")


def test_the_merged_tokens_are_counted(plan_of, few_pairs) -> None:
    _, _, plan = plan_of(few_pairs)
    assert plan.train_merged == plan.eval_sets[0].merged == 2


# The dry run


def test_a_dry_run_says_what_the_run_would_do_and_does_nothing(
    compose: Compose, sharp: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path for path in tmp_path.rglob("*"))
    lora_dpo.main(compose(*sharp, "train.max_steps=null", "train.dry_run=true"))
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines()]
    table = {row[0]: row[1:] for row in cells if len(row) == 6}
    assert set(table) >= {"train", "in_domain", "ufp4_sample"}
    pairs, users, prompt, longer, over = table["train"]
    assert (pairs, over) == ("24", "0")
    assert 1 < int(users) <= 24
    for figures in (prompt, longer):
        median, most, longest = map(int, figures.split(" / "))
        assert median <= most <= longest
    assert table["in_domain"][0] == "24"
    assert int(table["ufp4_sample"][0]) >= 60
    assert (
        f"{3 * math.ceil(24 / 8)} steps; 8 pairs a step = 2 a pass x 4 accumulated x 1 process"
        in shown
    )
    assert "on cpu, fp32, quantization none" in " ".join(shown.split())
    assert "at most 512 prompt tokens and 1024 in all, longer pairs left out" in " ".join(
        shown.split()
    )
    assert "memory, simulated, GiB: weights 0.0" in shown
    assert "step 1" not in shown
    assert not (tmp_path / "run").exists()
    assert sorted(path for path in tmp_path.rglob("*")) == before
