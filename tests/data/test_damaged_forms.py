"""Damaged copies of every public form: read or refused in words, and every row counted."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from public_forms import FORMS, SUBJECTS, Ask, PublicForm

from mvp_align.data.formats import AUTO_FORMAT, FORMATS
from mvp_align.data.readers import read_pairs
from mvp_align.errors import UserError

FUZZ = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ALL = pytest.mark.parametrize("form", FORMS, ids=[form.name for form in FORMS])
TEXTS = st.text(max_size=8) | st.sampled_from(["\n\nHuman: a\n\nAssistant: b", "model_a", " "])
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "tool"]) | st.none(),
         "content": TEXTS | st.none() | st.lists(st.dictionaries(TEXTS, TEXTS), max_size=2)}
    ),
    max_size=3,
)  # fmt: skip
JUNK = (
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | MESSAGES
    | st.lists(TEXTS | st.integers(), max_size=3) | st.dictionaries(TEXTS, TEXTS, max_size=2)
)  # fmt: skip
KEYS = sorted(
    {name for known in FORMATS.values() for name in known.record.model_fields}
    | {"messages", "output", "completion", "label"}
)


def read_or_refused(source: str, format: str = AUTO_FORMAT) -> None:
    """Anything but a UserError fails the test."""
    try:
        read = read_pairs(source, format)
    except UserError as error:
        assert str(error).strip()
    else:
        assert len(read.pairs) + sum(read.left_out.values()) == read.records
        assert len({pair.id for pair in read.pairs}) == len(read.pairs)


def damage(data: bytes, draw: st.DataObject) -> bytes:
    """Cut bytes out, and put others in their place."""
    start = draw.draw(st.integers(0, len(data)))
    end = draw.draw(st.integers(start, min(len(data), start + 200)) | st.just(len(data)))
    return data[:start] + draw.draw(st.binary(max_size=8)) + data[end:]


@ALL
def test_a_file_with_damaged_bytes(form: PublicForm, tmp_path: Path) -> None:
    source, _ = form.write_rows(tmp_path, list(map(Ask, SUBJECTS)))
    whole = Path(source)
    files = sorted(whole.iterdir()) if whole.is_dir() else [whole]
    bytes_of = {file: file.read_bytes() for file in files}

    @FUZZ
    @given(st.data())
    def damaged(draw: st.DataObject) -> None:
        file = draw.draw(st.sampled_from(files))
        copy = tmp_path / "copy" / whole.name
        shutil.rmtree(copy.parent, ignore_errors=True)
        copy.parent.mkdir()
        if whole.is_dir():
            shutil.copytree(whole, copy)
        target = copy / file.name if whole.is_dir() else copy
        target.write_bytes(damage(bytes_of[file], draw))
        read_or_refused(str(copy))

    damaged()


@ALL
def test_records_with_something_else_in_a_field(form: PublicForm, tmp_path: Path) -> None:
    records = [form.row(Ask(subject)) for subject in SUBJECTS[:4]]
    path = tmp_path / "own.json"

    @FUZZ
    @given(st.data())
    def changed(draw: st.DataObject) -> None:
        rows: list[dict[str, Any]] = json.loads(json.dumps(records))
        for row in draw.draw(st.lists(st.sampled_from(rows), min_size=1, max_size=3)):
            key = draw.draw(
                st.sampled_from([*row, "profile", "groups", "choices", "id", "user_id"])
            )
            if draw.draw(st.booleans()):
                row[key] = draw.draw(JUNK)
            else:
                row.pop(key, None)
        path.write_text(json.dumps(rows))
        read_or_refused(str(path), draw.draw(st.sampled_from([AUTO_FORMAT, "pairs", form.format])))

    changed()


@settings(FUZZ, max_examples=300)
@given(rows=st.lists(st.dictionaries(st.sampled_from(KEYS), JUNK, max_size=6) | JUNK, max_size=4))
def test_records_of_anything_at_all(
    rows: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.json"
    path.write_text(json.dumps(rows))
    for format in (AUTO_FORMAT, *FORMATS):
        read_or_refused(str(path), format)
