"""Limiting the arenas of glibc's malloc, and returning free memory to the system."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.inference.malloc import ARENAS_PER_CORE, release_free_memory
from tests.helpers.process import environment, until_killed
from tests.helpers.processes import resident

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")

SERVE_AND_DESCRIBE_ARENAS = """
import ctypes, sys
from service.logs import configure_logging
from service.server import serve
from service.settings import Settings

configure_logging("json", "info")
serve(Settings())
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
file = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
assert libc.malloc_info(0, file) == 0
libc.fclose(file)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, ARENAS_PER_CORE),
        ({"MALLOC_ARENA_MAX": "4"}, 4),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=3"}, 3),
    ],
)
def test_arenas_of_a_service_with_one_core(
    tiny_models_dir: Path, tmp_path: Path, png: bytes, limits: dict[str, str], expected: int
) -> None:
    described = tmp_path / "arenas.xml"
    variables = environment(tiny_models_dir, tmp_path / "data", threads=1)
    for name in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES"):
        variables.pop(name, None)
    popen = subprocess.Popen(
        [sys.executable, "-c", SERVE_AND_DESCRIBE_ARENAS, str(described)],
        env=variables | limits,
        stderr=subprocess.PIPE,
        text=True,
    )
    with until_killed(popen) as process:
        with process.client() as client:
            assert client.post("/classify", content=png).status_code == 200
        popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0, process.log
    assert described.read_text().count("<heap nr=") == expected


def test_free_memory_within_an_arena_is_returned() -> None:
    blocks = [bytes(5000) for _ in range(20_000)]
    kept = blocks[::50]  # at every 250 kB, so that no arena ends in free memory
    before = resident(os.getpid())
    blocks.clear()
    release_free_memory()
    assert resident(os.getpid()) < before - 50e6
    assert len(kept) == 400
