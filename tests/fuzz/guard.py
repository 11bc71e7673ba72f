"""Memory that shows an overflow: simplejpeg reads from and writes to pages that end where their bytes end."""

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
    """Bytes before a guarded buffer were written to; writing behind it ends the process.

    No Exception, so that nothing that takes exceptions for broken pictures hides it.
    """


class GuardedPages:
    """Memory whose last byte lies directly before a page that must not be touched.

    `take(n)` lends its last n bytes. Reading or writing behind them is a SIGSEGV; `check()` raises Overflow
    where one of the page before them was written to.
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
        """Return the last `size` bytes, filled; what was lent before must no longer be in use."""
        if size > self._size - PAGE:
            raise Overflow(f"guarded buffer: {size} bytes do not fit (allowed: {self._size - PAGE})")
        start = self._size - size
        self._pages[start - PAGE : start] = _POISON
        buffer = self._pages[start : self._size]
        buffer[:] = fill
        self._taken = size
        return buffer

    def check(self) -> None:
        """Raise Overflow if what lies before the bytes last lent has changed."""
        start = self._size - self._taken
        changed = np.flatnonzero(self._pages[start - PAGE : start] != _POISON)
        if changed.size:
            raise Overflow(
                f"{changed.size} bytes before the buffer were written to, from {changed[0] - PAGE} on"
            )

    def release(self) -> None:
        """Give the pages back to the system, so that each use counts as memory anew."""
        self._map.madvise(mmap.MADV_DONTNEED, 0, self._size)


class GuardedSimplejpeg:
    """Stands in for `simplejpeg.decode_jpeg`: same results, from guarded input into a guarded buffer.

    The buffer has exactly the size that simplejpeg allocates by itself when none is given to it.
    """

    def __init__(self, max_pixels: int, max_bytes: int) -> None:
        self._decode: Callable[..., NDArray[np.uint8]] = simplejpeg.decode_jpeg
        self._max_pixels = max_pixels
        self._output = GuardedPages(max_pixels * 4)
        self._input = GuardedPages(max_bytes)
        self.fill = 0
        self.calls = 0

    def install(self) -> None:
        """Replace simplejpeg's function by this one, for whoever looks it up from now on."""
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
            return np.array(pixels)  # the pages will be lent again
        finally:
            self._output.release()
            self._input.release()

    def _buffer_size(self, data: NDArray[np.uint8], colorspace: str, options: dict[str, Any]) -> int:
        """Return the bytes of the result: simplejpeg names them when it refuses too small a buffer.

        Its `decode_jpeg_header` tells the size too, but fails for sampling factors that it can decode. A
        refusal leaks 4 KB, which is nothing to a child that runs 2000 inputs.
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
        raise Overflow("a picture was decoded into a buffer of 1 byte")
