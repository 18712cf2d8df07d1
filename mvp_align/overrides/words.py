"""Rewrite words of a command line: names to lists, and quotes around Hydra's special characters."""

import shlex
from pathlib import Path

from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf

from mvp_align import config as typed
from mvp_align.runtime.naming import leaf_keys


def with_lists(words: list[str]) -> list[str]:
    """Write values of list settings as lists: `lora.target_modules=all-linear` with `[all-linear]`.

    `evals.sets=in_domain,ufp4` is one list of two names, but in a sweep (`-m`) two lists of one.
    """
    sweep = get_args_parser().parse_known_args(words[1:])[0].multirun
    return [_as_list(word, sweep) for word in words]


def _as_list(word: str, sweep: bool) -> str:
    key, _, value = word.partition("=")
    if key not in leaf_keys(OmegaConf.structured(typed.Config)) or not str(type_of(key)).startswith(
        "list"
    ):
        return word
    if value[:1] == value[-1:] and value[:1] in ("'", '"'):
        return f"{key}=[{value[1:-1]}]"
    # a list, a glob, or an interpolation
    if value in ("", "null") or any(sign in value for sign in "[]($"):
        return word
    return f"{key}={','.join(f'[{one}]' for one in (value.split(',') if sweep else [value]))}"


def quote_override(key: str, value: str) -> str:
    """Return an override that Hydra takes literally, whatever characters it contains."""
    plain = value.strip("\"'")
    if plain.startswith("~/"):  # the shell does not expand ~ inside quotes
        plain = f"{Path.home()}{plain[1:]}"
    escaped = plain.replace("\\", "\\\\").replace('"', '\\"')
    return f'{key}="{escaped}"'


def sweep_hint(word: str) -> str:
    key, _, value = word.partition("=")
    return (
        f"{word}: values with commas between them are a sweep, one run each: add -m. As one text: "
        f"{shlex.quote(quote_override(key, value))}"
    )


def type_of(key: str) -> str:
    owner: type = typed.Config
    *parents, name = key.split(".")
    for parent in parents:
        owner = owner.__annotations__[parent]
    declared = owner.__annotations__[name]
    return declared.__name__ if isinstance(declared, type) else str(declared)
