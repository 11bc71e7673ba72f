"""The data directory belongs to one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.errors import DataDirectoryInUse, StorageUnavailable
from service.state import open_state
from service.storage.directory import DataDirectory

HOLD = """
import sys
from pathlib import Path
from service.storage.directory import DataDirectory
with DataDirectory(Path(sys.argv[1]), "http://127.0.0.1:8123"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_directory_is_created_with_parents(tmp_path: Path) -> None:
    with DataDirectory(tmp_path / "a" / "b") as directory:
        assert directory.path.is_dir()
        assert directory.problem is None


def test_second_process_gets_the_owner(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirectoryInUse) as caught, DataDirectory(tmp_path):
            pass
        assert f"process {holder.pid}, since 2" in caught.value.detail
        assert "serving at http://127.0.0.1:8123" in caught.value.detail
        assert str(tmp_path) not in caught.value.detail
        holder.communicate("")
    with DataDirectory(tmp_path) as directory:
        assert directory.problem is None


def test_lock_without_an_owner_file(tmp_path: Path) -> None:
    with DataDirectory(tmp_path):
        (tmp_path / "weighin.owner.json").write_text("{")
        with pytest.raises(DataDirectoryInUse, match="in use by another process"):
            DataDirectory(tmp_path).__enter__()


def test_lock_of_a_killed_owner_is_released(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        os.kill(holder.pid, 9)
        holder.wait()
    with DataDirectory(tmp_path) as directory:
        assert directory.problem is None


def test_impossible_path_is_a_problem_not_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with DataDirectory(tmp_path / "file") as directory:
        assert directory.problem is not None
        assert "cannot be written" in directory.problem
        assert str(tmp_path) not in directory.problem
    assert (tmp_path / "file").read_text() == "mine"


def test_claim_succeeds_once_possible(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with open_state(tmp_path / "data", None) as state:
        with pytest.raises(StorageUnavailable, match="data directory: cannot be written"):
            state.latencies.ensure_open()
        (tmp_path / "data").unlink()
        assert state.latencies.ensure_open()
        with pytest.raises(DataDirectoryInUse):
            DataDirectory(tmp_path / "data").__enter__()


def test_nothing_is_written_after_losing_the_directory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with open_state(tmp_path / "data", None) as state:
        (tmp_path / "data").unlink()
        with DataDirectory(tmp_path / "data"):
            with pytest.raises(StorageUnavailable, match="in use by process"):
                state.latencies.ensure_open()
            assert "in use by process" in str(state.problem)


def test_invalid_database_url_releases_the_directory(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="WEIGHIN_DATABASE_URL") as caught:
        open_state(tmp_path, "nonsense://user:secret@host/db")
    assert "secret" not in caught.value.detail
    with open_state(tmp_path, None) as state:
        assert state.problem is None
