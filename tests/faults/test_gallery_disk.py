"""The gallery on full and read-only disks, and syncing of acknowledged images."""

from __future__ import annotations

import re
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.faults.test_storage_faults import degraded
from tests.helpers.disks import fill, needs_root, small_disk
from tests.helpers.problems import assert_problem
from tests.helpers.process import service_process
from tests.helpers.until import until
from tests.service.gallery.pictures import blobs

pytestmark = pytest.mark.fault


def put(client: httpx.Client, number: int) -> httpx.Response:
    return client.put(f"/gallery/images/image-{number}", content=blobs(number))


def ids(client: httpx.Client) -> list[str]:
    return [image["id"] for image in client.get("/gallery/images").raise_for_status().json()["images"]]


def found(client: httpx.Client, number: int) -> tuple[str, str | None]:
    """Return id and duplicate kind of the image most similar to picture `number`."""
    match = (
        client.post("/retrieve-similar?k=1", content=blobs(number)).raise_for_status().json()["matches"][0]
    )
    return match["id"], match["duplicate"]


def test_gallery_on_a_full_disk(tiny_models_dir: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            for number in range(4):
                assert put(client, number).status_code == 201
            fill(disk / "filling")
            number, refused = 4, None
            while refused is None:  # there may be room in pages that the database has already
                response = put(client, number)
                if response.status_code != 201:
                    refused = response
                else:
                    number += 1
                assert number < 200, "the disk is not full"
            assert_problem(refused, 507, "storage-unavailable", "disk: full")
            kept = [f"image-{each}" for each in range(number)]
            assert sorted(ids(client)) == sorted(kept)
            assert found(client, 3) == ("image-3", "exact")
            assert client.get("/gallery/images/image-0/content").content == blobs(0)
            assert client.post("/classify", content=blobs(0)).status_code == 200
            (disk / "filling").unlink()
            until(lambda: put(client, number).status_code in (200, 201), "there is room again")
            assert client.delete("/gallery/images/image-0").status_code == 204
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0
            assert "Traceback" not in process.log
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            assert sorted(ids(client)) == sorted([*kept[1:], f"image-{number}"])
            assert found(client, number) == (f"image-{number}", "exact")


def test_gallery_on_a_read_only_disk(tiny_models_dir: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            for number in range(3):
                assert put(client, number).status_code == 201
            process.popen.send_signal(signal.SIGTERM)
            assert process.wait() == 0
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = {file.name: file.read_bytes() for file in disk.rglob("*") if file.is_file()}
        with service_process(tiny_models_dir, disk) as process, process.client() as client:
            assert "read-only" in str(degraded(client))
            # SQLite cannot read a database with a write-ahead log where it cannot write.
            for response in (
                put(client, 9),
                client.delete("/gallery/images/image-1"),
                client.post("/gallery/reindex?model=tiny-b"),
                client.post("/retrieve-similar", content=blobs(1)),
                client.get("/gallery/images"),
            ):
                assert_problem(response, 507, "storage-unavailable", "data directory", "written")
            assert client.post("/classify", content=blobs(0)).status_code == 200
            assert {file.name: file.read_bytes() for file in disk.rglob("*") if file.is_file()} == before
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            until(lambda: put(client, 9).status_code in (200, 201), "the disk is written again")
            assert len(ids(client)) == 4
            assert found(client, 1) == ("image-1", "exact")
            until(lambda: degraded(client) is None, "the service finds the disk writable")


def test_an_image_is_synced_before_it_is_acknowledged(tiny_models_dir: Path, tmp_path: Path) -> None:
    needs_root("strace")
    trace = tmp_path / "trace"
    calls = "trace=fsync,fdatasync,read,recvfrom,write,writev,sendto,sendmsg"
    strace = ("strace", "--daemonize", "--follow-forks", "-y", "-s", "40", "-e", calls, "-o", str(trace))
    with (
        service_process(tiny_models_dir, tmp_path / "data", prefix=strace) as process,
        process.client() as client,
    ):
        for number in range(20):
            assert put(client, number).status_code == 201
        for number in range(20):
            assert client.delete(f"/gallery/images/image-{number}").status_code == 204
        process.popen.send_signal(signal.SIGTERM)
        process.wait()
    begun = syncing = False
    synced: list[bool] = []
    done = False
    for line in trace.read_text(errors="replace").splitlines():
        if re.search(r'"(PUT|DELETE) /gallery/images/', line):
            begun, syncing, done = True, False, False
        elif begun and re.search(r"\bf(data)?sync\(\d+<[^>]*weighin\.db-wal>\) += 0", line):
            done = True
        elif begun and re.search(r"\bf(data)?sync\(\d+<[^>]*weighin\.db-wal> <unfinished", line):
            syncing = True
        elif begun and syncing and re.search(r"<\.\.\. f(data)?sync resumed>\) += 0", line):
            done = True
        elif begun and re.search(r'"HTTP/1\.1 20[14]', line):
            synced.append(done)
            begun = False
    assert synced == [True] * 40
