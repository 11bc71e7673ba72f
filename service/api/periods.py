"""Lengths and moments of time as query parameters: `15m`, `24h`, `30d`, or a moment in ISO 8601."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from service.errors import InvalidParameter
from service.latency.buckets import DAY_S, HOUR_S, MINUTE_S

_UNITS = {"s": 1, "m": MINUTE_S, "h": HOUR_S, "d": DAY_S}
_LENGTH = re.compile(r"([0-9]{1,6})([smhd])")


def parse_since(text: str, now: float) -> float:
    """The moment, in seconds since 1970: so long before `now`, or as written (UTC unless it says otherwise).

    Raises InvalidParameter for anything else, and for a moment that is yet to come.
    """
    length_s = _parse_length(text)
    if length_s is not None:
        return now - length_s
    try:
        # A plus sign that was not escaped has become a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
    except ValueError:
        raise InvalidParameter(
            f"since: {text[:50]!r} is neither a length of time like 15m, 24h or 30d nor a moment in ISO 8601 "
            "like 2026-01-31T12:00:00Z"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    since = moment.timestamp()
    if since > now:
        raise InvalidParameter(f"since: {text[:50]!r} is yet to come; it is {format_moment(now)}")
    return since


def parse_step(text: str) -> int:
    """The length in seconds. Raises InvalidParameter unless it is some whole minutes, at most 30 days."""
    length_s = _parse_length(text)
    if length_s is None or length_s % MINUTE_S or length_s > 30 * DAY_S:
        raise InvalidParameter(
            f"step: {text[:50]!r} is not a length like 60s, 5m, 1h or 1d of whole minutes up to 30d"
        )
    return length_s


def format_moment(seconds: float) -> str:
    """Seconds since 1970 in ISO 8601, UTC, with milliseconds where there are any."""
    precision = "seconds" if seconds == int(seconds) else "milliseconds"
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")


def _parse_length(text: str) -> int | None:
    """Seconds of a length like `15m`; None when it is none, or none at all."""
    match = _LENGTH.fullmatch(text)
    return (int(match[1]) * _UNITS[match[2]] or None) if match else None
