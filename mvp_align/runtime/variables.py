"""Environment variables of libraries that mean the same as settings of ours.

A setting that is left as it is obeys its variable; a setting that is given and a variable that says
otherwise are refused together, because nobody can know which of the two was meant.
"""

import os


def contradiction(setting: str, given: str, variable: str) -> str:
    said = os.environ.get(variable, "")
    return (
        f"{setting}={given}, and {variable}={said} says otherwise: leave the one out, or unset the"
        " other."
    )


def value(variable: str) -> str:
    return os.environ.get(variable, "").strip()


def is_true(variable: str) -> bool:
    """As the libraries read their flags."""
    return value(variable).lower() in ("1", "true", "yes", "on")
