"""Limiting the arenas of glibc's malloc, and returning free memory to the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from service.inference.malloc import ARENAS_PER_CORE, release_free_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

COUNT_ARENAS = """
import ctypes, sys, threading
from pathlib import Path
from service.inference.malloc import limit_arenas

if sys.argv[2] != "unlimited":
    limit_arenas(int(sys.argv[2]))
together = threading.Barrier(8)


def allocate():
    together.wait()
    kept = bytes(100_000)
    together.wait()


threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
assert libc.malloc_info(0, file) == 0
libc.fclose(file)
print(Path(sys.argv[1]).read_text().count("<heap nr="))
"""


def arenas(tmp_path: Path, cores: str) -> int:
    """Return the number of arenas of a process whose eight threads allocated memory at the same time."""
    unlimited = {name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"}
    done = subprocess.run(
        [sys.executable, "-c", COUNT_ARENAS, str(tmp_path / "info.xml"), cores],
        env=unlimited,
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def test_threads_share_a_limited_number_of_arenas(tmp_path: Path) -> None:
    assert arenas(tmp_path, "1") == ARENAS_PER_CORE
    assert arenas(tmp_path, "unlimited") > ARENAS_PER_CORE


def test_free_memory_within_an_arena_is_returned() -> None:
    blocks = [bytes(5000) for _ in range(20_000)]
    kept = blocks[::50]  # at every 250 kB, so that no arena ends in free memory
    before = resident_mb()
    blocks.clear()
    release_free_memory()
    assert resident_mb() < before - 50
    assert len(kept) == 400


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
