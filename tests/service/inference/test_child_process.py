"""Child processes run this program, whatever the working directory holds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.bench.job_process import JOB
from service.bench.measure.process import WORKER
from service.inference.child_process import child_command
from service.own_models.add import Options, add
from tests.helpers.foreign import save

FOREIGN = "from pathlib import Path\nPath({marker!r}).touch()\n"


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is made when a package of the working directory is run."""
    made = tmp_path / "ran"
    for package in ("models", "service", "numpy", "onnx"):
        (tmp_path / "cwd" / package).mkdir(parents=True)
        (tmp_path / "cwd" / package / "__init__.py").write_text(FOREIGN.format(marker=str(made)))
    monkeypatch.chdir(tmp_path / "cwd")
    return made


def test_a_file_is_added_in_a_folder_with_packages_of_these_names(marker: Path, tmp_path: Path) -> None:
    added = add(save(tmp_path / "given" / "net.onnx"), Options(name="m"), to=tmp_path / "zoo")
    assert added.card.name == "m"
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.parametrize("module", [JOB, WORKER])
def test_a_benchmark_runs_nothing_of_the_working_directory(module: str, marker: Path) -> None:
    done = subprocess.run(child_command(module), input=b"nonsense\n", capture_output=True, check=False)
    assert done.returncode != 0
    assert b"No module" not in done.stderr
    assert not marker.exists()


def test_sources_that_are_not_installed_are_found(marker: Path) -> None:
    """As `python -m service` finds them, in their own folder; site-packages are left out here."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", *child_command("models.zoo.display")[1:]]
    subprocess.run(command, env=environment, check=True)
    assert not marker.exists()
