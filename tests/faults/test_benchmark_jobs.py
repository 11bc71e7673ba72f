"""Benchmarks of a killed or stopped service: no orphans, no incomplete results, state after a restart."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import httpx
import pytest

from service.bench.bundle_file import from_json
from tests.helpers.process import service_process
from tests.helpers.processes import running
from tests.service.bench.test_benchmarks_api import events, start

pytestmark = pytest.mark.fault


def descendants(pid: int) -> dict[int, str]:
    """Return the descendants of `pid` with their command lines."""
    found: dict[int, str] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            found |= {int(child): command} | descendants(int(child))
    return found


def measuring(client: httpx.Client, identifier: str, service: int) -> dict[int, str]:
    """Wait until the second launch runs; return the processes of the service: the job and its worker."""
    for _, body in events(client, identifier):
        progress = body["progress"]
        if progress is not None and progress["launch"] >= 2:
            found = descendants(service)
            if any("service.bench.measure.worker" in command for command in found.values()):
                return found
    raise AssertionError("it ended before it could be caught measuring")


def test_killed_service_leaves_no_process(tiny_models_dir: Path, tmp_path: Path) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        identifier = start(client, models=["tiny"])["id"]
        below = measuring(client, identifier, process.popen.pid)
        assert any("service.bench.job" in command for command in below.values()), below
        handles = {pid: os.pidfd_open(pid) for pid in below if running(pid)}
        process.popen.kill()
        process.wait()
    for pid, handle in handles.items():
        signalled = _ends(handle)
        os.close(handle)
        assert signalled, f"process {pid} ({below[pid]}) outlived the service"
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        body = client.get(f"/benchmarks/{identifier}").json()
        assert (body["state"], body["measured"]) == ("interrupted", False)
        assert body["detail"] == "the service ended while it ran"
        assert body["results"] == []
        assert start(client, models=["tiny"])["id"] != identifier


def test_stop_keeps_a_partial_benchmark(tiny_models_dir: Path, tmp_path: Path) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        identifier = start(client, models=["tiny"])["id"]
        below = measuring(client, identifier, process.popen.pid)
        handles = {pid: os.pidfd_open(pid) for pid in below if running(pid)}
        with client.stream("GET", f"/benchmarks/{identifier}/events") as response:
            lines = response.iter_lines()
            assert next(lines) == "event: progress"
            process.popen.send_signal(signal.SIGTERM)
            for _ in lines:  # ends, or the client's time limit makes this fail
                pass
        assert process.wait(8) == 0
        for handle in handles.values():
            assert _ends(handle)
            os.close(handle)
    assert "Traceback" not in process.log
    assert "Fatal Python error" not in process.log
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        body = client.get(f"/benchmarks/{identifier}").json()
        assert (body["state"], body["detail"]) == ("cancelled", "the service was stopped")
        bundle = from_json(client.get(f"/benchmarks/{identifier}/bundle").content)
        assert bundle.flags_of("partial")
        assert bundle.blocks


def test_killed_job(tiny_models_dir: Path, tmp_path: Path) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        identifier = start(client, models=["tiny"])["id"]
        below = measuring(client, identifier, process.popen.pid)
        handles = {pid: os.pidfd_open(pid) for pid in below if running(pid)}
        [job] = [pid for pid, command in below.items() if "service.bench.job" in command]
        os.kill(job, signal.SIGKILL)
        assert list(events(client, identifier))[-1][1]["state"] == "failed"
        body = client.get(f"/benchmarks/{identifier}").json()
        assert body["detail"] == "the benchmark process ended early"
        for handle in handles.values():
            assert _ends(handle)
            os.close(handle)
        again = start(client, models=["tiny"])["id"]
        client.delete(f"/benchmarks/{again}")


def _ends(handle: int) -> bool:
    """Return whether the process of a pidfd ends within 20 seconds."""
    return bool(select.select([handle], [], [], 20)[0])
