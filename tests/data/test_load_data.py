"""Loading a run's pairs from its config."""

import json
from pathlib import Path

import pytest

from mvp_align.config import Config
from mvp_align.data import sources
from mvp_align.data.load import load_data
from mvp_align.data.sets import SETS, UFP4
from mvp_align.errors import UserError
from mvp_align.schema import PreferencePair


def write(path: Path, users: str, prompt: str = "Why?") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [
        {"prompt": prompt, "chosen": "So.", "rejected": "No.", "user_id": user, "id": f"{user}{n}"}
        for n, user in enumerate(users)
    ]
    path.write_text(json.dumps(records))
    return str(path)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    write(tmp_path / "sample" / "ufp4" / "honesty.json", "xyz")
    monkeypatch.setattr(sources, "sample_root", lambda: tmp_path / "sample")
    config = Config(recipe="lora_dpo")
    config.data.format = "pairs"
    return config


def ids(pairs: list[PreferencePair]) -> list[str]:
    return [pair.id for pair in pairs]


def test_three_files_and_the_bundled_stand_in(config: Config, tmp_path: Path) -> None:
    config.evals.sets = ["in_domain", "ufp4_sample"]
    config.data.train, config.data.val, config.data.test = (
        write(tmp_path / f"{u}.json", u * 3) for u in "abc"
    )
    config.data.limit = 2
    data = load_data(config)
    assert [ids(data.train), ids(data.val), ids(data.test)] == [
        ["a0", "a1"],
        ["b0", "b1"],
        ["c0", "c1"],
    ]
    # data.limit is not for it
    assert ids(data.by_set["ufp4_sample"]) == ["honesty-0", "honesty-1", "honesty-2"]
    assert {name: read.source for name, read in data.read.items()} == {
        "train": config.data.train,
        "val": config.data.val,
        "test": config.data.test,
        "ufp4_sample": "sample:ufp4",
    }
    assert data.notes == ["ufp4_sample: keys that are not read, of 3 records: 'id' in 3."]


def test_a_head_of_one_group_alone_is_told(config: Config, tmp_path: Path) -> None:
    for user_type, users in zip(SETS[UFP4].user_types, ("ab", "cd"), strict=False):
        write(tmp_path / "mixed" / f"{user_type}.json", users)
    write(tmp_path / "one" / "honesty.json", "ef")
    config.data.train, config.data.test = str(tmp_path / "mixed"), str(tmp_path / "one")
    config.evals.sets = ["in_domain"]
    for limit, told in (
        (None, []),
        (1, ["test: the first 1 records (data.limit) are all of user_type honesty."]),
        (3, []),  # all of the file
    ):
        config.data.limit = limit
        assert [note for note in load_data(config).notes if "data.limit" in note] == told


def test_ufp4_is_its_four_files_alone(config: Config, tmp_path: Path) -> None:
    config.data.train = write(tmp_path / "train.json", "abcde")
    data = load_data(config)
    # nobody asked for the stand-in
    assert list(data.by_set) == ["in_domain"] and list(data.read) == ["train"]
    for name in SETS[UFP4].user_types:
        write(tmp_path / "real" / f"{name}.json", "x")
    config.evals.ufp4 = str(tmp_path / "real")
    assert ids(load_data(config).by_set["ufp4"]) == [f"{name}-0" for name in SETS[UFP4].user_types]
    (tmp_path / "real" / "honesty.json").rename(tmp_path / "real" / "honest.json")
    with pytest.raises(UserError, match=r"lacks honesty\.json, also holds honest\.json"):
        load_data(config)
    for folder in ("sample:ufp4", str(tmp_path / "sample" / "ufp4")):
        config.evals.ufp4 = folder
        with pytest.raises(
            UserError, match=r"bundled synthetic stand-in: that is evals\.sets=\[ufp4_sample\]"
        ):
            load_data(config)
    config.evals.sets, config.evals.ufp4 = ["ufp4"], None
    with pytest.raises(
        UserError, match=r"evals\.ufp4=FOLDER .* evals\.sets=\[in_domain,ufp4_sample\]"
    ):
        load_data(config)


def test_without_a_test_set_users_of_train_are_held_out(config: Config, tmp_path: Path) -> None:
    config.data.train = write(tmp_path / "train.json", "aabbccddee")
    data = load_data(config)
    assert len({p.user_id for p in data.train}) == 4 and len({p.user_id for p in data.test}) == 1
    assert not {p.user_id for p in data.train} & {p.user_id for p in data.test}
    assert load_data(config).test == data.test
    assert data.notes == [
        f"test: 1 of 5 users of {config.data.train} held out (data.test_share=0.2, seed=12)."
    ]


def test_the_configs_seed_decides_who_is_held_out(config: Config, tmp_path: Path) -> None:
    config.data.train = write(tmp_path / "train.json", "abcdefghijklmnopqrst")
    held_out = set()
    for config.seed in (12, 13, 14):
        held_out.add(tuple(ids(load_data(config).test)))
    assert len(held_out) == 3


def test_repeats_go_before_the_split(config: Config, tmp_path: Path) -> None:
    records = json.loads(Path(write(tmp_path / "train.json", "aab")).read_text())
    records[2]["prompt"] = "What?"
    config.data.train = str(tmp_path / "train.json")
    Path(config.data.train).write_text(json.dumps(records))
    config.data.test_share = 0.5
    config.data.drop_repeats = True
    data = load_data(config)
    assert len(data.train) == len(data.test) == 1
    assert "train: 1 pairs dropped that repeat an earlier one." in data.notes


def test_a_person_on_two_sides_is_refused(config: Config, tmp_path: Path) -> None:
    config.data.train, config.data.test = (
        write(tmp_path / "train.json", "ab"),
        write(tmp_path / "test.json", "bc"),
    )
    with pytest.raises(UserError, match=r"1 user.* in both train and test: b"):
        load_data(config)


def test_evaluating_needs_the_test_set_only(config: Config, tmp_path: Path) -> None:
    config.recipe = "evaluate"
    config.data.test = write(tmp_path / "test.json", "ab")
    assert (load_data(config).train, ids(load_data(config).test)) == ([], ["a0", "b1"])
    config.data.train = str(tmp_path / "elsewhere.json")
    data = load_data(config)
    assert data.train == [] and "elsewhere.json is not there" in data.notes[0]
    config.recipe = "lora_dpo"
    with pytest.raises(UserError, match=r"elsewhere\.json: no such file"):
        load_data(config)


@pytest.mark.parametrize("recipe", ["evaluate", "lora_dpo"])
def test_nothing_given(config: Config, recipe: str) -> None:
    config.recipe = recipe
    with pytest.raises(UserError, match=r"data\.test=PATH.*data\.train=PATH"):
        load_data(config)


def test_ufp4_alone_can_be_evaluated(config: Config) -> None:
    config.recipe, config.evals.sets = "evaluate", ["ufp4_sample"]
    data = load_data(config)
    assert (data.train, data.val, data.test, len(data.by_set["ufp4_sample"])) == ([], [], [], 3)


def test_records_left_out_are_noted(config: Config, tmp_path: Path) -> None:
    path = Path(write(tmp_path / "test.json", "ab"))
    path.write_text(json.dumps(json.loads(path.read_text()) * 2))
    config.recipe, config.data.test = "evaluate", str(path)
    assert load_data(config).notes == [
        "test: 2 of 4 records left out (repeats the id and content of an earlier record)."
    ]


def test_the_bundled_sample() -> None:
    config = Config(recipe="lora_dpo")
    config.data.train, config.data.val, config.data.test = (
        "sample:train.json",
        "sample:val.json",
        "sample:test.json",
    )
    data = load_data(config)
    assert data.train and data.val and data.test and data.notes == []
    found = {pair.groups["user_type"] for pair in data.by_set["ufp4_sample"]}
    assert found == set(SETS[UFP4].user_types)
    assert data.prompt_sets == ["ufp4_sample"]
    assert all({"dimension", "age", "birth_country"} <= pair.groups.keys() for pair in data.test)


def own(path: Path, *people: object, **more: object) -> str:
    records = [
        {"prompt": f"Q{n}?", "chosen": "So.", "rejected": "No.", "user_id": user, **more}
        for n, user in enumerate(people)
    ]
    path.write_text(json.dumps(records))
    return str(path)


def test_records_that_name_no_person_are_said_to_be_split_by_prompt(
    config: Config, tmp_path: Path
) -> None:
    config.data.train = own(tmp_path / "train.json", *[None] * 5)
    data = load_data(config)
    assert data.notes[0] == "train: no record names a person (user_id): split by prompt."
    assert data.prompt_sets == ["in_domain"]
    config.data.test = own(tmp_path / "test.json", None, prompt="Else?")
    assert load_data(config).notes == [
        "train: no record names a person (user_id): each prompt counts as one.",
        "test: no record names a person (user_id): each prompt counts as one.",
    ]


def test_records_of_which_some_name_a_person_are_counted(config: Config, tmp_path: Path) -> None:
    config.data.train = own(tmp_path / "train.json", "a", None, "b", None, None)
    data = load_data(config)
    assert (
        data.notes[0]
        == "train: 3 of 5 records name no person (user_id): each of their prompts counts as one."
    )
    assert data.prompt_sets == [] or data.prompt_sets == ["in_domain"]  # who is held out decides


def test_people_who_are_told_apart_by_case_or_spaces_are_named(
    config: Config, tmp_path: Path
) -> None:
    config.data.train = own(tmp_path / "train.json", "a ", "a", "b")
    config.data.test = own(tmp_path / "test.json", "A", "c")
    (note,) = load_data(config).notes
    assert note.endswith("alone count as different people, 1 times: 'A', 'a', 'a '.")


def test_what_was_recognised_is_noted(config: Config, tmp_path: Path) -> None:
    config.data.train = own(tmp_path / "train.json", "a", "b", "c")
    config.data.format = "auto"
    line = "train: recognised as texts, as TRL writes them (data.format=standard)."
    assert load_data(config).notes[0] == line
    config.data.format = "standard"
    assert line not in load_data(config).notes


def test_columns_are_those_of_the_runs_own_files(config: Config, tmp_path: Path) -> None:
    config.evals.sets = ["in_domain", "ufp4_sample"]
    records = [{"q": f"{n}?", "chosen": "So.", "rejected": "No."} for n in range(5)]
    (tmp_path / "train.json").write_text(json.dumps(records))
    config.data.train, config.data.columns = str(tmp_path / "train.json"), {"prompt": "q"}
    data = load_data(config)
    assert {pair.question for pair in data.train + data.test} == {f"{n}?" for n in range(5)}
    assert len(data.by_set["ufp4_sample"]) == 3


def test_keys_that_are_not_read_are_noted(config: Config, tmp_path: Path) -> None:
    config.data.train = own(tmp_path / "train.json", "a", "b", score=1)
    assert "train: keys that are not read, of 2 records: 'score' in 2." in load_data(config).notes
