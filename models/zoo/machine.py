"""Facts of this machine: its CPU, instruction sets, number of usable CPUs, and the running system."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
ISA = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Instruction sets that affect the speed of float and 8-bit kernels, on x86-64 and Arm."""
_IDENTITY = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part")


@dataclass(frozen=True)
class Machine:
    """A machine.

    `cpu`: model name. If the system reports no name, as on Arm, `cpu` is the architecture with implementer
    and part. `cpu_id`: vendor, family, model and stepping (Arm: implementer and part), or empty if the system
    does not report them. `instruction_set`: the supported entries of ISA, sorted. `cpus`: number of CPUs that
    this process may use.
    """

    cpu: str
    cpu_id: str
    instruction_set: tuple[str, ...]
    cpus: int


def this_machine(cpuinfo: Path = CPUINFO) -> Machine:
    """Return the facts of this machine, which are read from the file `cpuinfo`.

    If `cpuinfo` does not name the CPU, `cpu` is the architecture as Python's module `platform` states it.
    """
    facts = first_cpu(cpuinfo)
    name = facts.get("model name") or facts.get("Model")
    flags = facts.get("flags") or facts.get("Features") or ""
    return Machine(
        cpu=name or _without_name(facts),
        cpu_id=" ".join(facts[key] for key in _IDENTITY if key in facts),
        instruction_set=tuple(sorted(set(ISA) & set(flags.split()))),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
    )


def _without_name(facts: Mapping[str, str]) -> str:
    """Return a substitute for a CPU's model name: the architecture and, on Arm, implementer and part."""
    codes = [f"{key} {facts[f'CPU {key}']}" for key in ("implementer", "part") if f"CPU {key}" in facts]
    architecture = platform.processor() or platform.machine()
    return f"{architecture} ({', '.join(codes)})" if codes else architecture


def running_system(boot_id: Path = BOOT_ID) -> str:
    """Return 16 hexadecimal digits that all processes of one running system share.

    They differ between machines and between virtual machines, and change with a restart. They are a hash of
    the kernel's boot id or, if there is none (not on Linux), of the host name. A Docker container has the
    boot id of its host; a container of systemd-nspawn or LXC has its own. Virtual machines that were resumed
    from the same snapshot have the same boot id.
    """
    try:
        identity = boot_id.read_text().strip()
    except OSError:
        identity = platform.node()
    return hashlib.sha256(f"weighin {identity}".encode()).hexdigest()[:16]


def first_cpu(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Return the first processor's entry in the file `cpuinfo`, or nothing if it cannot be read."""
    entries: dict[str, str] = {}
    try:
        lines = cpuinfo.read_text(errors="replace").splitlines()
    except OSError:
        return entries
    for line in lines:
        if not line.strip():
            break
        key, _, value = line.partition(":")
        entries[key.strip()] = value.strip()
    return entries
