"""Five minutes of the soak, in the command's own process: traffic, every kind of fault, and all checks."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.helpers.processes import children, running
from tests.helpers.until import until
from tests.soak.faults import KINDS

pytestmark = pytest.mark.fault


@pytest.mark.alone
@pytest.mark.soak
def test_five_minutes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "5", "--folder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as soak:
        try:
            output, errors = soak.communicate(timeout=900)
        except subprocess.TimeoutExpired:
            soak.terminate()  # it ends what it has started
            output, errors = soak.communicate(timeout=120)
    assert soak.returncode == 0, f"{output}\n{errors}"
    data = json.loads((tmp_path / "soak.json").read_text())
    assert data["violations"] == []
    assert [(fault["kind"], fault["times"] >= 2) for fault in data["faults"]] == [
        (kind, True) for kind in KINDS
    ]
    assert data["stored"]["images"] > 50
    assert {"DELETE /models/{name}", "POST /compare", "GET /dashboard"} <= data["by_route"].keys()
    problems = " ".join(data["errors"])
    assert "database-unreachable: PostgreSQL restarted" in problems  # the faults were felt
    assert "storage-unavailable: disk full" in problems


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_what_it_started(number: signal.Signals) -> None:
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:  # a short path, because sockets are in it
        Path(folder).chmod(0o755)
        command = [sys.executable, "-m", "tests.soak", "--minutes", "5", "--folder", folder]
        with subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as soak:
            assert soak.stdout is not None
            assert "2 replicas and PostgreSQL run" in soak.stdout.readline()
            started = children(soak.pid) | processes_in(folder)
            assert len(started) >= 3  # two services and PostgreSQL
            assert folder in Path("/proc/mounts").read_text()
            soak.send_signal(number)
            _, errors = soak.communicate(timeout=120)
        assert soak.returncode == 130, errors
        until(lambda: not any(map(running, started)), "all processes have ended")
        assert processes_in(folder) == set()
        assert folder not in Path("/proc/mounts").read_text()
        left = {file.name for file in Path(folder).iterdir()}
        assert left <= {".lockfile"}  # which the wheel with PostgreSQL shares between all its servers


def processes_in(folder: str) -> set[int]:
    """Return the processes that name the folder in their command, such as PostgreSQL's."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if folder in file.read_text() and f"--folder\0{folder}" not in file.read_text():
                found.add(int(file.parent.name))
    return found
