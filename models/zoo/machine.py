"""What this machine computes with, and what else it did while something was measured."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

ISA = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimd", "asimddp", "i8mm")
"""Extensions that decide which kernels a runtime picks."""


@dataclass(frozen=True)
class Machine:
    """`cpu`: its name; `instruction_set`: those of ISA that it has; `cores`: that this process may use."""

    cpu: str
    instruction_set: tuple[str, ...]
    cores: int
    python: str


def this_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """What can be read about the CPU; where there is no such file (not Linux), what Python knows."""
    try:
        lines = [line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines()]
    except OSError:
        lines = []
    facts = {key.strip().lower(): value.strip() for key, _, value in reversed(lines)}
    flags = set(facts.get("flags", facts.get("features", "")).split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        instruction_set=tuple(name for name in ISA if name in flags),
        cores=cores,
        python=platform.python_version(),
    )


@dataclass(frozen=True)
class Disturbance:
    """Shares of all cores' time: `steal` went to other virtual machines, `others` to other processes here."""

    steal: float
    others: float

    @property
    def dirty(self) -> bool:
        """Whether a measurement in that time should not be trusted."""
        return self.steal > 0.01 or self.others > 0.3


class Watch:
    """Measures the disturbance between its making and `seen`."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._started = self._read()

    def seen(self) -> Disturbance | None:
        """What happened since; None where the system does not say (not Linux) or no time has passed."""
        now = self._read()
        if self._started is None or now is None:
            return None
        total, busy, steal, own = (new - old for new, old in zip(now, self._started, strict=True))
        if total <= 0:
            return None
        return Disturbance(
            steal=round(max(0.0, steal / total), 4), others=round(max(0.0, (busy - own) / total), 4)
        )

    def _read(self) -> tuple[float, float, float, float] | None:
        """Seconds of all cores together: in all, busy, stolen; and this process's own."""
        try:
            fields = self._stat.read_text().splitlines()[0].split()[1:9]
        except (OSError, IndexError):
            return None
        user, nice, system, idle, waiting, irq, soft_irq, steal = (int(field) for field in fields)
        busy = user + nice + system + irq + soft_irq
        ticks = os.sysconf("SC_CLK_TCK")
        own = time.process_time()
        return (busy + idle + waiting + steal) / ticks, busy / ticks, steal / ticks, own
