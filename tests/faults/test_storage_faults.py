"""Latencies after kills, on full and read-only disks, and with deleted and damaged databases."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.storage.database import FILE_NAME
from tests.helpers.disks import fill, needs_root, small_disk
from tests.helpers.process import service_process

pytestmark = pytest.mark.fault

RECORD = """
import sys, time
from pathlib import Path
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.latency.stages import STAGES
from service.state import open_state

with open_state(Path(sys.argv[1]), None) as state:
    recorder = Recorder(state.latencies, Metrics({}))
    recorder.start()
    recorded = 0
    while True:
        recorder.record("tiny", "live", dict.fromkeys(STAGES, 1_000_000))
        recorded += 1
        if recorded % 20 == 0:
            print(recorded, time.monotonic(), flush=True)
            time.sleep(0.01)
"""

WITHOUT_OVERRIDE = ("setpriv", "--bounding-set=-dac_override")
"""Runs a command as root without CAP_DAC_OVERRIDE, so that file permissions apply."""


def saved(data_dir: Path) -> int:
    """Return the number of requests in the database's minutes, read with SQLite; 0 without the table."""
    question = "SELECT sum(count) FROM latency_histograms WHERE resolution_s = 60 AND stage = 'total'"
    try:
        with closing(sqlite3.connect(f"file:{data_dir / FILE_NAME}?mode=rw", uri=True)) as connection:
            return int(connection.execute(question).fetchone()[0] or 0)
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error) and "unable to open" not in str(error):
            raise
        return 0


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll for up to a minute."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, f"a minute has passed and not: {what}"
        time.sleep(0.05)


def degraded(client: httpx.Client) -> str | None:
    response = client.get("/readyz")
    assert response.status_code == 200, response.text
    problem: str | None = response.json()["degraded"]
    return problem


def total(client: httpx.Client) -> dict[str, Any]:
    """Return the row of stage `total` of the model `tiny`."""
    (row,) = client.get("/latency?model=tiny&stage=total").json()["latencies"]
    found: dict[str, Any] = row
    return found


def classify(client: httpx.Client, png: bytes, times: int) -> None:
    for _ in range(times):
        assert client.post("/classify", content=png).status_code == 200


@pytest.mark.alone
def test_kill_9_loses_at_most_two_seconds(tmp_path: Path) -> None:
    """Three services at the same time, which save at different moments; each is killed twice."""
    folders = [tmp_path / f"{number}" for number in range(3)]
    with ThreadPoolExecutor() as pool:
        list(pool.map(kill_twice, folders, (3.4, 3.0, 2.6)))


def kill_twice(folder: Path, after: float) -> None:
    """Record in `folder` for `after` seconds until a kill, twice, and assert what is lost."""
    folder.mkdir()
    for _ in range(2):
        before = saved(folder)
        with subprocess.Popen(
            [sys.executable, "-c", RECORD, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            log: list[tuple[int, float]] = []
            for line in process.stdout:
                recorded, at = line.split()
                log.append((int(recorded), float(at)))
                if log[-1][1] > log[0][1] + after:
                    break
            killed = time.monotonic()
            os.kill(process.pid, signal.SIGKILL)
        two_seconds_before = max(recorded for recorded, at in log if at <= killed - 2)
        found = saved(folder) - before
        assert found >= two_seconds_before > 0
        assert found <= log[-1][0] + 1000  # what it did after its last line here, not twice as much


def test_latencies_after_a_kill(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        classify(client, png, 20)
        client.post("/classify", content=b"")
        longest = total(client)["max_ms"]
        until(lambda: saved(tmp_path) == 20, "all requests in the database")
        # The error came after them, so it may be a flush later.
        errors = "SELECT sum(count) FROM latency_errors WHERE resolution_s = 60"
        with closing(sqlite3.connect(tmp_path / FILE_NAME)) as connection:
            until(
                lambda: connection.execute(errors).fetchone() == (1,),
                "the error in the database",
            )
        os.kill(process.popen.pid, signal.SIGKILL)
        process.wait()
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        row = total(client)
        assert (row["count"], row["errors"], row["max_ms"]) == (20, {"empty-body": 1}, longest)
        classify(client, png, 1)
        assert total(client)["count"] == 21


def test_unwritable_directory(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    needs_root("setpriv")
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o555)
    with (
        service_process(tiny_models_dir, data_dir, prefix=WITHOUT_OVERRIDE) as process,
        process.client() as client,
    ):
        problem = degraded(client)
        assert problem is not None
        assert "permission denied" in problem
        assert str(tmp_path) not in problem
        classify(client, png, 3)
        assert total(client)["count"] == 3
        assert client.get("/latency").json()["degraded"] == problem
        assert list(data_dir.iterdir()) == []
        # And when it may be written again, nothing is lost.
        data_dir.chmod(0o755)
        until(lambda: degraded(client) is None, "the service finds the directory writable")
        until(lambda: saved(data_dir) == 3, "what was held in memory is saved")
        assert client.get("/latency").json()["degraded"] is None
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0


def test_database_becomes_read_only(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            classify(client, png, 2)
            until(lambda: saved(disk) == 2, "the first requests are saved")
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            assert "read-only" in str(degraded(client))
            classify(client, png, 3)
            assert total(client)["count"] == 3
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            until(lambda: degraded(client) is None, "the service finds the disk writable")
            until(lambda: total(client)["count"] == 5, "memory and database are told together")


def test_full_disk(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            classify(client, png, 5)
            until(lambda: saved(disk) == 5, "the first requests are saved")
            fill(disk / "filling")
            classify(client, png, 5)
            until(lambda: degraded(client) is not None, "the service finds the disk full")
            assert any(word in str(degraded(client)) for word in ("full", "no space left")), degraded(client)
            classify(client, png, 5)
            assert total(client)["count"] == 15
            (disk / "filling").unlink()
            until(lambda: degraded(client) is None, "the service finds room again")
            until(lambda: saved(disk) == 15, "everything is saved")
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            assert total(client)["count"] == 15


def test_start_and_stop_on_a_full_disk(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill(disk / "filling")
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            assert degraded(client) is not None
            classify(client, png, 2)
            assert total(client)["count"] == 2
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        assert "Traceback" not in process.log


def test_deleted_database_is_recreated(tiny_models_dir: Path, tmp_path: Path, png: bytes) -> None:
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        classify(client, png, 2)
        until(lambda: saved(tmp_path) == 2, "the first requests are saved")
        for file in tmp_path.glob(f"{FILE_NAME}*"):
            file.unlink()
        classify(client, png, 2)
        until(lambda: (tmp_path / FILE_NAME).exists(), "there is a database again")
        until(lambda: saved(tmp_path) >= 2, "it holds what was recorded since, and what was in memory")
        assert degraded(client) is None


@pytest.mark.parametrize("damage", ["text", "torn"])
def test_damaged_database_is_not_changed(
    tiny_models_dir: Path, tmp_path: Path, png: bytes, damage: str
) -> None:
    file = tmp_path / FILE_NAME
    if damage == "text":
        file.write_text("not a database, but precious to somebody\n" * 500)
    else:
        with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
            classify(client, png, 2)
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        content = bytearray(file.read_bytes())
        content[4096:] = os.urandom(len(content) - 4096)  # all but the first page
        file.write_bytes(content)
    content = bytearray(file.read_bytes())
    with service_process(tiny_models_dir, tmp_path) as process, process.client() as client:
        assert "damaged (move it away" in str(degraded(client))
        classify(client, png, 2)
        assert total(client)["count"] == 2
        assert "damaged" in client.get("/latency").json()["degraded"]
        assert file.read_bytes() == content
        # As the message says:
        file.rename(tmp_path / "damaged.db")
        until(lambda: degraded(client) is None, "a new database takes its place")
        until(lambda: saved(tmp_path) == 2, "with what was held in memory")
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert (tmp_path / "damaged.db").read_bytes() == content
