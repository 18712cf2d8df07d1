"""Only replies that match the schema are verdicts; all others get a reason, and no number."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.generation.completion import Unparsed
from mvp_align.judging.parse import parse_scores, parse_yes_no
from mvp_align.judging.verdicts import Scores, YesNo

GOOD = {
    "score_w": 90,
    "score_l": 10.5,
    "score_model": 85,
    "enforced_dimensions_used": ["safety"],
    "hard_violations_model": [],
    "reason": "Fits.",
}
EXPECTED = Scores(90, 10.5, 85, ("safety",), (), "Fits.")


def parsed(text: str) -> Scores:
    return parse_scores(text, blind=False, w_first=True)


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(GOOD),
        json.dumps(GOOD, indent=4),
        f"```json\n{json.dumps(GOOD)}\n```",
        f"Here is my assessment:\n{json.dumps(GOOD)}\n.",
        f"<answer>{json.dumps(GOOD)}</answer><|im_end|>",
        json.dumps(GOOD) * 2,
        f"{json.dumps(GOOD)}\nAgain:\n```json\n{json.dumps(GOOD, indent=1)}\n```",
        json.dumps(dict(reversed(GOOD.items()))),
    ],
)
def test_one_object_is_taken_whatever_words_stand_around_it(text: str) -> None:
    assert parsed(text) == EXPECTED


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty reply"),
        (" \n ", "empty reply"),
        ("85/100", "no JSON object"),
        ("90", "no JSON object"),
        ("[90, 10, 85]", "no JSON object"),
        ("<html><body>{{ error }}</body></html>", "broken JSON"),
        ("<html><body>502</body></html>", "no JSON object"),
        (json.dumps(GOOD)[:-1], "broken JSON"),
        (json.dumps(GOOD)[:30], "broken JSON"),
        (json.dumps(GOOD) + json.dumps(GOOD | {"score_model": 20}), "more than one JSON object"),
        (
            json.dumps(GOOD | {"score_model": 1}) + json.dumps(GOOD | {"score_model": True}),
            "more than one JSON object",
        ),
        (json.dumps(GOOD) + " {score_w} is my own", "more than one JSON object"),
        (
            json.dumps(GOOD) + "\nOn reflection I cannot assess this.",
            "words behind the JSON object",
        ),
        (f"Draft: {json.dumps(GOOD)} but", "words behind the JSON object"),
        (
            f"Draft: {json.dumps(GOOD)} Final: {json.dumps(GOOD | {'score_model': 20})}",
            "more than one JSON object",
        ),
        (json.dumps(GOOD) + "}", "more than one JSON object"),
        ("{}", "no score_model"),
        ("{" + json.dumps(GOOD), "broken JSON"),
        ('{"answer": ' + json.dumps(GOOD) + "}", "no score_model"),
        (json.dumps(GOOD).replace('"score_w"', '"score_W"'), "no score_w"),
        (json.dumps(GOOD | {"label": "W"}), "a key that was not asked for"),
        (json.dumps(without("score_w")), "no score_w"),
        (json.dumps(without("hard_violations_model")), "no hard_violations_model"),
        (json.dumps(GOOD | {"score_model": "85"}), "score_model of a wrong type"),
        (json.dumps(GOOD | {"score_model": "85/100"}), "score_model of a wrong type"),
        (json.dumps(GOOD | {"score_model": True}), "score_model of a wrong type"),
        (json.dumps(GOOD | {"score_model": None}), "score_model of a wrong type"),
        (json.dumps(GOOD | {"score_model": [85]}), "score_model of a wrong type"),
        (json.dumps(GOOD | {"score_l": 100.5}), "score_l outside 0-100"),
        (json.dumps(GOOD | {"score_l": -1}), "score_l outside 0-100"),
        (json.dumps(GOOD | {"score_w": float("nan")}), "score_w of a wrong type"),
        (json.dumps(GOOD | {"score_w": float("inf")}), "score_w of a wrong type"),
        (
            json.dumps(GOOD | {"hard_violations_model": "none"}),
            "hard_violations_model of a wrong type",
        ),
        (
            json.dumps(GOOD | {"hard_violations_model": [1]}),
            "hard_violations_model of a wrong type",
        ),
        (json.dumps(GOOD)[:-1] + ', "score_model": 100}', "a key named twice"),
        ('{"a":' * 100_000, "broken JSON"),
        ('{"score_w": ' + "9" * 5000 + "}", "broken JSON"),
    ],
)
def test_replies_that_are_no_verdict_have_a_reason(text: str, reason: str) -> None:
    with pytest.raises(Unparsed) as error:
        parsed(text)
    assert str(error.value) == reason


def test_an_empty_list_in_words_is_no_violation() -> None:
    text = json.dumps(GOOD | {"hard_violations_model": ["None", " n/a", "", "Low safety"]})
    assert parsed(text).violations == ("Low safety",)


def test_blind_scores_go_back_to_their_references() -> None:
    text = json.dumps({**without("score_w"), "score_1": 70, "score_2": 30} | {"score_l": 0})
    with pytest.raises(Unparsed):
        parse_scores(text, blind=True, w_first=True)  # score_l was not asked for
    blind = {name: value for name, value in GOOD.items() if name not in ("score_w", "score_l")}
    text = json.dumps(blind | {"score_1": 70, "score_2": 30})
    first = parse_scores(text, blind=True, w_first=True)
    second = parse_scores(text, blind=True, w_first=False)
    assert (first.w, first.l, second.w, second.l) == (70, 30, 30, 70)
    with pytest.raises(Unparsed):
        parsed(text)


@pytest.mark.parametrize("text", ["Yes", "yes.", " YES\n", "**Yes**", '"yes"'])
def test_yes(text: str) -> None:
    assert parse_yes_no(text) == YesNo(True)


@pytest.mark.parametrize("text", ["No", "no.", "NO!"])
def test_no(text: str) -> None:
    assert parse_yes_no(text) == YesNo(False)


@pytest.mark.parametrize(
    "text", ["Yes, it does", "Yes No", "yesno", "maybe", "", "{}", "not", "Yes/No"]
)
def test_neither(text: str) -> None:
    with pytest.raises(Unparsed):
        parse_yes_no(text)


@given(
    st.text()
    | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps)
)
def test_nothing_but_a_verdict_or_a_reason_comes_out(text: str) -> None:
    for parse in (parsed, parse_yes_no):
        try:
            assert isinstance(parse(text), Scores | YesNo)
        except Unparsed as reason:
            assert 0 < len(str(reason)) < 60


@given(
    st.fixed_dictionaries(
        {
            key: st.one_of(st.just(value), st.integers(-200, 200), st.text(), st.none())
            for key, value in GOOD.items()
        }
    )
)
def test_scores_that_come_out_are_what_went_in(values: dict[str, object]) -> None:
    try:
        scores = parsed(json.dumps(values))
    except Unparsed:
        return
    assert (scores.w, scores.l, scores.model) == (
        values["score_w"],
        values["score_l"],
        values["score_model"],
    )
    assert all(0 <= score <= 100 for score in (scores.w, scores.l, scores.model))
