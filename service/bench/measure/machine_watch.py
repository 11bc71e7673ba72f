"""Watch the machine during a benchmark: steal, load of other processes, throttling, clock jumps."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from service.bench.bundle import GateReading
from service.bench.fingerprint import throttled_periods

STAT = Path("/proc/stat")
MAX_STEAL = 0.01
MAX_OUTSIDE_LOAD = 0.3
MAX_CLOCK_JUMP_S = 0.5
_TICKS_PER_S = 100  # the kernel's USER_HZ, the same on every Linux that Python has wheels for


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """An object counts ticks of the CPUs that this process may use, since boot.

    `total` has all ticks. `busy` leaves out idle time, waiting for input and output, and `steal`. `steal` is
    the time that the hypervisor took.
    """

    total: int
    busy: int
    steal: int


def cpu_times(stat: Path = STAT) -> CpuTimes | None:
    """Return the counters of the CPUs that this process may run on.

    Return None if the system does not report them.
    """
    cpus = {f"cpu{cpu}" for cpu in os.sched_getaffinity(0)} if hasattr(os, "sched_getaffinity") else set()
    total = busy = steal = 0
    try:
        lines = stat.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:
        name, *fields = line.split()
        if name in cpus and len(fields) >= 8:
            # user nice system idle iowait irq softirq steal; guest times are part of user
            ticks = list(map(int, fields[:8]))
            total += sum(ticks)
            busy += sum(ticks) - ticks[3] - ticks[4] - ticks[7]
            steal += ticks[7]
    return CpuTimes(total, busy, steal) if total else None


class MachineWatch:
    """An object watches the machine from its construction to the call of `read`."""

    def __init__(self, when: Literal["before", "during", "after"], launch: int, stat: Path = STAT) -> None:
        self._when: Literal["before", "during", "after"] = when
        self._launch = launch
        self._started_at = datetime.now(UTC)
        self._wall, self._monotonic = time.time(), time.monotonic()
        self._own_cpu_s = time.process_time()
        self._stat = stat
        self._times = cpu_times(stat)
        self._throttled = throttled_periods()

    def read(self, measured_cpu_s: float = 0.0) -> GateReading:
        """Return what was seen since construction.

        `measured_cpu_s` is the CPU time in seconds of processes that measured; it does not count as outside
        load.
        """
        seconds = time.monotonic() - self._monotonic
        own_s = time.process_time() - self._own_cpu_s + measured_cpu_s
        times, throttled = cpu_times(self._stat), throttled_periods()
        steal = outside = None
        if times is not None and self._times is not None and times.total > self._times.total:
            ticks = times.total - self._times.total
            steal = max(0.0, (times.steal - self._times.steal) / ticks)
            busy_s = (times.busy - self._times.busy) / _TICKS_PER_S
            outside = max(0.0, (busy_s - own_s) / (ticks / _TICKS_PER_S))
        return GateReading(
            when=self._when,
            launch=self._launch,
            started_at=self._started_at,
            seconds=round(seconds, 3),
            steal_fraction=None if steal is None else round(steal, 5),
            outside_load=None if outside is None else round(outside, 4),
            throttled_periods=None
            if throttled is None or self._throttled is None
            else throttled - self._throttled,
            clock_jump_s=round(time.time() - self._wall - seconds, 3),
        )


def violations(readings: Sequence[GateReading], *, judge_load: bool = True) -> list[str]:
    """Return the reasons why a benchmark with these readings is dirty. The list is empty if it is clean.

    Pass `judge_load` False if a running service is measured, because its load is not a disturbance.
    """
    reasons = []
    for reading in readings:
        when = f"launch {reading.launch + 1}" if reading.when == "during" else f"{reading.when} the run"
        if reading.steal_fraction is not None and reading.steal_fraction > MAX_STEAL:
            reasons.append(f"{when}: the hypervisor took {reading.steal_fraction:.1%} of the CPUs' time")
        if judge_load and reading.outside_load is not None and reading.outside_load > MAX_OUTSIDE_LOAD:
            reasons.append(f"{when}: other processes kept each core busy for {reading.outside_load:.0%}")
        if reading.throttled_periods:
            reasons.append(f"{when}: the cgroup's CPU quota throttled it {reading.throttled_periods} times")
        if abs(reading.clock_jump_s) > MAX_CLOCK_JUMP_S:
            reasons.append(
                f"{when}: the clock jumped by {reading.clock_jump_s:+.1f} s (times of day are unreliable; "
                "durations are not affected)"
            )
    return reasons
