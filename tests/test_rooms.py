"""Imports run downwards: a room imports only rooms below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

ROOMS = (
    "errors", "schema", "runtime", "config", "metrics", "figures", "data", "modeling", "scoring",
    "runs", "generation", "judging", "evaluation", "construction", "tracking", "training",
    "planning", "validate", "reporting", "doctor", "harness", "overrides", "job", "launch",
    "recipes", "commands", "cli",
)  # fmt: skip
"""From the ground up."""

LOOSE = {"__init__", "cli", "config", "errors", "job", "launch", "schema", "validate"}


def room_of(module: str) -> str:
    return module.removeprefix("mvp_align.").split(".")[0]


def imports() -> Iterator[tuple[Path, str]]:
    """Yield each file with each of our modules that it imports, also inside functions."""
    for folder in ("mvp_align", "recipes"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module:
                    names = [node.module]
                    if node.module == "mvp_align":
                        names = [f"mvp_align.{alias.name}" for alias in node.names]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    continue
                for name in names:
                    if path == ROOT / "mvp_align" / "__init__.py":
                        continue  # the public API, which names every room and imports lazily
                    if name.split(".")[0] in ("mvp_align", "recipes") and "__" not in name:
                        yield path.relative_to(ROOT), name


def test_imports_run_downwards() -> None:
    upwards = []
    for path, imported in imports():
        own = room_of(".".join(path.with_suffix("").parts))
        if ROOMS.index(room_of(imported)) > ROOMS.index(own):
            upwards.append(f"{path} imports {imported}")
    assert not upwards


def test_a_file_stands_in_a_room() -> None:
    assert {path.stem for path in (ROOT / "mvp_align").glob("*.py")} == LOOSE
    assert {*ROOMS} == LOOSE - {"__init__"} | {"recipes"} | {
        path.parent.name for path in (ROOT / "mvp_align").glob("*/__init__.py")
    }


def test_a_public_name_has_one_meaning() -> None:
    """A command is named as the function that does its work, so `cli` and `commands` are left
    out."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "mvp_align").rglob("*.py")):
        if path.stem == "cli" or path.parent.stem == "commands":
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                where = str(path.relative_to(ROOT))
                assert node.name == "main" or found.setdefault(node.name, where) == where, (
                    f"{node.name} stands in {found[node.name]} and in {where}"
                )
