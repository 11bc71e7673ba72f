"""What memory a process takes that runs one model and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from models.zoo.card import InputSpec
from service.bench.bundle import Memory
from service.bench.measure.runtimes import Run

_RUNS = 5


def weigh(entry: str, spec: InputSpec, load: Callable[[], Run]) -> Memory | None:
    """Load the model, run it some times, and say what that took; None where the system does not say.

    For a process that has the runtime imported and nothing else done; the input is made before.
    """
    tensor = np.full((1, spec.channels, spec.height, spec.width), 0.5, np.float32)
    before = _resident("VmRSS")
    run = load()
    for _ in range(_RUNS):
        run(tensor)
    peak = _resident("VmHWM")
    if before is None or peak is None:
        return None
    return Memory(entry=entry, before_bytes=before, peak_bytes=max(peak, before))


def _resident(field: str) -> int | None:
    """VmRSS or VmHWM of this process in bytes; None where the system does not say (it is Linux's).

    `getrusage` would not do: its maximum includes what the parent held when it started this process.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None
