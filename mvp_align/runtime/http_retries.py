"""Which HTTP answers are worth another request, and when to send it."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_STATUSES = (408, 409, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529)
"""HTTP statuses that may pass."""


def parse_retry_after(value: str) -> float | None:
    """Seconds from now on that a Retry-After header asks for, given in seconds or as a date; None
    where it is neither."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(0.0, seconds) if seconds == seconds and seconds != float("inf") else None
