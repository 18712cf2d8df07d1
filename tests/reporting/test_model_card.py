"""The adapter's card: read back by the Hub's own library, with the numbers of metrics.jsonl."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index
from omegaconf import OmegaConf

from mvp_align.config import Config, Data, Model, Prompt
from mvp_align.data.terms import shown_terms, synthetic_parts, training_terms
from mvp_align.errors import UserError
from mvp_align.metrics.rows import Row, read_rows, write_rows
from mvp_align.reporting.model_card import card_data, model_card, write_model_card
from mvp_align.reporting.results import Results
from mvp_align.runs.stored_config import read_config


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_run_leaves_the_card_of_its_adapter(finished: Path) -> None:
    """In place of PEFT's, which asks for everything."""
    card = ModelCard.load(finished / "adapter" / "README.md")
    assert "More Information Needed" not in card.text
    assert (card.data.library_name, card.data.license) == ("peft", "cc-by-4.0")
    assert card.data.language == "en" and {"mvp-align", "dpo", "lora"} <= {*card.data.tags}
    rows = {
        (row.set, row.metric): row
        for row in read_rows(finished / "metrics.jsonl")
        if row.stage == "tuned" and not row.group_by
    }
    told = {(one.dataset_type, one.metric_type): one for one in card.data.eval_results}
    assert {*told} >= {
        (name, metric)
        for name in ("in_domain", "ufp4_sample")
        for metric in ("opa/acc@0", "opa/mean", "opa/margin")
    }
    for key, one in told.items():
        assert one.metric_value == rows[key].value
        assert one.metric_args["low"] == rows[key].low
        assert one.metric_args["users"] == rows[key].users
        assert one.metric_args["unit"] == ("nats/token" if key[1] == "opa/margin" else "share")
    lift = rows["in_domain", "opa/acc@0_lift"]
    assert told["in_domain", "opa/acc@0"].metric_args["lift"] == lift.value
    index = eval_results_to_model_index(card.data.model_name, card.data.eval_results)
    assert index[0]["name"] == "finished"


def test_it_says_whom_it_serves_and_what_it_does_not_show(finished: Path) -> None:
    text = " ".join((finished / "adapter" / "README.md").read_text("utf-8").split())
    for said in (
        "who is served worst by the tuned model", "## Limits", "cannot pass",
        "The people of the training and test data are synthetic: the numbers say nothing",
        "Perplexity of a neutral text",
        "AutoPeftModelForCausalLM.from_pretrained", "LoRA rank 16", "peft 0.",
        "which is on no Hub", "`cc-by-4.0`, that of the data",
        "`ufp4_sample` is synthetic and stands in",
    ):  # fmt: skip
        assert said in text, said
    assert str(finished.parent) not in text  # where it was made is nobody's business


def test_the_same_files_give_the_same_card(run: Path) -> None:
    before = (run / "adapter" / "README.md").read_bytes()
    assert write_model_card(run) == run / "adapter" / "README.md"
    assert (run / "adapter" / "README.md").read_bytes() == before
    rows = read_rows(run / "metrics.jsonl")
    mean = Row("tuned", "in_domain", "paa/dvb_judge", "", "", 0.5, 0.4, 0.6, 9, 3)
    write_rows(run / "metrics.jsonl", [*rows, mean])
    write_model_card(run)
    card = ModelCard.load(run / "adapter" / "README.md")
    assert "paa/dvb_judge" in {one.metric_type for one in card.data.eval_results}


def test_a_repository_and_a_licence_that_are_given_stand_in_it(run: Path) -> None:
    card = model_card(run, "apache-2.0", "me/mine")
    assert (card.data.license, card.data.model_name) == ("apache-2.0", "mine")
    assert 'from_pretrained("me/mine")' in card.text


def test_hostile_names_stay_texts(run: Path) -> None:
    """A group's name may come from anybody's records."""
    rows = read_rows(run / "metrics.jsonl")
    name = "<script>alert(1)</script> | [x](javascript:1) ---"
    worst = Row("tuned", "in_domain", "opa/acc@0_worst", "gender", name, 0.1, 0.0, 0.2, 9, 6)
    write_rows(run / "metrics.jsonl", [*(row for row in rows if row.group_by != "gender"), worst])
    card = ModelCard(str(model_card(run)))
    assert "<script>" not in card.text and "&lt;script>" in card.text
    assert card.data.eval_results


def test_a_run_without_an_adapter_has_no_card(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    assert write_model_card(run) is None and not (run / "adapter").exists()


def test_a_folder_that_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml: no such file"):
        model_card(tmp_path)


def config_on(train: str, **data: str) -> Config:
    return Config(
        recipe="lora_dpo",
        model=Model("llama", "meta-llama/Llama-2-7b-hf"),
        data=Data(name="files", train=train, **data),
        prompt=Prompt("p", "{question}"),
    )


def test_what_is_known_of_the_data() -> None:
    fetched = training_terms(config_on("data/DVB-train.json", test="data/DVB-test.json"))
    assert [(one.licence, one.allows_texts) for one in fetched] == [(None, False)]
    assert "None is stated" in fetched[0].said
    own = training_terms(config_on("/home/me/pairs.jsonl"))
    assert [(one.title, one.licence, one.allows_texts) for one in own] == [
        ("pairs.jsonl", None, False)
    ]
    stated = training_terms(config_on("/home/me/pairs.jsonl", license="CC-BY-4.0"))
    assert [(one.hub_name, one.allows_texts) for one in stated] == [("cc-by-4.0", True)]
    mine = training_terms(config_on("/home/me/pairs.jsonl", license="own"))
    assert [(one.hub_name, one.allows_texts) for one in mine] == [(None, True)]
    words = training_terms(config_on("/home/me/pairs.jsonl", license="Proprietary, for us only"))
    assert [(one.hub_name, one.allows_texts) for one in words] == [(None, False)]
    sample = config_on("sample:train.json", test="sample:test.json")
    assert [(one.licence, one.allows_texts) for one in shown_terms(sample)] == [("CC-BY-4.0", True)]
    sample.evals.ufp4 = "data/UF-P-4"
    assert [one.allows_texts for one in shown_terms(sample)] == [True, False]


@pytest.mark.parametrize(
    ("train", "test", "parts"),
    [
        ("sample:train.json", "sample:test.json", ["training", "test"]),
        ("sample:train.json", None, ["training", "test"]),
        ("sample:train.json", "mine.jsonl", ["training"]),
        ("mine.jsonl", "sample:test.json", ["test"]),
        ("no_synthetic_rows.jsonl", None, []),
    ],
)
def test_whose_people_are_synthetic(
    run: Path, train: str, test: str | None, parts: list[str]
) -> None:
    config = OmegaConf.load(run / "config.yaml")
    config.data.update({"train": train, "test": test})
    OmegaConf.save(config, run / "config.yaml")
    assert synthetic_parts(read_config(run)) == parts
    text = " ".join(model_card(run).text.split())
    said = f"The people of the {' and '.join(parts)} data are synthetic"
    assert (said in text) == bool(parts)
    # of real people that a model was tested on they say something
    assert ("the numbers say nothing about real people" in text) == ("test" in parts)


def test_metadata_of_data_and_base_on_the_hub() -> None:
    rows = [Row("tuned", "in_domain", "opa/acc@0", "", "", 0.5, None, None, 9, 1)]
    config = config_on("hf:me/pairs:train", test="hf:me/pairs:test")
    data = card_data(config, Results(rows), None, "mine")
    assert (data.base_model, data.datasets) == ("meta-llama/Llama-2-7b-hf", ["me/pairs"])
    assert (data.license, data.language) == ("unknown", None)
    (one,) = data.eval_results
    assert "low" not in one.metric_args
    bare = card_data(config, Results([]), None, "mine")
    assert bare.eval_results is None
