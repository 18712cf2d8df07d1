"""Check once and briefly whether the Hugging Face Hub is reachable.

Without it, a run then continues or fails at once. The libraries themselves would try each file six
times for half a minute, with a message each time.
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
"""Timeout for the Hub, in seconds. A name that cannot be resolved may take up to twice that."""
VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Either variable keeps all libraries off the Hub; the first one wins.

`HF_DATASETS_OFFLINE` does so for datasets.
"""


def go_offline_if_unreachable() -> None:
    """Set libraries offline if the Hub does not answer.

    Call this before looking for anything there.
    """
    from huggingface_hub import constants

    if constants.is_offline_mode():
        return
    problem = unreachable_reason()
    if not problem:
        return
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries imported later
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    if os.environ.get("RANK", "0") == "0":
        print(
            f"{host(constants.ENDPOINT)} was not reached ({problem}): only what is in the cache is"
            " used. HF_HUB_OFFLINE=1 says so from the start.",
            file=sys.stderr,
        )


@cache
def unreachable_reason() -> str:
    """Return why the Hub does not answer, in a word, or "". Redirects and refusals are answers."""
    from huggingface_hub import constants, get_session

    def ask() -> int:
        return int(get_session().request("HEAD", constants.ENDPOINT, timeout=SECONDS).status_code)

    try:
        status = run_with_timeout(2 * SECONDS, ask)
    # errors of the HTTP library or the system, whose text may have several lines
    except Exception as error:
        return type(error).__name__
    return f"HTTP {status}" if status >= 500 else ""


def why_offline() -> str:
    """Return why libraries are offline, like `HF_HUB_OFFLINE is set`, or "" if they are not."""
    from huggingface_hub import constants

    if not constants.is_offline_mode():
        return ""
    if unreachable_reason.cache_info().currsize:
        return f"{host(constants.ENDPOINT)} was not reached"
    return f"{next((name for name in VARIABLES if os.environ.get(name)), VARIABLES[0])} is set"


def not_cached_hint(name: str, *, dataset: bool = False) -> str:
    """Return part of a sentence on what to do about a missing model or dataset when offline."""
    from huggingface_hub import constants

    kind = "--repo-type dataset " if dataset else ""
    return (
        f"it is not in the cache ({constants.HF_HUB_CACHE}), and"
        f" {why_offline() or 'HF_DATASETS_OFFLINE is set'}. Where there is a network, `hf download"
        f" {kind}{name}` fetches it (HF_HOME names the cache's folder, HTTPS_PROXY a proxy,"
        " HF_ENDPOINT a mirror)"
    )


@contextmanager
def without_hub_lookups() -> Iterator[None]:
    """Keep PEFT from asking the Hub on each save whether the base's vocabulary was resized.

    We never resize it.
    """
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


def run_with_timeout(seconds: float, work: Callable[[], T]) -> T:
    """Return what `work` returns, or raise what it raises.

    Raises TimeoutError after `seconds`, because name resolution has no timeout of its own.
    """
    results: list[T] = []
    errors: list[Exception] = []

    def attempt() -> None:
        try:
            results.append(work())
        except Exception as error:
            errors.append(error)

    # if it hangs, it is abandoned, and ends with the process
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
