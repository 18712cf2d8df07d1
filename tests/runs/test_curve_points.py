"""`curves.jsonl` is read as it was written, and what is broken is named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_align.errors import UserError
from mvp_align.runs.curve_points import CurvePoint, add_to_curves, read_curves, write_curves

NAMES = st.sampled_from(["train/loss", "eval/in_domain/opa/acc@0.2", "eval/ufp4/höhe", "train/x"])
POINTS = st.lists(
    st.builds(
        CurvePoint,
        st.integers(0, 10**9),
        st.dictionaries(NAMES, st.floats(allow_nan=False, allow_infinity=False)),
    ),
    unique_by=lambda point: point.step,
).map(lambda points: sorted(points, key=lambda point: point.step))


@given(points=POINTS, cut=st.integers(0, 5))
def test_what_is_written_at_once_or_bit_by_bit_is_read_to_the_last_bit(
    points: list[CurvePoint], cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("curves")
    whole, parts = folder / "whole.jsonl", folder / "parts.jsonl"
    write_curves(whole, points)
    write_curves(parts, points[:cut])
    for point in points[cut:]:
        add_to_curves(parts, [point])
    assert read_curves(whole) == points
    assert parts.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_written(tmp_path: Path, value: float) -> None:
    path = tmp_path / "curves.jsonl"
    write_curves(path, [CurvePoint(1, {"train/loss": 0.5})])
    before = path.read_bytes()
    for write in (write_curves, add_to_curves):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write(path, [CurvePoint(2, {"train/loss": value})])
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"step": 2, "train/loss": 0.', "broken JSON"),
        ('{"train/loss": 0.5}', "field 'step' is missing"),
        ('{"step": 1, "train/loss": 0.5}', "field 'step': 1 is no whole number above 1"),
        ('{"step": 2.5}', "field 'step': 2.5 is no whole number above 1"),
        ('{"step": true}', "field 'step': True is no whole number"),
        ('{"step": 2, "train/loss": NaN}', "NaN is no JSON number"),
        ('{"step": 2, "train/loss": null}', "field 'train/loss': None where a number belongs"),
        ('["step"]', "list indices"),
        ('"step"', "string indices"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text(f'{{"step": 1, "train/loss": 0.6}}\n{line}\n')
    with pytest.raises(UserError) as caught:
        read_curves(path)
    assert str(caught.value).startswith(f"{path}, line 2: no point of a curve (")
    assert problem in str(caught.value)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file\. Runs of earlier versions"):
        read_curves(tmp_path / "curves.jsonl")
