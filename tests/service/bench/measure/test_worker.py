"""The worker process outlives neither its parent nor its configuration."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from service.bench.measure.messages import REPORT, Failure, WorkerConfig
from service.bench.measure.plan import Plan, Request, make_plan
from service.bench.measure.process import WORKER
from service.inference.registry import Registry
from tests.conftest import make_tiny_model
from tests.helpers.swap import replace_model

PARENT = """
import subprocess, sys
worker = subprocess.Popen([sys.executable, "-m", sys.argv[1]], stdin=subprocess.PIPE)
worker.stdin.write(sys.stdin.buffer.readline())
worker.stdin.flush()
print(worker.pid, file=sys.stderr, flush=True)
worker.wait()
"""


def long_config(plan: Plan) -> WorkerConfig:
    return WorkerConfig(
        launch=0,
        scenario="single-stream",
        entries=plan.worker_entries[:1],
        order=(("tiny",),) * 1000,
        block_runs=10,
        block_s=60.0,
        warm_up_s=0.0,
        cores=1,
    )


@pytest.mark.slow
def test_worker_ends_with_its_parent(short_plan: Callable[..., Plan]) -> None:
    config = long_config(short_plan(models=("tiny",)))
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert parent.stdin is not None
    assert parent.stdout is not None
    assert parent.stderr is not None
    with parent.stdin, parent.stdout, parent.stderr:
        parent.stdin.write(config.model_dump_json().encode() + b"\n")
        parent.stdin.flush()
        worker = int(parent.stderr.readline())
        first = REPORT.validate_json(parent.stdout.readline())  # it is at work
        assert first.kind == "cold"
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        # The worker holds the other end of this pipe: it ends when the worker does.
        parent.stdout.read()
    assert worker > 0


@pytest.mark.slow
def test_invalid_worker_configuration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", WORKER], input=b"nonsense\n", capture_output=True, check=False
    )
    assert done.returncode != 0
    assert done.stdout == b""


@pytest.mark.slow
def test_a_model_that_was_replaced_is_not_measured(tmp_path: Path) -> None:
    """Not one version in one process and another in the next."""
    folder = make_tiny_model(tmp_path, "tiny")
    plan = make_plan(Registry([tmp_path], "tiny"), Request(seed=1, models=("tiny",)))
    replace_model(folder, seed=2)
    command = [sys.executable, "-m", WORKER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(long_config(plan).model_dump_json().encode() + b"\n")
        worker.stdin.flush()
        report = REPORT.validate_json(worker.stdout.readline())
    assert isinstance(report, Failure)
    assert "'tiny' was replaced while it was measured" in report.message
