"""Findings of checks: one line each, with a remedy if something is wrong, and never a secret."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from mvp_align.runs.environment import SECRET_NAME, SECRET_VALUE

GB = 1e9

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of `mvp-align doctor`.

    `level` is `warn` if some runs would suffer, and `fail` if none would work as configured.
    """

    check: str
    level: Level
    found: str
    remedy: str = ""


def ok(found: str) -> Finding:
    return Finding("", "ok", found)


def warn(found: str, remedy: str) -> Finding:
    return Finding("", "warn", found, remedy)


def fail(found: str, remedy: str) -> Finding:
    return Finding("", "fail", found, remedy)


def run_check(name: str, check: Callable[[], Finding]) -> Finding:
    """Run a check, and return its finding with its name and without secrets.

    If the check itself breaks, the finding is a failure with the error.
    """
    try:
        found = check()
    except Exception as error:  # whatever breaks, the other checks are still useful
        lines = str(error).strip().splitlines()
        words = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        found = fail(words, "The check itself broke: look into this error first.")
    return replace(
        found, check=name, found=without_secrets(found.found), remedy=without_secrets(found.remedy)
    )


def without_secrets(text: str) -> str:
    """Redact tokens, passwords in URLs, and values of variables that are named like secrets."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) > 3:
            text = text.replace(value, "REDACTED")
    return re.sub(r"//[^/@\s]+@", "//REDACTED@", SECRET_VALUE.sub("REDACTED", text))
