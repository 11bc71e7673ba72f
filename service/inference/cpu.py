"""Find the number of cores that this process may use, and a name for the machine."""

from __future__ import annotations

import os
from pathlib import Path

from models.zoo.display import counted

CGROUPS = Path("/sys/fs/cgroup")
PROC_CGROUP = Path("/proc/self/cgroup")


def core_budget(cgroups: Path = CGROUPS, own: Path = PROC_CGROUP) -> int:
    """Return the number of cores that this process can keep busy, at least 1.

    This is the number of cores in the CPU affinity, or the cgroup quota if the quota is smaller. The quota is
    the smallest one of the process's cgroup and the parents of this cgroup. It is read from `cpu.max` of
    cgroup v2, or from `cpu.cfs_quota_us` of cgroup v1. It is rounded down, because the kernel throttles a
    process with more busy threads than its quota.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = quota_cores(cgroups, own)
    return max(1, affinity if quota is None else min(affinity, int(quota)))


def machine_name(cpu: str, cores: int) -> str:
    """Return a name for machines of one kind: the model name of the CPU and the number of cores."""
    return f"{cpu}, {counted(cores, 'core', 'cores')}"


def quota_cores(cgroups: Path = CGROUPS, own: Path = PROC_CGROUP) -> float | None:
    """Return the cgroup's quota in cores, with fractions. Return None if there is no quota."""
    quotas = [
        cores
        for folder in cgroup_folders(cgroups, own)
        if (cores := _v2_quota(folder) or _v1_quota(folder)) is not None
    ]
    return min(quotas, default=None)


def cgroup_folders(cgroups: Path = CGROUPS, own: Path = PROC_CGROUP) -> list[Path]:
    """Return the cgroup folders that limit this process, from its own up to the root."""
    folders = []
    for line in _read(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        root = cgroups if controllers == "" else cgroups / "cpu"
        if controllers == "" or "cpu" in controllers.split(","):
            relative = Path(path.strip("/"))
            folders += [root / part for part in (relative, *relative.parents)]
    return [*folders, cgroups, cgroups / "cpu"]


def _v2_quota(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _v1_quota(folder: Path) -> float | None:
    quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
