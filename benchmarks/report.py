"""Measured figures with their targets, and the machine's description."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from service.inference.cpu import core_budget

PACKAGES = (
    *("weighin", "onnxruntime", "numpy", "pillow", "simplejpeg", "uvicorn", "fastapi"),
    *("usearch", "faiss-cpu", "hnswlib", "qdrant-client"),
)


@dataclass(frozen=True)
class Figure:
    """A measured figure: `value` is the median of the rounds, `low` and `high` are their extremes.

    `target`: the maximum of `value`, or its minimum if `at_least` is true. It is None if there is no target.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float
    rounds: int
    target: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target, or None if there is no target."""
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def cells(self) -> tuple[str, str, str, str]:
        """Return name, value with range, target and verdict, each as text."""
        spread = f"  ({_short(self.low)} to {_short(self.high)}, {self.rounds})" if self.rounds > 1 else ""
        target = "" if self.target is None else f"{'≥' if self.at_least else '≤'} {_short(self.target)}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        note = f"  {self.note}" if self.note else ""
        return self.name, f"{_short(self.value)} {self.unit}{spread}{note}", target, verdict


def figure(
    name: str,
    unit: str,
    rounds: Sequence[float],
    target: float | None = None,
    *,
    at_least: bool = False,
    note: str = "",
) -> Figure:
    """Return the figure of `rounds`: their median with their range."""
    middle = statistics.median(rounds)
    return Figure(name, unit, middle, min(rounds), max(rounds), len(rounds), target, at_least, note)


def table(figures: Sequence[Figure]) -> str:
    """Return all figures as lines of aligned columns."""
    rows = [("figure", "measured (range, rounds)", "target", ""), *(row.cells() for row in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def machine() -> dict[str, object]:
    """Return what the figures depend on: CPU, cores, load, versions."""
    return {
        "cpu": _cpu_model(),
        "cores": core_budget(),
        "vnni": has_vnni(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES if _installed(name)},
    }


def has_vnni() -> bool:
    """Return whether the CPU has VNNI: instructions for int8 dot products, which int8 networks use."""
    flags = _cpuinfo("flags").split()
    return "avx512_vnni" in flags or "avx_vnni" in flags


def guarded(part: str, measure: Callable[[], list[Figure]]) -> tuple[list[Figure], str | None]:
    """Return the figures that `measure` returns, and None.

    If `measure` raises an error, return no figures, and the error as one line.
    """
    try:
        return measure(), None
    except Exception as error:  # a failure of one part must not prevent the others
        return [], f"{part}: {type(error).__name__}: {error}"


def _installed(name: str) -> bool:
    try:
        version(name)
    except ModuleNotFoundError:
        return False
    return True


def _cpu_model() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"
