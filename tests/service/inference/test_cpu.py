"""The core budget, on cgroup files as kernels write them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from service.inference.cpu import core_budget

CORES = len(os.sched_getaffinity(0))


def budget(tmp_path: Path, own: str, files: dict[str, str]) -> int:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "self").write_text(own)
    return core_budget(tmp_path / "cgroup", tmp_path / "self")


def test_cores_without_a_quota(tmp_path: Path) -> None:
    assert budget(tmp_path, "0::/\n", {"cpu.max": "max 100000\n"}) == CORES
    assert core_budget(tmp_path / "none", tmp_path / "none") == CORES


@pytest.mark.parametrize(("quota", "cores"), [("100000", 1), ("150000", 1), ("20000", 1), ("6400000", CORES)])
def test_cgroup_v2_quota(tmp_path: Path, quota: str, cores: int) -> None:
    assert budget(tmp_path, "0::/\n", {"cpu.max": f"{quota} 100000\n"}) == cores


def test_smallest_cgroup_quota(tmp_path: Path) -> None:
    files = {"a/cpu.max": "100000 100000", "a/b/cpu.max": "max 100000"}
    assert budget(tmp_path, "0::/a/b\n", files) == 1


def test_cgroup_v1_quota(tmp_path: Path) -> None:
    v1 = "4:cpu,cpuacct:/job\n"
    files = {"cpu/job/cpu.cfs_quota_us": "100000\n", "cpu/job/cpu.cfs_period_us": "100000\n"}
    assert budget(tmp_path, v1, files) == 1
    assert budget(tmp_path, v1, {"cpu/job/cpu.cfs_quota_us": "-1\n"}) == CORES


def test_a_smaller_affinity_counts(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert budget(tmp_path, "0::/\n", {"cpu.max": "max 100000"}) == 1
    finally:
        os.sched_setaffinity(0, before)
