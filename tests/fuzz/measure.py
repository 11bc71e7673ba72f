"""CPU time and memory of one input, and their bounds."""

from __future__ import annotations

import ctypes
import functools
import os
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_RESET_PEAK = b"5"
_M_PERTURB = -6


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound that grows with the declared pixels and the size of the file."""

    constant: float
    per_pixel: float
    per_byte: float

    def of(self, pixels: int, size: int) -> float:
        """Return the bound for a file of `size` bytes that declares `pixels`."""
        return self.constant + self.per_pixel * pixels + self.per_byte * size


# Bytes of resident memory and seconds of CPU; docs/fuzzing.md has the reasons.
MEMORY = Bound(constant=5e6, per_pixel=60, per_byte=3)
CPU = Bound(constant=0.03, per_pixel=0.4e-6, per_byte=0.1e-6)


class Meter:
    """Context that measures `cpu_s` of all threads and `peak_bytes`, the peak growth of resident memory."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(_RESET_PEAK)
        self._before = _resident_bytes()["VmRSS"]
        self._started = time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cpu_s = time.process_time() - self._started
        self.peak_bytes = max(0, _resident_bytes()["VmHWM"] - self._before)


def _resident_bytes() -> dict[str, int]:
    with open("/proc/self/status", "rb") as file:
        lines = file.read().decode().splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmHWM", "VmRSS")))
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}


def fill_fresh_memory_with(byte: int) -> None:
    """Make malloc fill allocated memory with `byte` and freed memory with its complement; 0 turns it off."""
    mallopt = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(_address_of_mallopt())
    mallopt(_M_PERTURB, byte and byte ^ 0xFF)


@functools.cache
def _address_of_mallopt() -> int:
    """Return the address of the `mallopt` that belongs to the active `malloc`.

    glibc's debugging library exports its functions under the oldest version of each symbol, which a look-up
    by name does not find.
    """
    libc = ctypes.CDLL(None)
    libc.dlvsym.restype = ctypes.c_void_p
    for glibc in (b"GLIBC_2.2.5", b"GLIBC_2.17"):  # the oldest on x86-64 and on ARM
        if address := libc.dlvsym(None, b"mallopt", glibc):
            return int(address)
    raise OSError("mallopt: not found in the C library (allowed: glibc on x86-64 or aarch64)")


def heap_is_checked() -> bool:
    """Return whether glibc aborts a process that writes past a heap block; tested in a child process."""
    if (pid := os.fork()) == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        api = ctypes.pythonapi
        api.PyMem_RawMalloc.restype = ctypes.c_void_p
        block = ctypes.c_void_p(api.PyMem_RawMalloc(ctypes.c_size_t(24)))
        ctypes.memset(block, 0, 25)
        api.PyMem_RawFree(block)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])
