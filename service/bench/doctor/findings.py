"""Findings of the doctor: cause, evidence and remedy."""

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
    "faster-in-openvino",
]


@dataclass(frozen=True)
class Finding:
    """A finding is one cause of slowness.

    `slug` is a stable name of this kind of cause. `evidence` has the measured figures. `remedy` says what to
    change.
    """

    slug: Slug
    title: str
    evidence: str
    remedy: str


def some(names: list[str], most: int = 3) -> str:
    """Format the first `most` names and the number of the remaining ones."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
