"""Whole gates on the reports of a worker, and what ends one early."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.cli.gate.result import GateResult
from service.cli.gate.run import Gate, Request
from service.inference.registry import Registry
from tests.service.evaluation.colours import save_colours, save_pictures

REPLAY = """
import json, os, sys
if "service.bench.measure.worker" not in sys.argv:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
config = json.loads(sys.stdin.readline())
wobble = (-1) ** config["launch"] * 0.0005
for number, names in enumerate(config["order"]):
    for position, entry in enumerate(names):
        ns = round(1_000_000 * {times}[entry] * (1 + wobble * (entry != "base")))
        block = dict(launch=config["launch"], round=number, position=position, entry=entry)
        block["durations_ns"] = dict(inference=[ns] * config["block_runs"])
        print(json.dumps(dict(kind="block", block=block)))
print(json.dumps(dict(kind="done", cpu_s=0.1)), flush=True)
sys.stdin.read()
"""
"""Worker that reports these times, in milliseconds, instead of measuring; other programs run as ever."""


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    save_colours(tmp_path / "zoo", "before")
    save_colours(tmp_path / "zoo", "after", weights={"head.weight": np.eye(3, dtype=np.float32) * 4.5})
    return tmp_path / "zoo"


def replaying(folder: Path, monkeypatch: pytest.MonkeyPatch, times: dict[str, float]) -> None:
    """Let workers report `times` of the entries."""
    program = folder / "python"
    program.write_text(f"#!{sys.executable} -IS\n" + REPLAY.format(python=sys.executable, times=times))
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


@pytest.fixture
def gate(zoo: Path) -> Callable[..., Gate]:
    """Return a function that makes a gate of `before` and `after`; `options` replace its settings."""

    def make(*, data: Path | None = None, limit_s: float = 300.0, **options: object) -> Gate:
        given = {
            "registry": lambda: Registry([zoo], "before"),
            "stop": threading.Event(),
            "show": lambda _doing, _done: None,
        } | options
        request = Request(base=str(zoo / "before"), new=str(zoo / "after"), data=data, time_limit_s=limit_s)
        return Gate(request, threads=1, max_pixels=10**6, **given)  # type: ignore[arg-type]

    return make


def statuses(result: GateResult) -> list[str]:
    return [check.status for check in result.checks]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("again", "new", "outcome", "checks"),
    [
        (1.0, 1.01, "pass", ["passed", "skipped", "passed"]),
        (1.0, 1.08, "fail", ["failed", "skipped", "passed"]),
        (1.05, 1.2, "undecided", ["undecided", "skipped", "undecided"]),
    ],
)
def test_outcome_of_a_worker_s_reports(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    gate: Callable[..., Gate],
    again: float,
    new: float,
    outcome: str,
    checks: list[str],
) -> None:
    replaying(tmp_path, monkeypatch, {"base": 1.0, "base#again": again, "new": new})
    result = gate().run()
    assert (result.outcome, statuses(result)) == (outcome, checks), result.sentence
    assert result.latency is not None
    assert result.latency.void == (outcome == "undecided")
    assert result.latency.launches == (16 if result.latency.void else 3)
    assert result.latency.control_ratio == pytest.approx(again, rel=1e-3)


def test_fault_of_the_gate_is_a_result_that_says_so(gate: Callable[..., Gate]) -> None:
    def show(_doing: str, _done: float) -> None:
        raise ValueError("broken")

    result = gate(show=show).run()
    assert (result.exit_code, result.sentence) == (2, "cannot say: unexpected ValueError")
    assert statuses(result) == ["undecided", "skipped", "skipped"]


@pytest.mark.slow
def test_fault_while_accuracy_is_evaluated_is_one_of_the_accuracy(
    tmp_path: Path, gate: Callable[..., Gate]
) -> None:
    save_pictures(tmp_path / "pictures", 1)

    def show(doing: str, _done: float) -> None:
        if doing.startswith("accuracy"):
            raise ValueError("broken")

    result = gate(data=tmp_path / "pictures", show=show).run()
    assert result.exit_code == 2
    assert statuses(result) == ["skipped", "undecided", "skipped"]


def test_signal_before_the_time_limit_is_the_reason(gate: Callable[..., Gate]) -> None:
    stop = threading.Event()

    def show(_doing: str, _done: float) -> None:
        stop.set()
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()  # the time limit is over, too

    result = gate(limit_s=0.01, stop=stop, show=show).run()
    assert result.sentence == "cannot say: it was interrupted"
