"""Who is kept of a survey, with which values and profile, and why others are left out."""

from collections.abc import Callable

import pytest
from population_rows import conversation, person

from mvp_align.construction.conversations import JoinedConversations
from mvp_align.construction.people import age_group, read_people, stated_score
from mvp_align.construction.population import Population
from mvp_align.schema import DIMENSIONS


def test_levels_follow_the_rule_of_80_and_60(write_population: Callable[..., Population]) -> None:
    scores = dict(zip(DIMENSIONS, (80, 79, 61, 60, 0, 100, 81), strict=True))
    own = write_population([person("a", stated_prefs=scores)], [])
    (found,) = read_people(own).known.values()
    assert found.preference == (
        "High creativity, High personalisation, High helpfulness, Low diversity, Low safety."
    )


def test_everyone_is_kept_or_counted(write_population: Callable[..., Population]) -> None:
    rows = [
        person("a"),
        person("a"),
        person("b"),
        person("b", gender="Male"),
        person("c", score=None),
        person("d", score=100.5),
        person("e", score="95"),
        person("f", score=101),
        person(""),
        person("g", location={"birth_country": "Atlantis"}, gender="", age=27),
        person("h", location=None),
    ]
    people = read_people(write_population(rows, []))
    assert [*people.known] == ["a", "e", "g", "h"]
    assert people.rows == len(rows) == len(people.known) + people.left_out.total
    six = ", ".join(DIMENSIONS[1:])
    assert people.left_out.counts == {
        "repeats an earlier row": 1,
        "another row has the same user_id and says otherwise": 2,
        f"says nothing of {six}": 1,
        f"no whole number from 0 to 100: {six}": 2,
        "no user_id": 1,
    }
    assert people.known["e"].values.safety == 95
    assert people.known["a"].country_code == "CHL"
    assert people.known["g"].profile["age"] == "25-34 years old"
    assert people.known["g"].profile["gender"] == "Prefer not to say"
    assert people.known["h"].country_code is None
    assert {name: count for name, count in people.unsaid.items() if count} == {
        "gender": 1,
        "birth_country": 1,
    }
    assert people.no_country == {"Atlantis": 1}


@pytest.mark.parametrize(
    ("text", "score"),
    [("95", 95), ("95.0", 95), (" 0 ", 0), ("100", 100), ("101", None), ("9.5", None),
     ("-1", None), ("", None), (None, None), ("true", None), ("1e2", None), ("²", None)],
)  # fmt: skip
def test_scores_are_whole_numbers(text: str | None, score: int | None) -> None:
    assert stated_score(text) == score


@pytest.mark.parametrize(
    ("text", "words"),
    [("18", "18-24 years old"), ("64.0", "55-64 years old"), ("65", "65+ years old"),
     ("17", "17"), ("65+ years old", "65+ years old"), ("thirty", "thirty")],
)  # fmt: skip
def test_years_become_prism_s_ranges(text: str, words: str) -> None:
    assert age_group(text) == words


def test_conversations_are_joined_or_counted(write_population: Callable[..., Population]) -> None:
    people = [person("a"), person("b", score=None), person("c")]
    no_opening = conversation("c5", "a") | {"opening_prompt": " ", "conversation_history": None}
    from_history = conversation("c6", "a") | {"opening_prompt": None}
    rows = [
        conversation("c1", "a", later=1),
        conversation("c2", "b"),
        conversation("c3", "nobody"),
        conversation("c1", "a"),
        conversation("c4", ""),
        conversation("", "a"),
        no_opening,
        from_history,
    ]
    own = write_population(people, rows)
    joined = JoinedConversations(own, read_people(own), None)
    for _ in range(2):  # the counts are of the last iteration alone
        found = [*joined]
        assert [one.id for one in found] == ["c1", "c6"]
        assert [one.opening for one in found] == ["What of c1?", "What of c6?"]
        assert found[0].later_messages == ["And 1?"]
        assert joined.rows == len(rows) == len(found) + joined.left_out.total
        reason = f"says nothing of {', '.join(DIMENSIONS[1:])}"
        assert joined.left_out.counts == {
            f"its person is left out: {reason}": 1,
            "its person is not in the survey": 1,
            "an earlier row has the same conversation_id": 1,
            "no user_id": 1,
            "no conversation_id": 1,
            "no opening prompt": 1,
        }
        assert joined.silent == 1
    joined.limit = 1
    assert ([one.id for one in joined], joined.rows) == (["c1"], 1)

    own.turn.role = "rolle"
    misnamed = JoinedConversations(own, read_people(own), None)
    assert [*misnamed] == []
    assert misnamed.left_out.counts["its turns hold no message of the person"] == 1
