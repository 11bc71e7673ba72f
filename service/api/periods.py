"""Parse durations (`15m`, `24h`, `30d`) and ISO 8601 times in query parameters."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from service.errors import InvalidParameter
from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S

_UNITS = {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}
_LENGTH = re.compile(r"([0-9]{1,6})([smhd])")


def parse_since(text: str, now: float) -> float:
    """Convert an ISO 8601 time (UTC by default), or a duration before `now`, to seconds since 1970.

    Raises InvalidParameter for any other text and for times in the future.
    """
    length_s = _parse_length(text)
    if length_s is not None:
        return now - length_s
    try:
        # An unescaped plus sign arrives as a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise InvalidParameter(
            f"since {text[:50]!r}: invalid (allowed: durations such as 15m, 24h, 30d; times in ISO 8601 such "
            "as 2026-01-31T12:00:00Z)"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment.timestamp()
    if since > now:
        raise InvalidParameter(f"since {text[:50]!r}: in the future (now: {format_moment(now)})")
    return since


def parse_step(text: str) -> int:
    """Convert a duration to seconds. Raises InvalidParameter unless it is whole minutes, at most 30 days."""
    length_s = _parse_length(text)
    if length_s is None or length_s % MINUTE_S or length_s > 30 * DAY_S:
        raise InvalidParameter(
            f"step {text[:50]!r}: invalid (allowed: whole minutes up to 30d, such as 60s, 5m, 1h, 1d)"
        )
    return length_s


def format_moment(seconds: float) -> str:
    """Format seconds since 1970 in ISO 8601, UTC, with milliseconds unless they are zero."""
    precision = "seconds" if seconds == int(seconds) else "milliseconds"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _parse_length(text: str) -> int | None:
    """Return the seconds of a duration like `15m`, or None if it is invalid or zero."""
    match = _LENGTH.fullmatch(text)
    return (int(match[1]) * _UNITS[match[2]] or None) if match else None
