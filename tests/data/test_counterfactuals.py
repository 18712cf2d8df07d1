"""Counterfactual pairs change what they say they change, and nobody is left out uncounted."""

from collections import Counter
from dataclasses import astuple, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.config import Data
from mvp_align.data.counterfactuals import counterfactual_pairs, origin
from mvp_align.data.load import load_data
from mvp_align.errors import UserError
from mvp_align.schema import DIMENSIONS, PreferencePair, StatedValues


def asked(values: StatedValues, dimension: str | None) -> PreferencePair:
    level = values.level(dimension) if dimension else None
    groups = {"dimension": dimension} if dimension else {}
    return PreferencePair(
        id="p1",
        user_id="u1",
        question="Q?",
        chosen="yes",
        rejected="no",
        stated_values=values,
        preference=values.preference(),
        groups=groups | ({"level": level} if level else {}),
    )


VALUES = st.builds(StatedValues, **dict.fromkeys(DIMENSIONS, st.integers(0, 100)))
DIMENSION = st.none() | st.sampled_from(DIMENSIONS)


@given(VALUES, DIMENSION, st.sampled_from(["dimension", "all"]))
def test_the_opposite_of_one_value_or_of_all(
    values: StatedValues, dimension: str | None, flips: str
) -> None:
    pair = asked(values, dimension)
    made, left_out = counterfactual_pairs([pair], flips)
    assert len(made) + sum(left_out.values()) == 1
    levels = {name: values.level(name) for name in DIMENSIONS}
    possible = any(levels.values()) and (flips == "all" or (dimension and levels[dimension]))
    assert len(made) == bool(possible)
    for other in made:
        assert (other.chosen, other.rejected) == (pair.rejected, pair.chosen)
        assert other.id != pair.id and origin(other.id) == pair.id
        changed = {name for name in DIMENSIONS if f"High {name}" in other.preference}
        changed ^= {name for name in DIMENSIONS if f"High {name}" in pair.preference}
        stated = {name for name, level in levels.items() if level}
        assert changed == (stated if flips == "all" else {dimension})
        assert other.preference.count(", ") == pair.preference.count(", ")
        if dimension and levels[dimension]:
            assert other.groups["level"] != pair.groups["level"]
        kept = replace(
            other,
            id=pair.id,
            chosen=pair.chosen,
            rejected=pair.rejected,
            stated_values=values,
            preference=pair.preference,
            groups=pair.groups,
        )
        assert kept == pair
        (back,) = counterfactual_pairs([other], flips)[0]
        assert back.preference == pair.preference


def test_reasons_are_counted() -> None:
    values = StatedValues(100, 70, 70, 70, 70, 70, 0)
    neither = StatedValues(*[70] * 7)
    pairs = [
        asked(values, "creativity"),
        asked(values, "safety"),
        asked(values, None),
        asked(neither, "safety"),
        replace(asked(values, "creativity"), preference="Likes rhymes."),
        replace(asked(values, "creativity"), stated_values=None),
    ]
    made, left_out = counterfactual_pairs(pairs, "dimension")
    assert [pair.preference for pair in made] == ["Low creativity, Low helpfulness."]
    assert Counter(left_out) == {
        "does not name a dimension that its person states as High or Low": 2,
        "states no High or Low value": 2,
        "its preference text is not that of its scores": 1,
    }


def test_training_alone_gets_them(compose) -> None:
    words = ("evals.sets=[in_domain]", "data.counterfactual=dimension")
    plain, more = (load_data(compose("data=sample", *words[:n])) for n in (1, 2))
    assert len(more.train) == 2 * len(plain.train) == 2310
    assert more.train[: len(plain.train)] == plain.train
    assert (more.test, more.val) == (plain.test, plain.val)
    assert more.read["train"].pairs == plain.train  # what the file holds stays as it was read
    assert any("1155 counterfactual pairs added" in note for note in more.notes)
    levels = Counter(pair.groups["level"] for pair in more.train)
    assert levels["High"] == levels["Low"]
    shown = [pair.stated_values for pair in more.train]
    assert all(values and max(astuple(values)) <= 100 for values in shown)


def test_a_lever_that_finds_nothing_is_refused(compose, tmp_path) -> None:
    """Records that name no dimension, as the benchmark's own do."""
    config = compose("data=sample", "evals.sets=[in_domain]", "data.counterfactual=dimension")
    records = tmp_path / "pairs.json"
    records.write_text(
        '[{"prompt": "Q?", "chosen": "a", "rejected": "b", "user_id": "u1"},'
        ' {"prompt": "R?", "chosen": "a", "rejected": "b", "user_id": "u2"}]'
    )
    config.data = Data(
        name="own", format="pairs", train=str(records), counterfactual="dimension", test_share=0.5
    )
    with pytest.raises(UserError, match=r"no training pair has a counterpart: 1 training pairs"):
        load_data(config)
