"""Settings of glibc's malloc that keep the resident memory of a long-running service small."""

from __future__ import annotations

import contextlib
import ctypes

ARENAS_PER_CORE = 2
"""Arenas that threads may use, per core that the service may keep busy."""

_M_ARENA_MAX = -8
"""Parameter of `mallopt`; the value is from glibc's `malloc.h`."""


def limit_arenas(cores: int) -> None:
    """Let the threads of this process share two arenas per core. This works only with glibc.

    Call it before threads start, because glibc reads the limit only once. By itself, glibc creates an arena
    per thread, up to eight per core of the machine. Each of them keeps free memory that the others cannot
    use. Source: mallopt(3), M_ARENA_MAX.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS_PER_CORE * cores)


def release_free_memory() -> None:
    """Return freed memory, which the C library still holds, to the system. This works only with glibc.

    By itself, glibc gives back only what is free at the end of an arena.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
