"""What the doctor finds: a way to be slow, how one knows, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Slug = Literal[
    "int8-without-vnni",
    "int8-without-gain",
    "qdq-not-fused",
    "channels-off-alignment",
    "denormal-weights",
    "zeros-without-speed-up",
    "batch-norm-unfolded",
    "threads-beyond-the-cores",
    "spinning",
]


@dataclass(frozen=True)
class Finding:
    """`slug` is stable and names the kind; `evidence` holds figures, `remedy` what would cure it."""

    slug: Slug
    title: str
    evidence: str
    remedy: str


def some(names: list[str], most: int = 3) -> str:
    """The first few of the names, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
