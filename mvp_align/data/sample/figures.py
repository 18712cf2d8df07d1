"""Compute the Markdown tables of the sample's data card."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvp_align.data.ceiling import value_blind_ceiling
from mvp_align.data.lengths import LENGTHS, longer_share
from mvp_align.data.markdown import markdown_table
from mvp_align.schema import DIMENSIONS, PreferencePair, level


def _of(rows: Sequence[Mapping[str, Any]], dimension: str) -> list[Mapping[str, Any]]:
    return [row for row in rows if dimension in (row["dimension"], "all")]


def _ceiling(rows: Sequence[Mapping[str, Any]]) -> float:
    return value_blind_ceiling(
        [
            PreferencePair(
                row["id"], row["user_id"], row["question"], row["answer_w"], row["answer_l"]
            )
            for row in rows
        ]
    )


def _totals(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows = []
    for split, instances in records.items():
        people, questions = ({row[key] for row in instances} for key in ("user_id", "question"))
        rows.append([split, str(len(instances)), str(len(people)), str(len(questions))])
    rows.append(["all", *[str(sum(int(row[i]) for row in rows)) for i in (1, 2, 3)]])
    return markdown_table(["split", "instances", "users", "questions"], rows)


def _levels(
    records: Mapping[str, Sequence[Mapping[str, Any]]], users: Sequence[Mapping[str, Any]]
) -> str:
    """Show the shares of High and Low users, and the resulting instances of each split."""
    table = []
    for dimension in DIMENSIONS:
        stated = Counter(level(user["stated_prefs"][dimension]) for user in users)
        cells = [f"{stated['High'] / len(users):.3f}", f"{stated['Low'] / len(users):.3f}"]
        for rows in records.values():
            asked = Counter(level(row["stated_prefs"][dimension]) for row in _of(rows, dimension))
            cells.append(f"{asked['High']} / {asked['Low']}")
        table.append([dimension, *cells])
    return markdown_table(
        ["dimension", "P(High)", "P(Low)", *[f"{split} High / Low" for split in records]], table
    )


def _hints(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Show what a model can reach from the question alone, and from the answers' lengths alone."""
    table = []
    for dimension in (*DIMENSIONS, "all"):
        cells = [f"{_ceiling(_of(rows, dimension)):.3f}" for rows in records.values()]
        answers = [
            (row["answer_w"], row["answer_l"])
            for rows in records.values()
            for row in _of(rows, dimension)
        ]
        cells += [f"{longer_share(answers, length):.3f}" for length in LENGTHS.values()]
        table.append([dimension, *cells])
    head = [*[f"ceiling, {split}" for split in records], *[f"longer, {name}" for name in LENGTHS]]
    return markdown_table(["dimension", *head], table)


def _ufp4(folder: Path) -> str:
    table: list[tuple[str, list[tuple[str, str]]]] = []
    for path in sorted(folder.glob("*.json")):
        answers = [
            (row["chosen"], row["rejected"]) for row in json.loads(path.read_text(encoding="utf-8"))
        ]
        table.append((path.stem, answers))
    table.append(("all", [pair for _, answers in table for pair in answers]))
    rows = [
        [
            name,
            str(len(answers)),
            *[f"{longer_share(answers, length):.3f}" for length in LENGTHS.values()],
        ]
        for name, answers in table
    ]
    return markdown_table(["user type", "pairs", *[f"longer, {name}" for name in LENGTHS]], rows)


def figure_tables(
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    several: Mapping[str, Sequence[Mapping[str, Any]]],
    users: Sequence[Mapping[str, Any]],
    ufp4: Path,
) -> dict[str, str]:
    """Return the tables of the data card by title. `several` is the second draw."""
    return {
        "Size": _totals(records),
        "Levels": _levels(records, users),
        "What gives the preferred answer away": _hints(records),
        "Size, second draw": _totals(several),
        "Levels, second draw": _levels(several, users),
        "What gives the preferred answer away, second draw": _hints(several),
        "UF-P-4 sample": _ufp4(ufp4),
    }
