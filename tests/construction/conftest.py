"""Populations in PRISM's shape, and writers as YAML files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mvp_align.construction.population import Population


@pytest.fixture
def write_population(tmp_path: Path) -> Callable[..., Population]:
    """`write_population(people, conversations, person={...})`: the tables as .jsonl files.

    `tmp_path / "own.yaml"` says the same for the command line.
    """

    def written(
        people: Sequence[Mapping[str, Any]], conversations: Sequence[Mapping[str, Any]], **more: Any
    ) -> Population:
        settings = dict(more)
        for name, rows in (("survey", people), ("conversations", conversations)):
            path = tmp_path / f"{name}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            settings[name] = str(path)
        (tmp_path / "own.yaml").write_text(OmegaConf.to_yaml(settings))
        return Population(**settings)

    return written


@pytest.fixture
def write_writer(tmp_path: Path) -> Callable[..., Path]:
    """`write_writer(url, concurrency=2, usd_per_million_output=10)`: a writer's YAML file."""

    def written(url: str, **settings: Any) -> Path:
        endpoint: dict[str, Any] = {
            "base_url": url,
            "model": "writer",
            "requests_per_minute": 1e6,
            "backoff_seconds": 0.01,
            "attempts": 2,
        }
        writer: dict[str, Any] = {"endpoint": endpoint}
        for key, value in settings.items():
            (endpoint if key in ("concurrency", "model", "attempts") else writer)[key] = value
        path = tmp_path / "tester.yaml"
        path.write_text(OmegaConf.to_yaml(writer))
        return path

    return written
