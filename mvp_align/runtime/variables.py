"""Environment variables of libraries that mean the same as our settings.

A setting left at its default obeys its variable. A setting that contradicts its variable is an
error, because nobody can know which one was meant.
"""

import os


def contradiction(setting: str, given: str, variable: str) -> str:
    actual = os.environ.get(variable, "")
    return (
        f"{setting}={given}, and {variable}={actual} says otherwise: leave the one out, or unset"
        " the other."
    )


def value(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def is_true(variable: str) -> bool:
    """Return whether a flag is on, as the libraries read their flags."""
    return value(variable).lower() in ("1", "true", "yes", "on")
