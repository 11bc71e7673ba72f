"""What this machine computes with: the CPU's name and identity, its instruction sets, the cores allowed."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
ISA = (
    "avx2", "fma", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16",
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
"""Instruction sets that decide how fast float and 8-bit kernels run, on x86-64 and on Arm."""
_IDENTITY = ("vendor_id", "cpu family", "model", "stepping", "CPU implementer", "CPU part")


@dataclass(frozen=True)
class Machine:
    """`cpu`: what the CPU calls itself; `cpu_id`: vendor, family, model and stepping, empty where the system
    says none; `instruction_set`: those of ISA that it has, sorted; `cpus`: how many this process may use."""

    cpu: str
    cpu_id: str
    instruction_set: tuple[str, ...]
    cpus: int


def this_machine(cpuinfo: Path = CPUINFO) -> Machine:
    """Return what `cpuinfo` says; what it lacks (not Linux) is what Python knows."""
    facts = first_cpu(cpuinfo)
    name = facts.get("model name") or facts.get("Model")
    flags = facts.get("flags") or facts.get("Features") or ""
    return Machine(
        cpu=name or platform.processor() or platform.machine(),
        cpu_id=" ".join(facts[key] for key in _IDENTITY if key in facts),
        instruction_set=tuple(sorted(set(ISA) & set(flags.split()))),
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1),
    )


def first_cpu(cpuinfo: Path = CPUINFO) -> dict[str, str]:
    """Return the first processor's entry of `cpuinfo`; empty where that cannot be read."""
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
