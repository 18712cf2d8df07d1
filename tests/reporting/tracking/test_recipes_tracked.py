"""A recipe from start to end: the training curve, the results, samples and the adapter reach W&B."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from wandb_server import WandbServer

from mvp_align.config import Config
from mvp_align.reporting.tracking.sync import offline_runs, sync_run

Compose = Callable[..., Config]


def test_what_a_recipe_tells_its_tracker(compose: Compose, tiny: list[str], wandb_server: WandbServer) -> None:
    small = ["data.limit=10", "evals.sets=[in_domain]", "train.max_steps=2"]
    config = compose(*tiny, *small, "tracking=wandb", "tracking.mode=offline", "tracking.samples=3")
    import_module(f"recipes.{config.recipe}").main(config)
    folder = Path(config.run.dir)
    ((_, parts),) = offline_runs([folder]).items()
    assert sync_run(folder, parts).problem == ""
    (told,) = wandb_server.runs.values()
    losses = [row["train/loss"] for row in told.history() if "train/loss" in row]
    assert len(losses) == 2
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (acc,) = [
        m["value"]
        for m in metrics
        if (m["stage"], m["set"], m["metric"], m["group_by"]) == ("tuned", "in_domain", "opa/acc@0", "")
    ]
    assert told.summary()["tuned/in_domain/opa/acc@0"] == acc
    sent = {name.rpartition("/")[2]: content for name, content in wandb_server.uploads.items()}
    assert sent["adapter_model.safetensors"] == (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    assert sent["tuned-in_domain.jsonl"] == (folder / "scores" / "tuned-in_domain.jsonl").read_bytes()
    assert sent["report.html"] == (folder / "report.html").read_bytes()
    samples = json.loads(sent["samples.table.json"])["data"]
    assert [row[0] for row in samples] == ["in_domain"] * 3
    assert (folder / "DONE").is_file()
