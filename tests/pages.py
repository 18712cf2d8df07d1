"""Extract fenced blocks, inline code, and their commands from pages."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from omegaconf import OmegaConf

from mvp_align.config import Config
from mvp_align.runtime.naming import leaf_keys

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "mvp_align").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE_NAME = re.compile(r"\.(def|html|jsonl?|md|py|safetensors|sbatch|sh|sqlite|toml|txt|yaml)$")
VALUES = {"SCRATCH": "/scratch", "PWD": "/clone"}
"""What a shell would put in place of variables that the pages use."""


@dataclass(frozen=True)
class Found:
    """A fenced block, or a command in one or in inline code."""

    page: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}: {self.text[:60]!r}"


def blocks() -> Iterator[Found]:
    for page in PAGES:
        for language, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            yield Found(str(page.relative_to(ROOT)), language, text)


def patched(root: Path, diff: str) -> tuple[str, str]:
    """Return a diff's file name, and its text under `root` with the diff applied.

    Hunks have no line numbers, so their old lines must occur exactly once in the file.
    """
    head, _, body = diff.partition("\n")
    name = head.removeprefix("--- ")
    text = (root / name).read_text(encoding="utf-8")
    for hunk in body.split("@@\n"):
        lines = hunk.splitlines(keepends=True)
        old, new = (
            "".join(line[1:] for line in lines if not line.startswith(other)) for other in "+-"
        )
        assert text.count(old) == 1, f"{name}: {old!r} does not stand there once"
        text = text.replace(old, new)
    return name, text


def prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def inline(page: Path) -> list[str]:
    """Return inline code, which may contain a line break."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose(page))]


def commands() -> list[Found]:
    """Return commands in shell blocks, with continued lines joined, and in inline code."""
    found = []
    for block in blocks():
        if block.language == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#"):
                    found.append(Found(block.page, "block", line))
    for page in PAGES:
        if page.name != "CHANGELOG.md":  # which tells of what was
            found += [
                Found(str(page.relative_to(ROOT)), "inline", code)
                for code in inline(page)
                if re.match(
                    r"(make|python|accelerate launch|mvp-align|sbatch|docker compose) ", code
                )
            ]
    return list({(one.language, one.text): one for one in found}.values())


def unquoted(command: str) -> str:
    return re.sub(r"'[^']*'|\"[^\"]*\"", "", command)


def words_of(command: str) -> list[str]:
    """Split a command as the shell would, without variables, comments and `...`."""
    for name, value in VALUES.items():
        command = command.replace(f"${name}", value)
    command = command.replace("$(python -m mvp_align.harness.lm_eval)", "FOLDER")
    words = shlex.split(command, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return [word for word in words if word != "..."]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub generates from headings."""
    headings = re.findall(r"^#+ (.*)", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@cache
def settings() -> tuple[set[str], set[str]]:
    """Return dotted keys, and groups with an option, such as `hardware=fsdp`."""
    keys = {*leaf_keys(OmegaConf.structured(Config))}
    options = {f"{path.parent.relative_to(CONF)}={path.stem}" for path in CONF.rglob("*/*.yaml")}
    options |= {f"recipe={path.stem}" for path in (ROOT / "recipes").glob("[a-z]*.py")}
    return keys, options


@cache
def source_text() -> str:
    files = [
        path
        for folder in ("mvp_align", "slurm", "conf")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".sh", ".yaml")
    ]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def is_setting(key: str) -> bool:
    """Return whether it is a dotted key of the config, or a part of one, as `lora` or `run.`."""
    return any(f"{one}.".startswith(f"{key.rstrip('.')}.") for one in settings()[0])


def is_ours(dotted: str) -> bool:
    """Return whether it is a module, as `data.splits`, or a name, as `data.readers.read_pairs`."""
    room, _, name = f"mvp_align.{dotted}".rpartition(".")
    return find_spec(room) is not None and (
        hasattr(import_module(room), name) or find_spec(f"{room}.{name}") is not None
    )
