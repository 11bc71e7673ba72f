"""Run one input and check its outcome and cost; the parent process detects crashes."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pydantic

from models.zoo.card import Card, read_card, write_card
from service.api.body.parts import Parts
from service.errors import EmptyBody, MalformedRequest, TooManyPixels, UndecodableImage, UnknownImageType
from tests.fuzz import measure
from tests.fuzz.generate import Input
from tests.fuzz.guard import GuardedSimplejpeg, Overflow

if TYPE_CHECKING:
    from service.inference.decoding.decode import DecodedImage

Result = TypeVar("Result")

MAX_PIXELS = 1_000_000
MAX_BYTES = 1_000_000

_FORM_LIMITS = {"image": 2000, "metadata": 20}
# A bound is breached after this many measurements in a row, since another process may slow down one.
_TRIES = 5
_FILL = 0xA5


class Breach(Exception):
    """An input was handled differently than documented, or at too high a cost."""


class Checker:
    """Checks inputs in this process; patches simplejpeg and malloc; writes into `folder`."""

    def __init__(
        self, folder: Path, memory: measure.Bound = measure.MEMORY, cpu: measure.Bound = measure.CPU
    ) -> None:
        self._folder, self._memory, self._cpu = folder, memory, cpu
        folder.mkdir(exist_ok=True)
        # Imported after simplejpeg is replaced, in case decode.py imports the function itself.
        self._guard = GuardedSimplejpeg(MAX_PIXELS, MAX_BYTES)
        self._guard.install()
        import service.inference.decoding.decode

        self._decode = service.inference.decoding.decode.decode
        self._declared = 0
        check = service.inference.decoding.decode._check_pixels

        def recorded(kind: Any, width: int, height: int, max_pixels: int) -> None:
            check(kind, width, height, max_pixels)
            self._declared = max(self._declared, width * height)

        service.inference.decoding.decode._check_pixels = recorded
        self.costs: dict[str, float] = {}

    @property
    def guarded_calls(self) -> int:
        """Number of images that simplejpeg has decoded into a guarded buffer."""
        return self._guard.calls

    def check(self, item: Input) -> str:
        """Run an input and return its outcome, one of OUTCOMES in worker.py. Raises Breach."""
        try:
            if item.target == "image":
                return self._image(item)
            return self._form(item) if item.target == "form" else self._card(item)
        except Breach:
            raise
        except Overflow as error:
            raise Breach(f"overflow: {error}") from None
        except Exception:
            raise Breach(f"undocumented exception:\n{traceback.format_exc()}") from None

    def _run_twice(self, item: Input, run: Callable[[], Result]) -> tuple[Result, Result]:
        """Run once with memory filled at allocation and release, then again without, measured.

        Raises Breach if every measurement exceeds a bound.
        """
        self._fill(_FILL)
        try:
            first = run()
        finally:
            self._fill(0)
        for _ in range(_TRIES):
            self._declared = 0
            with measure.Meter() as meter:
                second = run()
            memory = self._memory.of(self._declared, len(item.data))
            cpu = self._cpu.of(self._declared, len(item.data))
            self.costs = {"bytes": meter.peak_bytes, "cpu_s": meter.cpu_s, "declared": self._declared}
            if meter.peak_bytes <= memory and meter.cpu_s <= cpu:
                return first, second
        given = f"{self._declared} declared pixels in {len(item.data)} bytes"
        if meter.peak_bytes > memory:
            raise Breach(
                f"memory: {meter.peak_bytes / 1e6:.1f} MB for {given} (allowed: {memory / 1e6:.1f} MB); "
                f"outcome {_word(second)}"
            )
        raise Breach(
            f"time: {meter.cpu_s * 1e3:.1f} ms for {given} (allowed: {cpu * 1e3:.1f} ms); "
            f"outcome {_word(second)}"
        )

    def _fill(self, byte: int) -> None:
        self._guard.fill = byte
        measure.fill_fresh_memory_with(byte)

    def _image(self, item: Input) -> str:
        def decoded() -> DecodedImage | str:
            try:
                return self._decode(item.data, shorter_side=item.shorter_side, max_pixels=MAX_PIXELS)
            except (EmptyBody, UnknownImageType, TooManyPixels, UndecodableImage) as error:
                if isinstance(error.__context__, MemoryError):
                    raise Breach("memory: a request exceeds the address space limit") from None
                return error.slug

        first, second = self._run_twice(item, decoded)
        if isinstance(first, str) or isinstance(second, str):
            if first != second:
                raise Breach(f"not deterministic: {_word(first)}, then {_word(second)}")
            return str(first)
        self._check_picture(item, first)
        # Bytes that the decoder did not write have different values in the two runs.
        a, b = first.pixels, second.pixels
        if a.shape != b.shape or (a != b).any():
            count = int((a != b).any(axis=2).sum()) if a.shape == b.shape else a.size
            raise Breach(f"not deterministic: {count} of {a.shape[:2]} pixels differ between two runs")
        return f"decoded {first.format}"

    def _check_picture(self, item: Input, image: DecodedImage) -> None:
        pixels = image.pixels
        if (
            pixels.dtype != np.uint8
            or pixels.ndim != 3
            or pixels.shape[2] != 3
            or not pixels.flags.c_contiguous
        ):
            raise Breach(f"pixels: {pixels.dtype} {pixels.shape}, C-contiguous {pixels.flags.c_contiguous}")
        height, width = pixels.shape[:2]
        left, top, right, bottom = image.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise Breach(f"box {image.box} is not within {width} x {height} pixels")
        if image.scale not in (1, 2, 4, 8):
            raise Breach(f"scale {image.scale} (allowed: 1, 2, 4, 8)")
        expected = (-(-image.width // image.scale), -(-image.height // image.scale))
        if (width, height) != expected:
            raise Breach(f"{width} x {height} pixels for {image.width} x {image.height} at 1/{image.scale}")
        if image.width * image.height > min(self._declared, MAX_PIXELS):
            raise Breach(
                f"{image.width} x {image.height} pixels, but {self._declared} were checked before decoding"
            )
        if image.bytes != len(item.data):
            raise Breach(f"bytes {image.bytes} (given: {len(item.data)})")

    def _form(self, item: Input) -> str:
        whole, again = self._run_twice(item, lambda: _parsed(item.content_type, [item.data]))
        if whole != again:
            raise Breach(f"not deterministic: {whole!r:.500}, then {again!r:.500}")
        starts, ends = (0, *item.cuts), (*item.cuts, len(item.data))
        chunks = [item.data[start:end] for start, end in zip(starts, ends, strict=True)]
        if len(item.data) <= 1000:
            chunks_of_one = [item.data[i : i + 1] for i in range(len(item.data))]
            if (parts := _parsed(item.content_type, chunks_of_one)) != whole:
                raise Breach(f"parts depend on the chunks: whole {whole!r:.500}, byte by byte {parts!r:.500}")
        if (parts := _parsed(item.content_type, chunks)) != whole:
            raise Breach(
                f"parts depend on the chunks: whole {whole!r:.500}, cut at {item.cuts} {parts!r:.500}"
            )
        return f"form {whole[0]}"

    def _card(self, item: Input) -> str:
        (self._folder / "card.json").write_bytes(item.data)

        def read() -> Card | str:
            try:
                return read_card(self._folder)
            except (pydantic.ValidationError, UnicodeDecodeError):
                return "card refused"

        card, again = self._run_twice(item, read)
        if repr(card) != repr(again):  # cards with NaN are never equal
            raise Breach(f"not deterministic: {card!r:.500}, then {again!r:.500}")
        if isinstance(card, str):
            return card
        write_card(self._folder, card)
        if read() != card:
            raise Breach("card: differs or is refused after it was written and read again")
        return "card read"


def _parsed(content_type: str, chunks: list[bytes]) -> tuple[str, list[tuple[str, bytes | None, int]]]:
    """Return the outcome of parsing a form, and the parts that were complete by then."""
    parts = []
    form: Parts | None = None
    try:
        form = Parts(content_type, _FORM_LIMITS)
        for chunk in chunks:
            form.feed(chunk)
            parts += form.finished()
        form.check_complete()
        outcome = "complete"
    except MalformedRequest:
        outcome = "malformed"
    parts += form.finished() if form is not None else []
    return outcome, [(part.name, part.data, part.size) for part in parts]


def _word(result: object) -> str:
    return result if isinstance(result, str) else type(result).__name__
