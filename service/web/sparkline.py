"""A line of a few dozen points without axes, worked out on the server: the page only has to draw it."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH, HEIGHT = 120, 24
"""Of the drawing, in its own units."""


def sparkline(values: Sequence[float | None]) -> tuple[str, ...]:
    """The values from left to right as SVG point lists, 0 at the bottom, broken where a value is missing.

    A value without neighbours becomes a piece of one point twice, which a round line cap turns into a dot.
    """
    known = [value for value in values if value is not None]
    if not known:
        return ()
    top = max(known) or 1.0
    across = WIDTH / max(1, len(values) - 1)
    pieces: list[list[str]] = [[]]
    for index, value in enumerate(values):
        if value is not None:
            pieces[-1].append(f"{index * across:.1f},{HEIGHT * (1 - value / top):.1f}")
        elif pieces[-1]:
            pieces.append([])
    return tuple(" ".join(piece * 2 if len(piece) == 1 else piece) for piece in pieces if piece)
