"""Reproducible inputs: `Generator(seed).input(i)` is the same on all machines with the same libraries."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tests.fuzz.forms_and_cards import any_card, any_form
from tests.fuzz.jpeg_files import any_jpeg, lossless_jpeg
from tests.fuzz.mutations import MUTATIONS
from tests.fuzz.seeds import ZOO, load_seeds
from tests.fuzz.values import INTERESTING, Order

Target = Literal["image", "form", "card"]

# Frequency of each format. JPEG has two decoders, this project's header parser and the most variants.
_WEIGHTS = {"jpeg": 12, "png": 4, "webp": 3, "gif": 3, "bmp": 3, "tiff": 5, "avif": 2}
_SHORTER_SIDES = (1, 2, 4, 8, 16, 32, 64, 224, 1000)
_LONGEST = 400_000

# Content that clients send instead of an image: base64, data URLs, JSON, web pages, drawings, raw files.
_OTHER_STARTS = (
    *(
        b"",
        b"\n",
        b"data:image/png;base64,",
        b'{"image": "',
        b"<!DOCTYPE html><html>",
        b"<svg>",
        b"<?xml?>",
        b"https://a/",
    ),
    *(
        b"version https://git-lfs.github.com/spec/v1\n",
        b"--b\r\nContent-Disposition: form-data",
        b"%PDF-1.7",
        b"PK\3\4",
    ),
    *(
        b"FUJIFILMCCD-RAW",
        b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        b"\0\0\0\x18ftypisom",
        b"\0\0\x01\0\x01\0",
        b"8BPS",
    ),
    *(
        b"\0\0\0\x0cJXL \r\n",
        b"\xff\x0a",
        b"\0\0\0\x0cjP  ",
        b"P6 9 9 255\n",
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\x1f\x8b\x08",
    ),
)


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a target.

    `origin`: the seed that it was made from. `shorter_side` is for images; `content_type` and `cuts` (offsets
    at which the body is split into chunks) are for forms.
    """

    index: int
    target: Target
    origin: str
    data: bytes
    shorter_side: int = 0
    content_type: str = ""
    cuts: tuple[int, ...] = ()


class Generator:
    """Makes inputs from seeds; each input is independent of the previous ones."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._seeds = load_seeds()
        self._by_format: dict[str, list[str]] = {}
        for name in self._seeds:
            self._by_format.setdefault(name.split()[0], []).append(name)
        self._cards = [path.read_bytes() for path in sorted(ZOO.glob("*/card.json"))]

    def input(self, index: int) -> Input:
        """Return input `index` of this seed."""
        chance = random.Random(f"{self._seed}/{index}")
        pick = chance.random()
        if pick < 0.07:
            return self._form(chance, index)
        if pick < 0.12:
            return self._card(chance, index)
        return self._image(chance, index)

    def _form(self, chance: random.Random, index: int) -> Input:
        content_type, body = any_form(chance)
        if chance.random() < 0.3:
            body = mutate_bytes(chance, body)
        cuts = tuple(sorted(chance.randint(0, len(body)) for _ in range(chance.choice((1, 2, 5, 40)))))
        return Input(index, "form", "form", body, content_type=content_type, cuts=cuts)

    def _card(self, chance: random.Random, index: int) -> Input:
        data = any_card(chance, chance.choice(self._cards))
        if chance.random() < 0.2:
            data = mutate_bytes(chance, data)
        return Input(index, "card", "card", data)

    def _image(self, chance: random.Random, index: int) -> Input:
        side = chance.choice(_SHORTER_SIDES)
        if chance.random() < 0.02:
            data = chance.choice(_OTHER_STARTS) + base64.b64encode(self._seeds[self._any_seed(chance)[1]])
            return Input(
                index, "image", "other bytes", mutate_bytes(chance, data[:_LONGEST]), shorter_side=side
            )
        if chance.random() < 0.12:
            origin, kind, data = "generated jpeg", "jpeg", any_jpeg(chance)
            if chance.random() < 0.05:
                width, height = chance.randint(1, 1400), chance.randint(1, 700)
                origin, data = (
                    "large lossless jpeg",
                    lossless_jpeg(chance, width, height, chance.choice((1, 3))),
                )
            if chance.random() < 0.5:
                return Input(index, "image", origin, data, shorter_side=side)
        else:
            kind, origin = self._any_seed(chance)
            data = self._seeds[origin]
        for _ in range(chance.choice((0, 1, 1, 1, 1, 1, 2, 3))):
            if chance.random() < 0.6:
                data = MUTATIONS[kind](chance, data)
            elif chance.random() < 0.1:
                data = splice(chance, data, self._seeds[self._any_seed(chance)[1]])
            else:
                data = mutate_bytes(chance, data)
        return Input(index, "image", origin, data[:_LONGEST], shorter_side=side)

    def _any_seed(self, chance: random.Random) -> tuple[str, str]:
        [kind] = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        name = chance.choice(self._by_format[kind])
        # Large images are slow, so they are less frequent.
        if " flat " in name and chance.random() < 0.8:
            name = chance.choice(self._by_format[kind])
        return kind, name


def splice(chance: random.Random, data: bytes, other: bytes) -> bytes:
    """Return the start of `data` and the end of `other`."""
    return data[: chance.randint(0, len(data))] + other[chance.randint(0, len(other)) :]


def mutate_bytes(chance: random.Random, data: bytes) -> bytes:
    """Change, copy, drop or add bytes regardless of the format, half of the time in the first 200 bytes."""
    if not data:
        return data
    changed = bytearray(data)
    chance.choice(_BYTE_CHANGES)(chance, changed)
    return bytes(changed)


def _place(chance: random.Random, data: bytearray) -> int:
    return chance.randrange(min(200, len(data)) if chance.random() < 0.5 else len(data))


def _flip_bits(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        data[_place(chance, data)] ^= 1 << chance.randrange(8)


def _set_bytes(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 1, 2, 4))):
        data[_place(chance, data)] = chance.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, chance.randrange(256)))


def _set_number(chance: random.Random, data: bytearray) -> None:
    size = chance.choice((2, 4))
    at = _place(chance, data)
    value = chance.choice(INTERESTING) & ((1 << 8 * size) - 1)
    order: Order = chance.choice(("big", "little"))
    data[at : at + size] = value.to_bytes(size, order)


def _block(chance: random.Random, data: bytearray) -> tuple[int, int]:
    start = _place(chance, data)
    return start, min(len(data), start + chance.choice((1, 2, 4, 8, 30, 200, len(data))))


def _copy_block(chance: random.Random, data: bytearray) -> None:
    start, end = _block(chance, data)
    at = _place(chance, data)
    data[at : at + (end - start if chance.random() < 0.5 else 0)] = data[start:end]


def _drop_block(chance: random.Random, data: bytearray) -> None:
    start, end = _block(chance, data)
    del data[start:end]


def _insert_block(chance: random.Random, data: bytearray) -> None:
    at = _place(chance, data)
    size = chance.choice((1, 2, 4, 16, 300))
    data[at:at] = chance.choice((bytes(size), b"\xff" * size, chance.randbytes(size)))


def _truncate(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(len(data)) :]


def _append(chance: random.Random, data: bytearray) -> None:
    data += chance.choice((bytes(9), b"\xff\xd9", chance.randbytes(50), bytes(data[:3000]), b"\0" * 20_000))


_BYTE_CHANGES: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(_flip_bits, _flip_bits, _flip_bits, _set_bytes, _set_bytes, _set_number, _set_number),
    *(_copy_block, _drop_block, _insert_block, _truncate, _append),
)
