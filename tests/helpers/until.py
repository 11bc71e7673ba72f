"""Waiting for something that happens by itself, without sleeping longer than it takes."""

from __future__ import annotations

import time
from collections.abc import Callable


def until(condition: Callable[[], bool], what: str) -> None:
    """Ask again and again, for a minute at most."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"a minute has passed and not: {what}"
        time.sleep(0.01)
