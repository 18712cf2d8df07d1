"""Where a model is served, and how hard that server may be worked."""

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
    """A model on a server, and how hard it may be worked."""

    base_url: Annotated[str, AfterValidator(_address)]
    """Up to and including /v1, as `http://localhost:8000/v1`."""
    model: Annotated[str, Field(min_length=1)]
    """The model's name on that server."""
    key_env: Annotated[str, AfterValidator(_variable)] | None = None
    """The NAME of the environment variable that holds the key; None where the server asks for
    none."""
    concurrency: PositiveInt = 8
    """Requests under way at once."""
    requests_per_minute: PositiveFloat = 600.0
    """Attempts that may begin in a minute, spread evenly."""
    attempts: PositiveInt = 6
    """Requests made for one reply, all in all, before it is given up."""
    backoff_seconds: PositiveFloat = 1.0
    """The first wait is drawn from 0 to this, each further one from a range twice as long, up to a
    minute."""
    max_wait_seconds: PositiveFloat = 600.0
    """A Retry-After above this ends the command instead of being waited for."""
    connect_seconds: PositiveFloat = 10.0
    read_seconds: PositiveFloat = 60.0
    """Longest silence of the server."""
    total_seconds: PositiveFloat = 120.0
    """Longest time for one attempt, however slowly it trickles."""
    max_body_bytes: PositiveInt = 1_000_000

    def key(self) -> SecretStr | None:
        """The key, read from the environment. Raises UserError where it is not set or cannot be a
        header's value."""
        if self.key_env is None:
            return None
        value = SecretStr(os.environ.get(self.key_env, "").strip())
        if not value:
            raise UserError(
                f"{self.model}: the key is read from {self.key_env}, which is not set: export it"
                " first."
            )
        # libraries would show it in their complaint
        if not re.fullmatch(r"[!-~]+", value.get_secret_value()):
            raise UserError(
                f"{self.model}: {self.key_env} holds spaces or characters outside ASCII: set it"
                " again."
            )
        return value
