"""Boundary values that parsers mishandle, and their insertion into files."""

from __future__ import annotations

import random
from typing import Literal

Order = Literal["little", "big"]

INTERESTING = (
    *(
        0,
        1,
        2,
        3,
        4,
        7,
        8,
        15,
        16,
        17,
        31,
        32,
        63,
        64,
        100,
        127,
        128,
        255,
        256,
        257,
        511,
        512,
        1000,
        1024,
        4095,
        4096,
    ),
    *(
        16383,
        16384,
        32767,
        32768,
        65534,
        65535,
        65536,
        2**20,
        2**24 - 1,
        2**24,
        2**30,
        2**31 - 1,
        2**31,
        2**32 - 1,
    ),
)


def any_number(chance: random.Random, bits: int, old: int = 0) -> int:
    """Return a number of `bits` bits: a boundary value, a value near `old`, or a random one."""
    pick = chance.random()
    if pick < 0.55:
        value = chance.choice(INTERESTING)
    elif pick < 0.8:
        value = old + chance.choice((-2, -1, 1, 2, 8, -8)) if chance.random() < 0.7 else old * 2
    else:
        value = chance.getrandbits(chance.randint(1, bits))
    return value & ((1 << bits) - 1)


def change_number(
    chance: random.Random, data: bytearray, at: int, size: int, order: Order = "little"
) -> None:
    """Change the integer of `size` bytes at `at`, if it is within the data."""
    if at >= 0 and at + size <= len(data):
        old = int.from_bytes(data[at : at + size], order)
        data[at : at + size] = any_number(chance, 8 * size, old).to_bytes(size, order)
