"""Sparklines as SVG point lists."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 120, 24
"""Size of the drawing in SVG units."""


def sparkline(values: Sequence[float | None]) -> tuple[str, ...]:
    """Return SVG point lists of `values` from left to right, 0 at the bottom, split at missing values.

    A value without neighbours becomes the same point twice, which a round line cap draws as a dot.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ()
    top = max(known) or 1.0
    step = WIDTH / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is not None:
            pieces[-1].append(f"{index * step:.1f},{HEIGHT * (1 - value / top):.1f}")
        elif pieces[-1]:
            pieces.append([])
    return tuple(" ".join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece)
