"""What a check says: one line, with what to do where something is amiss, and never a secret."""

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
    """`level` is `warn` where some runs would suffer and `fail` where none would work as it says.
    `remedy` is what to do."""

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


def attempt(name: str, check: Callable[[], Finding]) -> Finding:
    """The check's line under its name, free of secrets; where the check itself breaks, a failed
    line with the error."""
    try:
        found = check()
    except Exception as error:  # whatever it is, the other checks still have something to say
        lines = str(error).strip().splitlines()
        words = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        found = fail(words, "The check itself broke: look into this error first.")
    return replace(
        found, check=name, found=without_secrets(found.found), remedy=without_secrets(found.remedy)
    )


def without_secrets(text: str) -> str:
    """`text` without the values of variables that are named like secrets, tokens, and passwords in
    addresses."""
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) > 3:
            text = text.replace(value, "REDACTED")
    return re.sub(r"//[^/@\s]+@", "//REDACTED@", SECRET_VALUE.sub("REDACTED", text))
