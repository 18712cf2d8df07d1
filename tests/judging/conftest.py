"""A run folder with answers to judge, and judges as YAML files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.judging.judges import Judge

WriteRun = Callable[..., Path]
WriteJudge = Callable[..., Path]


@pytest.fixture
def write_run(compose: Callable[..., Config], tmp_path: Path) -> WriteRun:
    """`write_run(20)`: a run folder with the tuned model's answers to 20 questions of 5 people."""

    def written(count: int, name: str = "run", stages: tuple[str, ...] = ("tuned",)) -> Path:
        rows = [
            {
                "prompt": f"Question {number}: is it so?",
                "chosen": f"It is so, {number}.",
                "rejected": f"Never, {number}.",
                "user_id": f"u{number % 5}",
                "profile": "High factuality, Low creativity.",
            }
            for number in range(count)
        ]
        data = tmp_path / f"pairs-{count}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config = compose(
            "data=files",
            f"data.test={data}",
            "data.format=pairs",
            "evals.sets=[in_domain]",
            name="evaluate",
        )
        run = tmp_path / name
        (run / "answers").mkdir(parents=True)
        (run / "config.yaml").write_text(
            OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True)
        )
        from mvp_align.data.load import load_data

        for stage in stages:
            lines = [
                {
                    "id": pair.id,
                    "user_id": pair.user_id,
                    "answer": f"{stage} says so.",
                    "tokens": 4,
                    "finished": True,
                }
                for pair in load_data(config).test
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (run / "answers" / f"{stage}-in_domain.jsonl").write_text(text, encoding="utf-8")
            (run / "answers" / f"{stage}-in_domain.json").write_text('{"model": "models/tiny"}')
        return run

    return written


@pytest.fixture
def write_judge(tmp_path: Path) -> WriteJudge:
    """`write_judge(base_url, name="a", concurrency=4)`: write a judge's YAML file."""

    def written(base_url: str, name: str = "tester", **settings: object) -> Path:
        endpoint: dict[str, object] = {
            "base_url": base_url,
            "model": f"model-{name}",
            "concurrency": 12,
            "requests_per_minute": 1e6,
            "backoff_seconds": 0.01,
            "read_seconds": 4.0,
            "total_seconds": 6.0,
        }
        judge: dict[str, object] = {"name": name, "endpoint": endpoint}
        for key, value in settings.items():
            (judge if key in Judge.__dataclass_fields__ else endpoint)[key] = value
        path = tmp_path / f"{name}.yaml"
        path.write_text(OmegaConf.to_yaml(judge))
        return path

    return written
