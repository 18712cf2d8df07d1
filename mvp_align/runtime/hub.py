"""Whether the Hugging Face hub is there: asked once and briefly, so that without it a run goes on,
or fails, at once.

By themselves its libraries try each file six times, half a minute long, and say so each time.
"""

import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

SECONDS = 3.0
"""How long the hub may take to answer; a name that is not found takes up to twice that."""
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Either keeps all libraries off the hub, the first one where both are set. `HF_DATASETS_OFFLINE`
does so for datasets."""


def ask_first() -> None:
    """Before anything is looked for on the hub: where it does not answer, libraries are told that
    they are offline."""
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return
    problem = unreached()
    if not problem:
        return
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for what is imported only now
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    if os.environ.get("RANK", "0") == "0":
        print(
            f"{host(constants.ENDPOINT)} was not reached ({problem}): only what is in the cache is"
            " used. HF_HUB_OFFLINE=1 says so from the start.",
            file=sys.stderr,
        )


@cache
def unreached() -> str:
    """Why the hub does not answer, in a word; empty where it does. A redirect, a refusal and the
    like are answers."""
    from huggingface_hub import constants, get_session

    def ask() -> int:
        return int(get_session().request("HEAD", constants.ENDPOINT, timeout=SECONDS).status_code)

    try:
        status = within(2 * SECONDS, ask)
    # of the HTTP library or the system; its text may hold more than one line
    except Exception as error:
        return type(error).__name__
    return f"HTTP {status}" if status >= 500 else ""


def why_offline() -> str:
    """`HF_HUB_OFFLINE is set`, or that the hub was not reached; empty where libraries ask it."""
    from huggingface_hub import constants

    if not constants.is_offline_mode():
        return ""
    if unreached.cache_info().currsize:
        return f"{host(constants.ENDPOINT)} was not reached"
    return f"{next((name for name in VARIABLES if os.environ.get(name)), VARIABLES[0])} is set"


def absent(name: str, *, dataset: bool = False) -> str:
    """What to do about a model or dataset that an offline machine does not have, as an unfinished
    sentence."""
    from huggingface_hub import constants

    kind = "--repo-type dataset " if dataset else ""
    return (
        f"it is not in the cache ({constants.HF_HUB_CACHE}), and"
        f" {why_offline() or 'HF_DATASETS_OFFLINE is set'}. Where there is a network, `hf download"
        f" {kind}{name}` fetches it (HF_HOME names the cache's folder, HTTPS_PROXY a proxy,"
        " HF_ENDPOINT a mirror)"
    )


@contextmanager
def unasked() -> Iterator[None]:
    """Each time it saves, PEFT asks the hub whether the base's vocabulary was resized. Here it
    never is."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Could not find a config file in", UserWarning)
            yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def within(seconds: float, work: Callable[[], T]) -> T:
    """What `work` returns or raises. Raises TimeoutError after `seconds`: a look-up of a name has
    no limit of its own."""
    results: list[T] = []
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    # left behind where it hangs, and gone with the process
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def host(address: str) -> str:
    return urlsplit(address).hostname or address
