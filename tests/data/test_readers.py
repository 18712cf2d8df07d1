"""Valid records become the right pairs, from every kind of source."""

import hashlib
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from mvp_align.data import sources
from mvp_align.data.readers import SAME_RECORD, drop_repeats, read_pairs
from mvp_align.errors import UserError
from mvp_align.schema import DIMENSIONS, PreferencePair, Profile, StatedValues

PSOUPS = Path(__file__).parents[2] / ".." / "shared" / "data" / "psoups_friendly.json"
SCORES = dict(zip(DIMENSIONS, (50, 95, 80, 61, 60, 79, 100), strict=True))


def mvpbench(**changes: Any) -> dict[str, Any]:
    record = {
        "id": "p1",
        "question": " How do I sleep better?",
        "answer_w": "Keep fixed hours. ",
        "answer_l": "Nobody needs sleep.",
        "user_id": "user7",
        "stated_prefs": {**SCORES, "values": 90, "other": None, "other_text": ""},
        "age": "65+ years old",
        "gender": "Female",
        "employment_status": "Retired",
        "education": "Vocational",
        "marital_status": "Widowed",
        "english_proficiency": "Fluent",
        "birth_country/region": "Chile",
        "self_description": "a person",
        "system_string": "be kind",
        "preference": "High fluency.",
    }
    return {**record, **changes}


def ufp4(**changes: Any) -> dict[str, Any]:
    return {"prompt": "Why?", "chosen": "Because.", "rejected": "Dunno.", **changes}


def write(path: Path, records: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return str(path)


def one(path: Path, record: object, format: str) -> PreferencePair:
    (pair,) = read_pairs(write(path, [record]), format).pairs
    return pair


def test_mvpbench_record_becomes_a_pair_with_its_texts_untouched(tmp_path: Path) -> None:
    assert one(tmp_path / "dvb.json", mvpbench(), "mvpbench") == PreferencePair(
        id="p1",
        user_id="user7",
        question=" How do I sleep better?",
        chosen="Keep fixed hours. ",
        rejected="Nobody needs sleep.",
        profile=Profile(
            "65+ years old", "Female", "Retired", "Vocational", "Widowed", "Chile", "Fluent"
        ),
        stated_values=StatedValues(**SCORES),
        preference="High fluency.",
        groups={
            "age": "65+ years old",
            "gender": "Female",
            "employment_status": "Retired",
            "education": "Vocational",
            "marital_status": "Widowed",
            "birth_country": "Chile",
            "english_proficiency": "Fluent",
        },
    )


def test_first_edition_names_the_country_otherwise(tmp_path: Path) -> None:
    first = mvpbench(birth_country="Ghana")
    del first["birth_country/region"], first["english_proficiency"]
    pair = one(tmp_path / "mvp.json", first, "mvpbench")
    assert (
        pair.profile is not None
        and pair.profile.birth_country == pair.groups["birth_country"] == "Ghana"
    )
    assert pair.profile.english_proficiency == "" and "english_proficiency" not in pair.groups


@pytest.mark.parametrize("given", [None, "", "  "])
def test_a_preference_that_is_not_given_follows_from_the_scores(
    tmp_path: Path, given: str | None
) -> None:
    pair = one(tmp_path / "dvb.json", mvpbench(preference=given), "mvpbench")
    assert (
        pair.preference
        == "High fluency, High factuality, High helpfulness, Low creativity, Low safety."
    )


@pytest.mark.parametrize(
    ("dimension", "level"),
    [("fluency", "High"), ("safety", "Low"), ("diversity", None), ("personalisation", None)],
)
def test_the_samples_dimension_and_the_persons_level_on_it_are_groups(
    tmp_path: Path, dimension: str, level: str | None
) -> None:
    groups = one(tmp_path / "sample.json", mvpbench(dimension=dimension), "mvpbench").groups
    assert (groups["dimension"], groups.get("level")) == (dimension, level)


def test_integral_floats_are_scores(tmp_path: Path) -> None:
    pair = one(tmp_path / "dvb.json", mvpbench(stated_prefs={**SCORES, "safety": 75.0}), "mvpbench")
    assert pair.stated_values is not None and pair.stated_values.safety == 75
    assert type(pair.stated_values.safety) is int


def test_ufp4_folder_gives_user_types_in_order_of_name_and_the_hash_of_all_bytes(
    tmp_path: Path,
) -> None:
    for name in ("truthfulness", "honesty"):
        write(
            tmp_path / "ufp4" / f"{name}.json",
            [ufp4(prompt=f"{name}?"), ufp4(prompt=" Why? ", profile="Old.\n")],
        )
    (tmp_path / "ufp4" / "README.md").write_text("not a record")
    read = read_pairs(str(tmp_path / "ufp4"), "ufp4")
    assert [pair.id for pair in read.pairs] == [
        "honesty-0",
        "honesty-1",
        "truthfulness-0",
        "truthfulness-1",
    ]
    assert [pair.groups for pair in read.pairs] == [
        {"user_type": t} for t in ("honesty", "truthfulness") for _ in "12"
    ]
    assert read.pairs[1].profile_text == "Old.\n" and read.pairs[0].profile_text == ""
    both = b"".join(
        (tmp_path / "ufp4" / f"{name}.json").read_bytes() for name in ("honesty", "truthfulness")
    )
    assert read.sha256 == hashlib.sha256(both).hexdigest()
    assert (read.records, read.left_out, read.source) == (4, {}, str(tmp_path / "ufp4"))


def test_records_without_a_person_have_the_stripped_prompt_as_user(tmp_path: Path) -> None:
    records = [
        ufp4(),
        ufp4(prompt=" Why?\n"),
        ufp4(user_id=None),
        ufp4(user_id="ann"),
        ufp4(user_id=7),
    ]
    pairs = read_pairs(write(tmp_path / "mine.json", records), "ufp4").pairs
    prompt = "prompt-" + hashlib.sha256(b"Why?").hexdigest()[:8]
    assert [pair.user_id for pair in pairs] == [prompt, prompt, prompt, "ann", "7"]
    assert all("user_type" not in pair.groups for pair in pairs)


def test_a_single_file_of_ufp4_has_its_user_type(tmp_path: Path) -> None:
    assert one(tmp_path / "honesty.json", ufp4(), "ufp4").groups == {"user_type": "honesty"}
    assert one(tmp_path / "honesty.json", ufp4(), "pairs").groups == {}


@pytest.mark.parametrize(
    ("profile", "text"),
    [
        ("Likes tea.", "Likes tea."),
        (None, ""),
        ({}, ""),
        ({"age": "65+", "birth_country": "Chile", "job": None}, "Age: 65+, Birth country: Chile."),
    ],
)
def test_profiles_of_own_pairs(tmp_path: Path, profile: object, text: str) -> None:
    assert one(tmp_path / "own.json", ufp4(profile=profile), "pairs").profile_text == text


def test_own_ids_are_kept_and_missing_ones_made(tmp_path: Path) -> None:
    lines = [json.dumps(ufp4(id=i, prompt=f"q{n}")) for n, i in enumerate([5, "x", None])]
    path = tmp_path / "own.jsonl"
    path.write_text("\n\r\n".join(lines) + "\n")
    assert [pair.id for pair in read_pairs(str(path), "pairs").pairs] == ["5", "x", "own-2"]


def test_same_id_and_content_is_dropped_and_counted(tmp_path: Path) -> None:
    read = read_pairs(
        write(tmp_path / "dvb.json", [mvpbench(), mvpbench(id="p2"), mvpbench()]), "mvpbench"
    )
    assert [pair.id for pair in read.pairs] == ["p1", "p2"]
    assert (read.records, read.left_out) == (3, {SAME_RECORD: 1})


def test_parquet_with_gaps_reads_like_json(tmp_path: Path) -> None:
    records = [
        ufp4(prompt="a", user_id="u"),
        ufp4(prompt="b", profile="Old."),
        ufp4(prompt="c", user_id="v"),
    ]
    pd.DataFrame(records).to_parquet(tmp_path / "own.parquet")
    from_json = read_pairs(write(tmp_path / "own.json", records), "pairs")
    assert read_pairs(str(tmp_path / "own.parquet"), "pairs").pairs == from_json.pairs


def test_nested_scores_survive_parquet(tmp_path: Path) -> None:
    pd.DataFrame([mvpbench(), mvpbench(id="p2")]).to_parquet(tmp_path / "dvb.parquet")
    from_json = read_pairs(
        write(tmp_path / "dvb.json", [mvpbench(), mvpbench(id="p2")]), "mvpbench"
    )
    assert read_pairs(str(tmp_path / "dvb.parquet"), "mvpbench").pairs == from_json.pairs


@pytest.mark.parametrize("extension", [".json", ".jsonl", ".parquet"])
def test_the_limit_comes_before_every_check(tmp_path: Path, extension: str) -> None:
    records = [ufp4(prompt="a"), ufp4(prompt="b"), ufp4(chosen="")]
    path = tmp_path / f"own{extension}"
    if extension == ".parquet":
        pd.DataFrame(records).to_parquet(path)
    else:
        broken = "\n{broken" if extension == ".jsonl" else ""
        lines = "\n".join(map(json.dumps, records)) + broken
        path.write_text(lines if extension == ".jsonl" else json.dumps(records))
    assert [pair.question for pair in read_pairs(str(path), "pairs", limit=2).pairs] == ["a", "b"]
    with pytest.raises(UserError, match="chosen"):
        read_pairs(str(path), "pairs")


def test_the_limit_is_for_each_file_of_a_folder(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / "f" / f"{name}.json", [ufp4(), ufp4()])
    assert [pair.id for pair in read_pairs(str(tmp_path / "f"), "ufp4", limit=1).pairs] == [
        "a-0",
        "b-0",
    ]


def test_byte_order_mark_and_line_separators_inside_texts_are_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf" + json.dumps(ufp4(prompt="one\u2028two"), ensure_ascii=False).encode()
    )
    assert read_pairs(str(path), "pairs").pairs[0].question == "one\u2028two"


def test_bundled_samples_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "sample_root", lambda: tmp_path)
    write(tmp_path / "train.json", [mvpbench()])
    write(tmp_path / "ufp4" / "honesty.json", [ufp4()])
    (tmp_path / "README.md").write_text("a card")
    assert len(read_pairs("sample:train.json", "mvpbench").pairs) == 1
    assert read_pairs("sample:ufp4", "ufp4").pairs[0].groups == {"user_type": "honesty"}
    with pytest.raises(UserError, match=r"sample:nope: .* use one of: train\.json, ufp4\.$"):
        read_pairs("sample:nope", "ufp4")


def test_hugging_face_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [ufp4(prompt="a", user_id=None), ufp4(prompt="b", user_id="v")]
    splits = datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name in ("train", "test")}
    )

    def load_dataset(name: str, split: str | None = None) -> Any:
        if name == "gone/away":
            raise ConnectionError("no route to the hub\nand more")
        return splits[split] if split else splits

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    read = read_pairs("hf:me/pairs:test", "pairs", limit=1)
    assert [(pair.id, pair.question) for pair in read.pairs] == [("test-0", "a")]
    canonical = '[{"chosen": "Because.", "prompt": "a", "rejected": "Dunno.", "user_id": null}]'
    assert read.sha256 == hashlib.sha256(canonical.encode()).hexdigest()
    with pytest.raises(
        UserError, match="has the splits train, test; name one, as hf:me/pairs:train"
    ):
        read_pairs("hf:me/pairs", "pairs")
    with pytest.raises(
        UserError,
        match=r"hf:gone/away: it is not in the cache .*hf download --repo-type dataset gone/away",
    ):
        read_pairs("hf:gone/away", "pairs")
    del splits["train"]
    assert read_pairs("hf:me/pairs", "pairs").records == 2


def test_drop_repeats_keeps_the_first_whatever_the_profile(tmp_path: Path) -> None:
    records = [ufp4(profile="A"), ufp4(chosen="So."), ufp4(profile="B"), ufp4(rejected="No.")]
    pairs = read_pairs(write(tmp_path / "own.json", records), "pairs").pairs
    kept, dropped = drop_repeats(pairs)
    assert (kept, dropped) == ([pairs[0], pairs[1], pairs[3]], 1)


@pytest.mark.skipif(
    not PSOUPS.exists(), reason="the shared P-Soups file is not beside this checkout"
)
def test_a_real_file() -> None:
    read = read_pairs(str(PSOUPS), "ufp4")
    assert (read.records, len(read.pairs), read.left_out) == (600, 600, {})
    assert len({pair.user_id for pair in read.pairs}) == 112
    assert read.sha256 == hashlib.sha256(PSOUPS.read_bytes()).hexdigest()
    distinct, dropped = drop_repeats(read.pairs)
    assert (len(distinct), dropped) == (128, 472)
