"""Where a model is served, and how hard that server may be worked."""

import os
import re
from dataclasses import dataclass

import httpx
from pydantic import SecretStr

from mvp_align.errors import UserError

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass
class Endpoint:
    """A model on a server, and how hard it may be worked."""

    base_url: str = ""
    """Up to and including /v1, as `http://localhost:8000/v1`."""
    model: str = ""
    """The model's name on that server."""
    key_env: str | None = None
    """The NAME of the environment variable that holds the key; None where the server asks for
    none."""
    concurrency: int = 8
    """Requests under way at once."""
    requests_per_minute: float = 600.0
    """Attempts that may begin in a minute, spread evenly."""
    attempts: int = 6
    """Requests made for one reply, all in all, before it is given up."""
    backoff_seconds: float = 1.0
    """The first wait is drawn from 0 to this, each further one from a range twice as long, up to a
    minute."""
    max_wait_seconds: float = 600.0
    """A Retry-After above this ends the command instead of being waited for."""
    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    """Longest silence of the server."""
    total_seconds: float = 120.0
    """Longest time for one attempt, however slowly it trickles."""
    max_body_bytes: int = 1_000_000

    def problems(self) -> list[str]:
        """What cannot work, each with what to do. Never shows `key_env` where it might be a key."""
        found = []
        try:
            url = httpx.URL(self.base_url)
        except (httpx.InvalidURL, TypeError):
            url = httpx.URL("")
        if url.scheme not in ("http", "https") or not url.host or url.userinfo or url.query:
            found.append(
                "base_url: an address as https://host/v1 belongs there, without a user, a key or a"
                " query."
            )
        if not self.model:
            found.append("model: name the model as the server knows it.")
        if self.key_env is not None and not VARIABLE.fullmatch(self.key_env):
            found.append(
                "key_env: the NAME of an environment variable belongs there, never the key itself."
            )
        for name in (
            "concurrency", "requests_per_minute", "attempts", "backoff_seconds",
            "max_wait_seconds", "connect_seconds",
            "read_seconds", "total_seconds", "max_body_bytes",
        ):  # fmt: skip
            if not getattr(self, name) > 0:
                found.append(f"{name}={getattr(self, name)}: must be above 0.")
        return found

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
