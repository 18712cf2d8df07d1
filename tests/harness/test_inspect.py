"""The Inspect task end to end on a local model: margins, errors by user, refused providers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvp_align.metrics.intervals import clustered_error
from mvp_align.schema import PairScore

inspect_ai = pytest.importorskip("inspect_ai")


def test_margins_are_ours(
    ours: Callable[..., dict[str, PairScore]], pairs_file: Path, sharp_model: Path, tmp_path: Path
) -> None:
    from inspect_ai import eval as evaluate

    from mvp_align.harness.inspect_task import mvp_opa

    (log,) = evaluate(
        mvp_opa(data=str(pairs_file), format="pairs"),
        model="hf/local",
        model_args={"model_path": str(sharp_model), "device": "cpu"},
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "success", log.error
    known = ours(pairs_file, "pairs")
    found = {
        sample.id: sample.scores["opa"]
        for sample in log.samples
        if sample.scores and "opa" in sample.scores
    }
    unscored = [name for name, score in found.items() if not isinstance(score.value, dict)]
    assert found.keys() - set(unscored) == known.keys()
    for name, score in known.items():
        assert found[name].value["margin"] == pytest.approx(score.margin, abs=1e-4)
    metrics = {score.name: score.metrics for score in log.results.scores}
    right = [float(score.margin > 0) for score in known.values()]
    assert metrics["acc@0"]["mean"].value == pytest.approx(np.mean(right))
    error, users = clustered_error(np.array(right), [score.user_id for score in known.values()])
    assert (metrics["acc@0"]["stderr"].value, users) == (pytest.approx(error), 8)
    assert {score.name: score.scored_samples for score in log.results.scores}["acc@0"] == 16


def test_a_model_without_weights_here_is_refused(pairs_file: Path, tmp_path: Path) -> None:
    from inspect_ai import eval as evaluate

    from mvp_align.harness.inspect_task import mvp_opa

    (log,) = evaluate(
        mvp_opa(data=str(pairs_file), format="pairs"),
        model="mockllm/model",
        log_dir=str(tmp_path),
        display="none",
    )
    assert log.status == "error"
    assert "use Inspect's hf provider" in log.error.message
