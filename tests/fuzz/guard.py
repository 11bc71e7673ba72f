"""Detect buffer overflows: simplejpeg's buffers end directly before an inaccessible memory page."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray

PAGE = mmap.PAGESIZE
_POISON = 0xD7


class Overflow(BaseException):
    """Bytes before a guarded buffer were written to; writing past its end ends the process.

    A BaseException, so that code that treats exceptions as broken images does not catch it.
    """


class GuardedPages:
    """Memory whose last byte is directly before an inaccessible page.

    `take(n)` returns the last n bytes. Access past their end raises SIGSEGV; `check()` raises Overflow if the
    page before them was written to.
    """

    def __init__(self, capacity: int) -> None:
        self._size = -(-capacity // PAGE) * PAGE + PAGE
        self._map = mmap.mmap(-1, self._size + PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._pages = np.frombuffer(self._map, np.uint8)
        self._taken = 0
        libc = ctypes.CDLL(None, use_errno=True)
        guard = ctypes.c_void_p(self._pages.ctypes.data + self._size)
        if libc.mprotect(guard, ctypes.c_size_t(PAGE), 0):  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect failed")

    def take(self, size: int, fill: int = _POISON) -> NDArray[np.uint8]:
        """Return the last `size` bytes, filled with `fill`; earlier buffers must no longer be in use."""
        if size > self._size - PAGE:
            raise Overflow(f"guarded buffer: {size} bytes do not fit (allowed: {self._size - PAGE})")
        start = self._size - size
        self._pages[start - PAGE : start] = _POISON
        buffer = self._pages[start : self._size]
        buffer[:] = fill
        self._taken = size
        return buffer

    def check(self) -> None:
        """Raise Overflow if bytes before the last buffer have changed."""
        start = self._size - self._taken
        changed = np.flatnonzero(self._pages[start - PAGE : start] != _POISON)
        if changed.size:
            raise Overflow(
                f"{changed.size} bytes before the buffer were written to, from {changed[0] - PAGE} on"
            )

    def release(self) -> None:
        """Return the pages to the system, so that each use counts as new memory."""
        self._map.madvise(mmap.MADV_DONTNEED, 0, self._size)


class GuardedSimplejpeg:
    """Replacement of `simplejpeg.decode_jpeg` with the same results, from a guarded into a guarded buffer.

    The output buffer has exactly the size that simplejpeg would allocate itself.
    """

    def __init__(self, max_pixels: int, max_bytes: int) -> None:
        self._decode: Callable[..., NDArray[np.uint8]] = simplejpeg.decode_jpeg
        self._max_pixels = max_pixels
        self._output = GuardedPages(max_pixels * 4)
        self._input = GuardedPages(max_bytes)
        self.fill = 0
        self.calls = 0

    def install(self) -> None:
        """Replace `simplejpeg.decode_jpeg` by this object."""
        simplejpeg.decode_jpeg = self

    def __call__(self, data: bytes, colorspace: str = "rgb", **options: Any) -> NDArray[np.uint8]:
        """Decode; raises what simplejpeg raises, and Overflow."""
        guarded = self._input.take(len(data))
        guarded[:] = np.frombuffer(data, np.uint8)
        try:
            size = self._buffer_size(guarded, colorspace, options)
            buffer = self._output.take(size, self.fill)
            try:
                pixels = self._decode(guarded, colorspace, buffer=buffer, **options)
            finally:
                self._output.check()
            self.calls += 1
            return np.array(pixels)  # copied, because the pages are used again
        finally:
            self._output.release()
            self._input.release()

    def _buffer_size(self, data: NDArray[np.uint8], colorspace: str, options: dict[str, Any]) -> int:
        """Return the size of the result in bytes, from simplejpeg's error for a buffer that is too small.

        `decode_jpeg_header` also returns the size, but fails for sampling factors that simplejpeg can decode.
        The error leaks 4 KB, which a child that runs 2000 inputs can afford.
        """
        try:
            self._decode(data, colorspace, buffer=bytearray(1), **options)
        except ValueError as error:
            if shape := re.search(r"buffer is too small to decode \((\d+), (\d+), (\d+)\) image", str(error)):
                height, width, channels = map(int, shape.groups())
                if height * width > self._max_pixels:
                    raise Overflow(
                        f"simplejpeg decodes {width} x {height} pixels (allowed: {self._max_pixels})"
                    ) from None
                return height * width * channels
            raise
        raise Overflow("an image was decoded into a buffer of 1 byte")
