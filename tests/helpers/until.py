"""Polling for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll `condition` until it is true, ever less often; fail after a minute, naming `what` was expected."""
    deadline = time.monotonic() + 60
    pause = 0.005
    while not condition():
        assert time.monotonic() < deadline, f"timeout after 60 s, expected: {what}"
        time.sleep(pause)
        pause = min(1.3 * pause, 0.05)
