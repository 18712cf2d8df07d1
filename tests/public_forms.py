"""Twenty public forms of preference files, made here in each one's shape, and the same rows as TRL
reads them."""

import csv
import gzip
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset

Row = dict[str, Any]

SUBJECTS = (
    "tea", "chess", "rain", "opera", "bread", "trains", "snow", "poems", "maps", "cats", "jazz",
    "soup",
)  # fmt: skip
SYSTEM = "Answer in one sentence."


@dataclass(frozen=True)
class Ask:
    """One question of the made-up file, with the two turns before it."""

    subject: str

    @property
    def question(self) -> str:
        return f"What do you make of {self.subject} these days?"

    @property
    def chosen(self) -> str:
        return f"I love {self.subject}, truly and always."

    @property
    def rejected(self) -> str:
        return f"No {self.subject} for me, thank you."

    @property
    def earlier(self) -> list[Row]:
        return [user(f"Do you know {self.subject}?"), reply("Of course.")]


def user(text: str) -> Row:
    return {"role": "user", "content": text}


def reply(text: str) -> Row:
    return {"role": "assistant", "content": text}


def system(text: str = SYSTEM) -> Row:
    return {"role": "system", "content": text}


def texts(ask: Ask) -> Row:
    return {"prompt": ask.question, "chosen": ask.chosen, "rejected": ask.rejected}


def messages(ask: Ask, *before: Row) -> Row:
    """TRL's conversational row with an explicit prompt."""
    return {
        "prompt": [*before, user(ask.question)],
        "chosen": [reply(ask.chosen)],
        "rejected": [reply(ask.rejected)],
    }


def whole(ask: Ask, *before: Row) -> Row:
    """TRL's conversational row with an implicit prompt."""
    row = messages(ask, *before)
    return {key: row["prompt"] + row[key] for key in ("chosen", "rejected")}


def hh(ask: Ask, *, turns: bool) -> Row:
    before = f"\n\nHuman: Do you know {ask.subject}?\n\nAssistant: Of course." if turns else ""
    asked = f"{before}\n\nHuman: {ask.question}\n\nAssistant:"
    return {"chosen": f"{asked} {ask.chosen}", "rejected": f"{asked} {ask.rejected}"}


def from_value(turns: Sequence[Row]) -> list[Row]:
    names = {"user": "human", "assistant": "gpt", "system": "system"}
    return [{"from": names[turn["role"]], "value": turn["content"]} for turn in turns]


def json_list(path: Path, rows: list[Row]) -> str:
    path = path.with_suffix(".json")
    path.write_text(json.dumps(rows, indent=1))
    return str(path)


def json_lines(path: Path, rows: list[Row]) -> str:
    """As datasets writes it: every row has every key, null where it has nothing."""
    Dataset.from_list(rows).to_json(path.with_suffix(".jsonl"))
    return str(path.with_suffix(".jsonl"))


def gzipped(path: Path, rows: list[Row]) -> str:
    plain = Path(json_lines(path, rows))
    packed = plain.with_suffix(".jsonl.gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    return str(packed)


def parquet(path: Path, rows: list[Row]) -> str:
    Dataset.from_list(rows).to_parquet(path.with_suffix(".parquet"))
    return str(path.with_suffix(".parquet"))


def shards(path: Path, rows: list[Row]) -> str:
    path.mkdir()
    for number, part in enumerate((rows[::2], rows[1::2])):
        Dataset.from_list(part).to_parquet(path / f"train-0000{number}-of-00002.parquet")
    return str(path)


def saved(path: Path, rows: list[Row]) -> str:
    Dataset.from_list(rows).save_to_disk(path)
    return str(path)


def table(path: Path, rows: list[Row], delimiter: str = ",") -> str:
    path = path.with_suffix(".csv" if delimiter == "," else ".tsv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def tabs(path: Path, rows: list[Row]) -> str:
    return table(path, rows, "\t")


@dataclass(frozen=True)
class PublicForm:
    """`row` makes the file's record of a question, `as_trl` the row that TRL would be given."""

    name: str
    format: str
    write: Callable[[Path, list[Row]], str]
    row: Callable[[Ask], Row]
    as_trl: Callable[[Ask], Row]
    said: str = ""
    columns: dict[str, str] = field(default_factory=dict)

    def write_rows(self, folder: Path, asked: Sequence[Ask]) -> tuple[str, list[Ask]]:
        """Return the source, and the questions in the order in which it is read."""
        source = self.write(folder / self.name, [self.row(ask) for ask in asked])
        return source, [*asked[::2], *asked[1::2]] if self.write is shards else list(asked)


FORMS = (
    PublicForm("trl_standard", "standard", parquet,
        lambda a: {**texts(a), "prompt": f"Q: {a.question}\nA:\n"},
        lambda a: {**texts(a), "prompt": f"Q: {a.question}\nA:\n"}, "texts, as TRL"),
    PublicForm("trl_implicit", "implicit", json_lines,
        lambda a: {key: f"{a.question} {texts(a)[key]}" for key in ("chosen", "rejected")},
        lambda a: {key: f"{a.question} {texts(a)[key]}" for key in ("chosen", "rejected")},
        "without a prompt"),
    PublicForm("trl_conversational", "conversational", parquet, messages, messages,
        "conversational, as TRL writes it"),
    PublicForm("trl_conversational_implicit", "conversational", json_lines, whole, whole),
    PublicForm("trl_several_turns", "conversational", saved,
        lambda a: messages(a, system(), *a.earlier), lambda a: messages(a, system(), *a.earlier),
        "2 turns, 8 of 8 with a system prompt"),
    PublicForm("ultrafeedback_binarized", "conversational", shards,
        lambda a: {
            "prompt": a.question, "prompt_id": a.subject, **whole(a),
            "messages": whole(a)["chosen"], "score_chosen": 8.0, "score_rejected": 4.5,
        }, messages),
    PublicForm("hh_rlhf", "hh_rlhf", gzipped,
        lambda a: hh(a, turns=False), lambda a: hh(a, turns=False), "HH-RLHF"),
    PublicForm("hh_rlhf_several_turns", "hh_rlhf", json_lines,
        lambda a: hh(a, turns=True), lambda a: hh(a, turns=True), "2 turns"),
    PublicForm("alpaca", "alpaca", json_list,
        lambda a: {
            "instruction": "Say it briefly.", "input": a.question, "chosen": a.chosen,
            "rejected": a.rejected, "system": "",
        },
        lambda a: {**messages(a), "prompt": [user(f"Say it briefly.\n{a.question}")]},
        "LLaMA-Factory (alpaca)"),
    PublicForm("alpaca_history", "alpaca", json_lines,
        lambda a: {
            "instruction": a.question, "input": "", "chosen": a.chosen, "rejected": a.rejected,
            "system": SYSTEM, "history": [[f"Do you know {a.subject}?", "Of course."]],
        },
        lambda a: messages(a, system(), *a.earlier)),
    PublicForm("alpaca_ranking", "alpaca", json_list,
        lambda a: {"instruction": a.question, "input": "", "output": [a.chosen, a.rejected]},
        messages),
    PublicForm("sharegpt", "sharegpt", json_list,
        lambda a: {
            "conversations": from_value([*a.earlier, user(a.question)]), "system": SYSTEM,
            "chosen": from_value([reply(a.chosen)])[0],
            "rejected": from_value([reply(a.rejected)])[0],
        },
        lambda a: messages(a, system(), *a.earlier), "sharegpt"),
    PublicForm("axolotl", "sharegpt", json_lines,
        lambda a: {
            "messages": [system(), user(a.question)], "chosen": reply(a.chosen),
            "rejected": reply(a.rejected),
        },
        lambda a: messages(a, system()), "axolotl"),
    PublicForm("orca", "orca", parquet,
        lambda a: {
            "system": SYSTEM, "question": a.question, "chosen": a.chosen, "rejected": a.rejected,
        },
        lambda a: messages(a, system()), "Orca"),
    PublicForm("swift", "swift", json_lines,
        lambda a: {
            "messages": [*a.earlier, user(a.question), reply(a.chosen)],
            "rejected_response": a.rejected,
        },
        lambda a: messages(a, *a.earlier), "ms-swift"),
    PublicForm("pku_saferlhf", "pku_saferlhf", gzipped,
        lambda a: {
            "prompt": a.question, "response_0": a.rejected, "response_1": a.chosen,
            "better_response_id": 1, "is_response_0_safe": True,
        }, texts, "PKU-SafeRLHF"),
    PublicForm("helpsteer", "helpsteer", json_lines,
        lambda a: {
            "split": "train", "prompt": a.question, "response_1": a.chosen,
            "response_2": a.rejected, "preference_strength": -2,
        }, texts, "HelpSteer2"),
    PublicForm("shp", "shp", parquet,
        lambda a: {
            "history": a.question, "human_ref_A": a.rejected, "human_ref_B": a.chosen, "labels": 0,
        }, texts, "SHP"),
    PublicForm("arena", "arena", parquet,
        lambda a: {
            "conversation_a": whole(a)["rejected"], "conversation_b": whole(a)["chosen"],
            "winner": "model_b", "model_a": "one", "model_b": "other",
        }, messages, "Chatbot Arena"),
    PublicForm("renamed", "standard", table,
        lambda a: {"query": a.question, "best": a.chosen, "worst": a.rejected}, texts,
        columns={"prompt": "query", "chosen": "best", "rejected": "worst"}),
    PublicForm("tabs", "standard", tabs, texts, texts),
)  # fmt: skip
