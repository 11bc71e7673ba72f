"""Polling for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition` until it is true; fail after a minute, naming `what` was expected."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"timeout after 60 s, expected: {what}"
        time.sleep(0.01)
