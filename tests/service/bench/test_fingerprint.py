"""Fingerprints from /proc and /sys, also where they cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

from service.bench.fingerprint import Fingerprint, same_machine, same_software, take_fingerprint
from tests.service.bench.bundles import fingerprint

FILES = {
    "proc/cpuinfo": "processor\t: 0\nvendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\n"
    "model name\t: AMD EPYC 9555\nstepping\t: 1\nflags\t\t: fpu avx2 avx512_vnni sse\n\nprocessor\t: 1\n",
    "proc/self/cgroup": "0::/job\n",
    "proc/stat": "cpu  80 0 10 100 0 0 0 10 5 0\ncpu0 1 2 3\n",
    "proc/loadavg": "1.25 0.5 0.1 1/200 4\n",
    "proc/meminfo": "MemTotal:       1024 kB\n",
    "sys/fs/cgroup/job/cpu.max": "150000 100000\n",
    "sys/fs/cgroup/job/cpu.stat": "usage_usec 1\nnr_throttled 7\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3200000\n",
}


def taken(root: Path) -> Fingerprint:
    return take_fingerprint({"onnxruntime": "1.32.0"}, {}, proc=root / "proc", system=root / "sys")


def written(root: Path) -> Path:
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_everything_is_read(tmp_path: Path) -> None:
    found = taken(written(tmp_path))
    assert found.machine.cpu_model == "AMD EPYC 9555"
    assert found.machine.cpu_id == "AuthenticAMD 26 2 1"
    assert found.machine.isa == ("avx2", "avx512_vnni")
    assert found.machine.quota_cores == 1.5
    assert found.machine.cores == 1
    assert found.state.governor == "performance"
    assert found.state.frequency_mhz == 3200
    assert found.state.load_1m == 1.25
    assert found.state.steal_fraction == 0.05
    assert found.state.throttled_periods == 7
    assert found.state.memory_bytes == 1024**2


def test_what_may_not_be_read_is_none(tmp_path: Path) -> None:
    root = written(tmp_path)
    governor = root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
    governor.unlink()
    governor.mkdir()  # reading it is an error even for root
    (root / "proc/stat").write_bytes(b"\xff")
    found = taken(root)
    assert found.state.governor is None
    assert found.state.steal_fraction is None


def test_fingerprint_without_proc_and_sys(tmp_path: Path) -> None:
    found = taken(tmp_path)
    assert found.machine.cpus == len(os.sched_getaffinity(0))
    assert found.machine.isa == ()
    assert found.machine.cpu_model
    assert set(found.state.model_dump().values()) == {None}


def test_same_machine_in_another_state(tmp_path: Path) -> None:
    root = written(tmp_path)
    before = taken(root)
    (root / "proc/loadavg").write_text("9.0 1 1 1/1 1\n")
    after = taken(root)
    assert after != before
    assert same_machine(before, after) == []


def test_differences_are_named() -> None:
    assert same_machine(fingerprint("CPU A"), fingerprint("CPU B")) == ["cpu model: CPU A, there CPU B"]
    newer = fingerprint(onnxruntime="1.33.0")
    assert same_machine(fingerprint(), newer) == []
    assert same_software(fingerprint(), newer) == ["onnxruntime: 1.32.0, there 1.33.0"]
