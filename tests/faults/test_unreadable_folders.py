"""Unreadable folders, such as lost+found on a separate volume."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_tiny_model
from tests.helpers.disks import needs_root
from tests.helpers.process import environment, service_process

pytestmark = pytest.mark.fault

WITHOUT_OVERRIDE = (
    "setpriv",
    "--bounding-set=-dac_override,-dac_read_search",
    "--inh-caps=-dac_override,-dac_read_search",
)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """Return a zoo with a model, a folder that cannot be listed, and one that cannot be entered."""
    needs_root("setpriv")
    make_tiny_model(tmp_path / "zoo", "tiny")
    (tmp_path / "zoo/lost+found").mkdir(mode=0o000)
    (tmp_path / "zoo/closed").mkdir()
    (tmp_path / "zoo/closed/card.json").write_text("{}")
    (tmp_path / "zoo/closed").chmod(0o444)
    return tmp_path / "zoo"


def weighin(zoo: Path, data_dir: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*WITHOUT_OVERRIDE, sys.executable, "-m", "service", *map(str, arguments)]
    return subprocess.run(
        command, env=environment(zoo, data_dir), capture_output=True, text=True, check=False
    )


def test_unreadable_folder_in_a_zoo(zoo: Path, tmp_path: Path) -> None:
    with (
        service_process(zoo, tmp_path / "data", prefix=WITHOUT_OVERRIDE) as process,
        process.client() as client,
    ):
        assert client.get("/readyz").json()["status"] == "ready"
        assert [model["name"] for model in client.get("/models").json()["models"]] == ["tiny"]
        for name in ("lost+found", "closed"):
            lines = [line for line in process.lines if "folder skipped" in line and f"zoo/{name}" in line]
            assert len(lines) == 1
            assert "permission denied" in lines[0]
    done = weighin(zoo, tmp_path / "data", "models")
    assert done.returncode == 0
    assert "tiny" in done.stdout


def test_unreadable_model_files(zoo: Path, tmp_path: Path) -> None:
    for name in ("card.json", "model.onnx", "labels.txt"):
        (make_tiny_model(zoo, f"no-{name}") / name).chmod(0o000)
    done = weighin(zoo, tmp_path / "data", "models")
    assert done.returncode == 0
    for words in ("card.json cannot be read", "model.onnx cannot be", "labels 'tiny-10' cannot"):
        assert words in " ".join(done.stdout.split())


def test_a_closed_zoo_is_named(zoo: Path, tmp_path: Path) -> None:
    zoo.chmod(0o000)
    for command in ("models", "serve"):
        done = weighin(zoo, tmp_path / "data", command)
        assert done.returncode == 1
        reason = f"folder {zoo} cannot be read: permission denied"
        assert done.stderr == f"weighin: WEIGHIN_MODEL_DIRS: {reason}\n"


def test_unreadable_photo_folders(zoo: Path, tmp_path: Path, png: bytes) -> None:
    photos = tmp_path / "photos"
    for name in ("open", "unlisted", "unentered"):
        (photos / name).mkdir(parents=True)
        (photos / name / "a.png").write_bytes(png)
    (photos / "unlisted").chmod(0o000)
    (photos / "unentered").chmod(0o444)
    done = weighin(zoo, tmp_path / "data", "gallery", "add", photos)
    assert done.returncode == 0
    assert "1 added" in done.stdout
    assert f"skipped: {photos}/unlisted: permission denied" in done.stderr
    assert f"skipped: {photos}/unentered/a.png: permission denied" in done.stderr
    photos.chmod(0o000)
    done = weighin(zoo, tmp_path / "data", "gallery", "add", photos)
    assert done.returncode == 1
    assert done.stderr == f"weighin: folder {photos} cannot be read: permission denied\n"
