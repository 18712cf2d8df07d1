"""Address, key, rate limits and timeouts of a model server."""

import os
import re
from typing import Annotated

import httpx
from pydantic import AfterValidator, ConfigDict, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from mvp_align.errors import UserError

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _address(text: str) -> str:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
        raise PydanticCustomError(
            "address",
            "an address as https://host/v1 belongs there, without a user, a key or a query",
        )
    return text


def _variable(name: str) -> str:
    if not VARIABLE.fullmatch(name):
        raise PydanticCustomError(
            "variable", "the NAME of an environment variable belongs there, never the key itself"
        )
    return name


@dataclass(config=ConfigDict(extra="forbid", hide_input_in_errors=True))
class Endpoint:
    """A model on a server, with its rate limits and timeouts."""

    base_url: Annotated[str, AfterValidator(_address)]
    """Up to and including /v1, like `http://localhost:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """Name of the model on that server."""
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    """NAME of the environment variable with the key; None if the server needs no key."""
    concurrency: PositiveInt = 8
    """Requests in flight at once."""
    requests_per_minute: PositiveFloat = 600.0
    """Attempts that may start per minute, evenly spaced."""
    attempts: PositiveInt = 6
    """Attempts per request before giving up."""
    backoff_seconds: PositiveFloat = 1.0
    """Upper bound of the first wait in seconds.

    Waits are drawn from 0 to the bound, which doubles each time, up to a minute.
    """
    max_wait_seconds: PositiveFloat = 600.0
    """A Retry-After above this ends the command."""
    connect_seconds: PositiveFloat = 10.0
    read_seconds: PositiveFloat = 60.0
    """Longest silence of the server."""
    total_seconds: PositiveFloat = 120.0
    """Longest time for one attempt, even if data keeps arriving."""
    max_body_bytes: PositiveInt = 1_000_000

    def key(self) -> SecretStr | None:
        """Read the key from the environment.

        Raises UserError if it is not set or is not a valid header value.
        """
        if self.key_env is None:
            return None
        value = SecretStr(os.environ.get(self.key_env, "").strip())
        if not value:
            raise UserError(
                f"{self.model}: the key is read from {self.key_env}, which is not set: export it"
                " first."
            )
        # libraries would show the key in their error
        if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise UserError(
                f"{self.model}: {self.key_env} holds spaces or characters outside ASCII: set it"
                " again."
            )
        return value
