"""When to ask again, without a server."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from mvp_align.runtime.http_retries import parse_retry_after


def test_retry_after_is_read() -> None:
    assert [parse_retry_after(value) for value in ("", "soon", "nan", "inf", "-3", "0", "2.5")] == [
        None, None, None, None, 0.0, 0.0, 2.5,
    ]  # fmt: skip
    assert parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    later = parse_retry_after(
        format_datetime(datetime.now(UTC) + timedelta(minutes=1), usegmt=True)
    )
    assert later is not None and 58 < later <= 60
