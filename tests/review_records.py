"""Records in the benchmark's schema, and reviewed folders, for tests of verify and review."""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from mvp_align.schema import DIMENSIONS

FITS = "Begin with ten minutes of walking, then jog for one minute and walk for two, by turns."
CONTRADICTS = "Run as fast as you can for as long as you can, each single day, whatever it costs."


def pair_record(name: str, **changes: Any) -> dict[str, Any]:
    """A synthetic record, whose person wants much of everything but creativity."""
    record: dict[str, Any] = {
        "id": name,
        "question": f"How do I start running by plan {_own(name, 'question')}?",
        "answer_w": f"{FITS} That is {_own(name, 'w')}.",
        "answer_l": f"{CONTRADICTS} That is {_own(name, 'l')}.",
        "user_id": f"u-{name}",
        "stated_prefs": dict.fromkeys(DIMENSIONS, 90) | {"creativity": 20},
        "age": "25-34 years old",
        "gender": "Female",
        "employment_status": "Student",
        "education": "Vocational",
        "marital_status": "Never been married",
        "birth_country/region": "Chile",
        "self_description": "I sing in a choir of eleven nurses on Mondays.",
    }
    return record | changes


def _own(name: str, text: str) -> str:
    """Return enough letters of a record's own that it is not near another one."""
    return f"{sha256(f'{name} {text}'.encode()).hexdigest()[:40]} {name}"


def write_records_to(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]
