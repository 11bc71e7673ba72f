"""Fingerprint of a benchmark: machine, software, and state of the machine."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from pydantic import BaseModel, Field

from models.zoo.frozen import Frozen
from models.zoo.machine import first_cpu, running_system, this_machine
from service.inference.cpu import CGROUPS, PROC_CGROUP, cgroup_folders, core_budget, machine_name, quota_cores

PROC = Path("/proc")
SYS = Path("/sys")


class Machine(Frozen):
    """Identity of a machine: two machines count as the same if all fields are equal."""

    architecture: str = Field(description="e.g. x86_64, aarch64")
    cpu_model: str = Field(description="Model name of the CPU")
    cpu_id: str = Field(description="Vendor, family, model and stepping; empty if unknown")
    isa: tuple[str, ...] = Field(description="Instruction sets relevant to inference, sorted")
    cpus: int = Field(ge=1, description="Logical CPUs that the process may run on (affinity)")
    quota_cores: float | None = Field(description="Cores that the cgroup's cpu.max allows; null: no limit")
    cores: int = Field(ge=1, description="Whole cores that the process can keep busy")

    @property
    def name(self) -> str:
        """The machine's name, from its CPU and number of cores, as recorded with latencies."""
        return machine_name(self.cpu_model, self.cores)


class Host(Frozen):
    """Machine on which a benchmark runs, as lists of benchmarks show it."""

    cpu: str = Field(description="Model name of the CPU")
    cores: int = Field(description="Whole cores that the process can keep busy")
    host: str = Field(description="Host name; in a container, by default the container's id")
    id: str = Field(
        description="Id of the running system: equal for all its processes, also in Docker containers; "
        "changes when the machine restarts"
    )


class Software(Frozen):
    """Software of a benchmark; results of different runtime versions are not comparable."""

    runtimes: dict[str, str] = Field(description="Version of each runtime, by its name, e.g. onnxruntime")
    session_options: dict[str, str] = Field(description="Options of every session, except threads")
    python: str
    weighin: str
    system: str = Field(description="Operating system and kernel release")


class State(Frozen):
    """State of the machine at the start; values that the system does not report are null."""

    governor: str | None = Field(description="Frequency governor of the first CPU")
    frequency_mhz: float | None = Field(description="Current frequency of the first CPU")
    max_frequency_mhz: float | None = None
    load_1m: float | None = Field(description="Load average over one minute")
    steal_fraction: float | None = Field(
        description="Share of the CPUs' time since boot that the hypervisor took"
    )
    throttled_periods: int | None = Field(description="The cgroup's nr_throttled")
    memory_bytes: int | None = Field(description="Total memory of the machine")


class Fingerprint(Frozen):
    """Machine, software and state of one benchmark."""

    machine: Machine
    software: Software
    state: State


def take_fingerprint(
    runtimes: Mapping[str, str], session_options: Mapping[str, str], *, proc: Path = PROC, system: Path = SYS
) -> Fingerprint:
    """Return the fingerprint of this machine now; values that cannot be read are None."""
    cgroups = system / "fs/cgroup"
    own = proc / "self/cgroup"
    machine = this_machine(proc / "cpuinfo")
    return Fingerprint(
        machine=Machine(
            architecture=platform.machine(),
            cpu_model=machine.cpu,
            cpu_id=machine.cpu_id,
            isa=machine.instruction_set,
            cpus=machine.cpus,
            quota_cores=None if (quota := quota_cores(cgroups, own)) is None else round(quota, 3),
            cores=core_budget(cgroups, own),
        ),
        software=Software(
            runtimes=dict(runtimes),
            session_options=dict(session_options),
            python=platform.python_version(),
            weighin=version("weighin"),
            system=f"{platform.system()} {platform.release()}",
        ),
        state=State(
            governor=_read(system / "devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            frequency_mhz=_kilohertz(system / "devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
            or _number(first_cpu(proc / "cpuinfo").get("cpu MHz")),
            max_frequency_mhz=_kilohertz(system / "devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"),
            load_1m=_number((_read(proc / "loadavg") or "").partition(" ")[0]),
            steal_fraction=_steal_since_boot(proc),
            throttled_periods=throttled_periods(cgroups, own),
            memory_bytes=_memory(proc),
        ),
    )


def this_host() -> Host:
    """Return the machine of this process."""
    return Host(cpu=this_machine().cpu, cores=core_budget(), host=platform.node(), id=running_system())


def same_machine(one: Fingerprint, other: Fingerprint) -> list[str]:
    """Return the differences between the machines of two fingerprints, each as a text.

    A text has the value of `one` first, then that of `other`. The list is empty if the machines are the same.
    """
    return _differences(one.machine, other.machine)


def same_software(one: Fingerprint, other: Fingerprint) -> list[str]:
    """Return the differences in software that affect latency: versions of runtimes and session options.

    Runtimes that only one of the two used are ignored. The versions of Python, kernel and project are ignored
    too; they are recorded only for information.
    """
    differences = []
    for field in ("runtimes", "session_options"):
        mine, theirs = getattr(one.software, field), getattr(other.software, field)
        for key in sorted(mine.keys() & theirs.keys()):
            if mine[key] != theirs[key]:
                differences.append(f"{key}: {mine[key]}, there {theirs[key]}")
    return differences


def throttled_periods(cgroups: Path = CGROUPS, own: Path = PROC_CGROUP) -> int | None:
    """Return how often the quota throttled this process's cgroup (`nr_throttled`).

    Return None if no cgroup of the process states this number.
    """
    for folder in cgroup_folders(cgroups, own):
        for line in (_read(folder / "cpu.stat") or "").splitlines():
            name, _, value = line.partition(" ")
            if name == "nr_throttled":
                return int(value)
    return None


def _differences(one: BaseModel, other: BaseModel) -> list[str]:
    mine, theirs = one.model_dump(), other.model_dump()
    return [
        f"{name.replace('_', ' ')}: {_format(mine[name])}, there {_format(theirs[name])}"
        for name in mine
        if mine[name] != theirs[name]
    ]


def _format(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def _steal_since_boot(proc: Path) -> float | None:
    fields = (_read(proc / "stat") or "").partition("\n")[0].split()
    # cpu user nice system idle iowait irq softirq steal (guest times are part of user)
    if len(fields) < 9 or fields[0] != "cpu":
        return None
    ticks = list(map(int, fields[1:9]))
    return round(ticks[7] / sum(ticks), 5) if sum(ticks) else None


def _memory(proc: Path) -> int | None:
    for line in (_read(proc / "meminfo") or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _kilohertz(path: Path) -> float | None:
    value = _number(_read(path))
    return None if value is None else value / 1000


def _number(text: str | None) -> float | None:
    with contextlib.suppress(ValueError):
        return float(text) if text else None
    return None


def _read(path: Path) -> str | None:
    """Return the file's text, or None if the file does not exist or cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None
