"""The bundled sample equals its script's output, and has the properties in its data card."""

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvp_align.data.ceiling import value_blind_ceiling
from mvp_align.data.lengths import LENGTHS, longer_share
from mvp_align.data.sample import draw, figures, published
from mvp_align.schema import DIMENSIONS, PreferencePair, StatedValues, level

SPLITS = ("train", "val", "test")
FILES = [f"{split}.json" for split in SPLITS]
FIRST_DRAW = "8e17ceef738a407c2771d819358ba88bcffba017b41aa5f57bd29844da3a15f7"
"""SHA-256 of the first draw's three files, as published figures have them."""
FIELDS = {
    "age": published.AGE,
    "gender": published.GENDER,
    "employment_status": published.EMPLOYMENT,
    "education": published.EDUCATION,
    "marital_status": published.MARITAL,
    "english_proficiency": published.ENGLISH,
    "birth_country/region": published.BIRTH_COUNTRY,
}
OLDER = ("55-64 years old", "65+ years old")


@pytest.fixture(scope="module")
def records() -> dict[str, list[dict[str, Any]]]:
    return {
        split: json.loads((draw.HERE / f"{split}.json").read_text(encoding="utf-8"))
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def several() -> dict[str, list[dict[str, Any]]]:
    return {
        split: json.loads((draw.HERE / "several" / f"{split}.json").read_text(encoding="utf-8"))
        for split in SPLITS
    }


@pytest.fixture(scope="module")
def instances(records: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [row for split in SPLITS for row in records[split]]


@pytest.fixture(scope="module")
def users(instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The users as in the files, not as in the script."""
    return list({row["user_id"]: row for row in instances}.values())


def test_a_fresh_draw_gives_the_committed_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert draw.main(["--check"]) == 0
    assert draw.main(["--out", str(tmp_path)]) == 0
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.json"))
    assert written == sorted([*FILES, *(f"several/{name}" for name in FILES)])
    for name in written:
        assert (tmp_path / name).read_bytes() == (draw.HERE / name).read_bytes()


def test_the_first_draw_stays_what_it_was() -> None:
    content = b"".join((draw.HERE / name).read_bytes() for name in FILES)
    assert sha256(content).hexdigest() == FIRST_DRAW


def test_check_names_the_file_that_differs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{split}.json": (draw.HERE / f"{split}.json").read_bytes() for split in SPLITS}
    (tmp_path / "train.json").write_bytes(files["train.json"])
    (tmp_path / "val.json").write_bytes(files["val.json"].replace(b"\n", b"\r\n"))
    assert draw.main(["--out", str(tmp_path), "--check"]) == 1
    said = capsys.readouterr().err
    assert (
        "val.json is not what is drawn" in said
        and "test.json is missing" in said
        and f"{tmp_path / 'train.json'}" not in said
        and "several/val.json is missing" in said
    )
    assert not (tmp_path / "test.json").exists()


def test_counts(records: dict[str, list[dict[str, Any]]], instances: list[dict[str, Any]]) -> None:
    assert {
        split: len({row["user_id"] for row in records[split]}) for split in SPLITS
    } == draw.USERS
    assert [row["id"] for row in instances] == [f"p{n}" for n in range(1, len(instances) + 1)]
    assert len(instances) >= 1200 and 190 <= len(records["test"]) <= 300
    questions = {
        d: {row["question"] for row in instances if row["dimension"] == d} for d in DIMENSIONS
    }
    assert min(len(of) for of in questions.values()) >= 30
    assert len(set().union(*questions.values())) == sum(len(of) for of in questions.values()) >= 210


@pytest.mark.parametrize("key", ["user_id", "question"])
def test_splits_share_neither_users_nor_questions(
    records: dict[str, list[dict[str, Any]]], key: str
) -> None:
    train, val, test = ({row[key] for row in records[split]} for split in SPLITS)
    assert not (train & val or train & test or val & test)


def test_records_are_in_the_authors_schema(instances: list[dict[str, Any]]) -> None:
    keys = ["id", "question", "answer_w", "answer_l", "user_id", "stated_prefs", *FIELDS]
    for row in instances:
        assert set(row) == {*keys, "self_description", "system_string", "preference", "dimension"}
        assert set(row["stated_prefs"]) == set(DIMENSIONS)
        assert row["preference"] == StatedValues(**row["stated_prefs"]).preference() != ""
        assert row["self_description"] == row["system_string"] == ""


@pytest.mark.parametrize("name", FIELDS)
def test_demographics_are_the_published_marginals(users: list[dict[str, Any]], name: str) -> None:
    published_counts, found = FIELDS[name], Counter(user[name] for user in users)
    whole = sum(published_counts.values())
    assert len(users) == 280 and set(found) <= set(published_counts)
    for value, count in published_counts.items():
        assert abs(found[value] - count * 280 / whole) < 1, value


def test_countries_and_ages_make_plausible_people(users: list[dict[str, Any]]) -> None:
    assert len({user["birth_country/region"] for user in users} - {published.PREFER_NOT}) >= 40
    assert {user["age"] for user in users if user["employment_status"] == "Retired"} <= set(OLDER)
    assert not {user["age"] for user in users if user["employment_status"] == "Student"} & set(
        OLDER
    )


def test_scores_have_the_published_moments(users: list[dict[str, Any]]) -> None:
    scores = np.array([[user["stated_prefs"][d] for d in DIMENSIONS] for user in users])
    assert scores.min() >= 0 and scores.max() == 100
    mean, sd = np.array([published.SCORES[d] for d in DIMENSIONS]).T
    np.testing.assert_allclose(scores.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(scores.std(axis=0, ddof=1), sd, atol=0.1)
    found = np.corrcoef(scores.T)
    for (a, b), r in published.CORRELATIONS.items():
        assert found[DIMENSIONS.index(a), DIMENSIONS.index(b)] == pytest.approx(r, abs=0.01), (a, b)
    assert len(published.CORRELATIONS) == 21


def test_no_profile_field_predicts_a_score(users: list[dict[str, Any]]) -> None:
    """49 F tests on noise: the smallest p of this draw is 0.011, and 1e-4 would be no accident of
    that many."""
    stats = pytest.importorskip("scipy.stats")
    for name in FIELDS:
        large = [value for value, n in Counter(user[name] for user in users).items() if n >= 5]
        for dimension in DIMENSIONS:
            groups = [
                [u["stated_prefs"][dimension] for u in users if u[name] == value] for value in large
            ]
            assert stats.f_oneway(*groups).pvalue > 1e-4, (name, dimension)


def test_everyone_is_asked_once_about_each_dimension_they_are_clear_about(
    users: list[dict[str, Any]], instances: list[dict[str, Any]]
) -> None:
    asked = Counter((row["user_id"], row["dimension"]) for row in instances)
    clear = {
        (user["user_id"], d) for user in users for d in DIMENSIONS if level(user["stated_prefs"][d])
    }
    assert asked == Counter(clear)


def test_high_prefers_the_answer_that_shows_the_dimension(instances: list[dict[str, Any]]) -> None:
    bank = {(d, item["question"]): item for d in DIMENSIONS for item in draw.read_questions(d)}
    for row in instances:
        item = bank[row["dimension"], row["question"]]
        pair = (item["shows"], item["opposes"])
        wanted = pair if level(row["stated_prefs"][row["dimension"]]) == "High" else pair[::-1]
        assert (row["answer_w"], row["answer_l"]) == wanted


def test_questions_are_dealt_evenly(records: dict[str, list[dict[str, Any]]]) -> None:
    for split in SPLITS:
        for dimension in DIMENSIONS:
            rows = [row for row in records[split] if row["dimension"] == dimension]
            for some in (rows, [row for row in rows if row["stated_prefs"][dimension] >= 80]):
                dealt = Counter(row["question"] for row in some)
                counts = [dealt[question] for question in {row["question"] for row in rows}]
                assert max(counts) - min(counts) <= 1, (split, dimension)


def test_the_question_alone_does_not_tell_the_answer(
    records: dict[str, list[dict[str, Any]]],
) -> None:
    for split in SPLITS:
        pairs = [
            PreferencePair(r["id"], r["user_id"], r["question"], r["answer_w"], r["answer_l"])
            for r in records[split]
        ]
        assert 0.5 < value_blind_ceiling(pairs) < 0.8, split


def test_answers_are_of_like_length(instances: list[dict[str, Any]]) -> None:
    for row in instances:
        for key in ("answer_w", "answer_l"):
            assert 25 <= len(row[key].split()) <= 60, (row["id"], key)
    answers = [(row["answer_w"], row["answer_l"]) for row in instances]
    for name, length in LENGTHS.items():
        assert 0.42 <= longer_share(answers, length) <= 0.58, name


def test_longer_share_counts_a_tie_half() -> None:
    assert longer_share([("aa", "b"), ("a", "b"), ("a", "bb"), ("a", "bb")], len) == 0.375


def test_quotas_give_the_leftover_to_the_largest_remainders() -> None:
    assert draw.quotas({"a": 5, "b": 3, "c": 2}, 4) == {"a": 2, "b": 1, "c": 1}
    assert draw.quotas({"a": 1, "b": 1, "c": 1}, 4) == {"a": 2, "b": 1, "c": 1}


def test_the_second_draw_has_the_people_and_questions_of_the_first(
    records: dict[str, list[dict[str, Any]]], several: dict[str, list[dict[str, Any]]]
) -> None:
    """So that a model trained on either can be tested on either."""
    for split in SPLITS:
        people = {row["user_id"]: row for row in records[split]}
        asked = {row["question"] for row in records[split]}
        assert {row["user_id"] for row in several[split]} == {*people}
        assert {row["question"] for row in several[split]} == asked
        for row in several[split]:
            known = people[row["user_id"]]
            for key in (*FIELDS, "stated_prefs", "preference"):
                assert row[key] == known[key]
    rows = [row for split in SPLITS for row in several[split]]
    assert [row["id"] for row in rows] == [f"s{n}" for n in range(1, len(rows) + 1)]


def test_the_second_draw_asks_six_questions_of_two_dimensions(
    several: dict[str, list[dict[str, Any]]],
) -> None:
    for split in SPLITS:
        asked = Counter((row["user_id"], row["dimension"]) for row in several[split])
        assert {*asked.values()} == {draw.SEVERAL}
        distinct = {(row["user_id"], row["question"]) for row in several[split]}
        assert len(distinct) == len(several[split])
        each = Counter(user for user, _ in asked)
        clear = {
            row["user_id"]: sum(level(score) is not None for score in row["stated_prefs"].values())
            for row in several[split]
        }
        assert each == {user: min(draw.OF_DIMENSIONS, count) for user, count in clear.items()}


def test_the_second_draw_is_dealt_evenly_and_tells_less_by_its_questions(
    records: dict[str, list[dict[str, Any]]], several: dict[str, list[dict[str, Any]]]
) -> None:
    bank = {(d, item["question"]): item for d in DIMENSIONS for item in draw.read_questions(d)}
    for split in SPLITS:
        for row in several[split]:
            item = bank[row["dimension"], row["question"]]
            high = level(row["stated_prefs"][row["dimension"]]) == "High"
            assert row["answer_w"] == item["shows" if high else "opposes"]
            assert row["answer_l"] == item["opposes" if high else "shows"]
        for dimension in DIMENSIONS:
            rows = [row for row in several[split] if row["dimension"] == dimension]
            for some in (rows, [row for row in rows if row["stated_prefs"][dimension] >= 80]):
                dealt = Counter(row["question"] for row in some)
                counts = [dealt[question] for question in {row["question"] for row in rows}]
                assert max(counts) - min(counts) <= 1, (split, dimension)
        blind = [
            value_blind_ceiling(
                [
                    PreferencePair(
                        r["id"], r["user_id"], r["question"], r["answer_w"], r["answer_l"]
                    )
                    for r in rows
                ]
            )
            for rows in (records[split], several[split])
        ]
        assert blind[1] < blind[0] - 0.1


def test_the_data_card_holds_the_measured_tables(
    records: dict[str, list[dict[str, Any]]], several: dict[str, list[dict[str, Any]]]
) -> None:
    card = (draw.HERE / "README.md").read_text(encoding="utf-8")
    users = [user for part in draw.draw_users().values() for user in part]
    for name, table in figures.figure_tables(records, several, users, draw.HERE / "ufp4").items():
        assert table in card, (
            f"'{name}' is not in README.md as `python -m mvp_align.data.sample.draw` prints it"
        )


@pytest.mark.parametrize(
    "name", ["helpfulness", "honesty", "instruction_following", "truthfulness"]
)
def test_ufp4_sample(name: str) -> None:
    rows = json.loads((draw.HERE / "ufp4" / f"{name}.json").read_text(encoding="utf-8"))
    assert len(rows) >= 15 and len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        assert (
            {"prompt", "chosen", "rejected"}
            <= set(row)
            <= {"prompt", "chosen", "rejected", "profile"}
        )
        assert all(isinstance(text, str) for text in row.values())
        # a profile may be empty
        assert all(row[key].strip() for key in ("prompt", "chosen", "rejected"))
        assert row["chosen"] != row["rejected"]
