"""The machine watch: what spoils a run is said in words, what cannot be read is no violation."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from service.bench.bundle import GateReading
from service.bench.measure.machine_watch import MachineWatch, cpu_times, violations

CLEAN = GateReading(
    when="during",
    launch=1,
    started_at=datetime(2026, 1, 1, tzinfo=UTC),
    seconds=10,
    steal_fraction=0.01,
    outside_load=0.3,
    throttled_periods=0,
    clock_jump_s=0.5,
)


def test_a_clean_run_has_no_complaints() -> None:
    unknown = {"steal_fraction": None, "outside_load": None, "throttled_periods": None}
    assert violations([CLEAN, CLEAN.model_copy(update=unknown)]) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steal_fraction": 0.02}, "launch 2: the hypervisor took 2.0% of the CPUs' time"),
        ({"outside_load": 0.5}, "launch 2: other processes kept each core busy for 50%"),
        ({"throttled_periods": 3}, "launch 2: the cgroup's CPU quota throttled it 3 times"),
        ({"clock_jump_s": -3600.0}, "launch 2: the clock jumped by -3600.0 s"),
    ],
)
def test_each_disturbance_is_named(change: dict[str, float], words: str) -> None:
    (found,) = violations([CLEAN.model_copy(update=change)])
    assert found.startswith(words)


def test_load_of_the_measured_service() -> None:
    loaded = CLEAN.model_copy(update={"outside_load": 0.9, "when": "before"})
    assert violations([loaded], judge_load=False) == []
    assert violations([loaded])[0].startswith("before the run: ")


def test_cpu_times_of_allowed_cpus(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    # fields: user nice system idle iowait irq softirq steal guest guest_nice
    stat.write_text("cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 10 0 5 80 1 0 1 3 10 0\ncpu99999 1 1 1 1 1 1 1 1 1 1\n")
    found = cpu_times(stat)
    assert found is not None
    assert (found.total, found.busy, found.steal) == (100, 16, 3)
    assert cpu_times(tmp_path / "none") is None
    stat.write_text("nothing of use\n")
    assert cpu_times(stat) is None


def test_its_own_work_is_not_outside_load() -> None:
    watch = MachineWatch("during", 0)
    total = 0
    for number in range(3_000_000):
        total += number
    reading = watch.read(measured_cpu_s=1000.0)
    assert reading.outside_load == 0
    assert reading.clock_jump_s == pytest.approx(0, abs=0.2)
    assert reading.seconds > 0


def test_time_that_others_took_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    stat = tmp_path / "stat"
    stat.write_text("cpu0  500 0 0 4500 0 0 0 0 0 0\ncpu1  500 0 0 4500 0 0 0 0 0 0\n")
    watch = MachineWatch("during", 0, stat)
    assert (watch.read().steal_fraction, watch.read().outside_load) == (None, None)
    # 100 s of both cores went by: 25 s to other processes, 5 s to other machines.
    stat.write_text("cpu0  3000 0 0 6500 0 0 0 500 0 0\ncpu1  500 0 0 9500 0 0 0 0 0 0\n")
    reading = watch.read()
    assert reading.steal_fraction == pytest.approx(0.05)
    assert reading.outside_load == pytest.approx(0.25, abs=0.01)
    (found,) = violations([reading])
    assert "the hypervisor took 5.0%" in found
    assert violations([reading.model_copy(update={"steal_fraction": 0.0, "outside_load": 0.1})]) == []
    missing = MachineWatch("during", 0, tmp_path / "missing").read()
    assert (missing.steal_fraction, missing.outside_load) == (None, None)
