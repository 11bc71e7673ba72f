"""`weighin bench` and `weighin bench compare`, run as processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.bench.archive import BenchmarkArchive
from service.bench.bundle import Flag
from service.bench.bundle_file import from_json, read_bundle, write_bundle
from service.state import open_state
from tests.helpers import command_line
from tests.helpers.process import environment
from tests.service.bench.bundles import bundle, fingerprint

pytestmark = pytest.mark.fault


def weighin(models_dir: Path, tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = environment(models_dir, tmp_path / "data") | {"COLUMNS": "80"}
    command = [sys.executable, "-m", "service", "bench", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)


def test_quick_run_of_one_model(tiny_models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    done = weighin(tiny_models_dir, tmp_path, "--models", "tiny", "--json", str(file))
    assert done.returncode == 0, done.stderr
    heading = done.stdout.splitlines()[0]
    for column in ("accuracy", "bytes", "MACs", "p50 ms", "p90 ms", "p99 ms", "images/s", "memory", "GMAC/s"):
        assert column in heading
    assert "n 576 < 662" in done.stdout  # a p99 withheld
    assert "baseline" in done.stdout
    assert "untrained: tiny has random weights" in done.stdout
    measured = read_bundle(file)
    assert len(measured.samples("tiny")) == 576
    with open_state(tmp_path / "data", None) as state:
        (kept,), unreadable = BenchmarkArchive(state.benchmarks).newest_bundles()
    assert kept.bundle == measured
    assert not unreadable
    assert not measured.flags_of("partial")


SHORT = ("--models", "tiny", "--launches", "1", "--rounds", "2", "--runs", "2", "--json", "-")


def test_bundle_on_standard_output(tiny_models_dir: Path, tmp_path: Path) -> None:
    done = weighin(tiny_models_dir, tmp_path, *SHORT)
    assert done.returncode == 0, done.stderr
    assert from_json(done.stdout).configuration.rounds == 2


def test_broken_pipe_after_a_measurement(tiny_models_dir: Path, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    env = environment(tiny_models_dir, tmp_path / "data")
    command = [sys.executable, "-m", "service", "bench", *SHORT]
    done = subprocess.run(command, env=env, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr.endswith("weighin: standard output: cannot be written: broken pipe\n")
    with open_state(tmp_path / "data", None) as state:
        (kept,), _ = BenchmarkArchive(state.benchmarks).newest_bundles()
    assert kept.bundle.configuration.rounds == 2


def test_ctrl_c_writes_a_partial_bundle(tiny_models_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    env = environment(tiny_models_dir, tmp_path / "data") | {"TTY_COMPATIBLE": "1", "FORCE_COLOR": "1"}
    command = [sys.executable, "-m", "service", "bench", "--profile", "standard", "--json", str(file)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stdout is not None
    with process.stderr, process.stdout:
        seen = b""
        while b"round 1" not in seen:
            chunk = os.read(process.stderr.fileno(), 4096)
            assert chunk, seen
            seen += chunk
        process.send_signal(signal.SIGINT)
        out = process.stdout.read()  # to its end: nothing that inherited the pipe is left
    assert process.wait() == 130
    assert b"partial" in out
    (flag,) = read_bundle(file).flags_of("partial")
    assert re.search(r"[0-4] of 5 launches are complete", flag.reason)  # a busy machine may have done one
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".json" and path.name != "data"] == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--models", "resnet"], "weighin: model 'resnet': unknown (allowed: tiny, tiny-b)"),
        (
            ["--scenario", "fast"],
            "weighin: scenario 'fast': unknown (allowed: single-stream, offline, server)",
        ),
        (["--scenario", "server", "--budget-ms", "0"], "weighin: budget_ms 0: out of range"),
        (["--threads", "two"], "weighin: --threads 'two': invalid (allowed: integers"),
        (["--input", "gone.jpg"], "weighin: input gone.jpg: cannot be read"),
        (["--json", "no/such/folder/run.json"], "folder not found"),
        (["--http", "http://127.0.0.1:9"], "weighin: service at 127.0.0.1:9: no response"),
    ],
)
def test_invalid_input_prints_one_line(
    tiny_models_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = command_line.weighin(tiny_models_dir, tmp_path / "data", "bench", *arguments)
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_exit_codes_of_compare(
    tiny_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    base = {"model-a": [[[1_000_000] * 8] * 5] * 4}
    write_bundle(tmp_path / "then.json", bundle(base))
    write_bundle(tmp_path / "now.json", bundle({"model-a": [[[1_300_000] * 8] * 5] * 4}))
    write_bundle(tmp_path / "elsewhere.json", bundle(base, on=fingerprint("Other CPU")))
    write_bundle(tmp_path / "void.json", bundle(base, flags=[Flag(kind="void", reason="no")]))

    def compare(one: str, other: str, *more: str) -> command_line.CommandResult:
        files = [str(tmp_path / one), str(tmp_path / other)]
        return command_line.weighin(tiny_models_dir, tmp_path / "data", "bench", "compare", *files, *more)

    slower = compare("then.json", "now.json")
    assert slower.returncode == 1
    assert "REGRESSED" in slower.stdout
    assert "+30.0%" in slower.stdout
    assert compare("now.json", "then.json").returncode == 0
    assert compare("then.json", "now.json", "--threshold", "0.5").returncode == 0

    refused = compare("then.json", "elsewhere.json")
    assert refused.returncode == 2
    assert "different machines" in refused.stderr
    labelled = compare("then.json", "elsewhere.json", "--across-machines")
    assert labelled.returncode == 0
    assert "DIFFERENT MACHINES" in labelled.stdout
    assert compare("then.json", "void.json").returncode == 2

    (tmp_path / "now.json").write_text((tmp_path / "now.json").read_text().replace("1300000", "1000000"))
    edited = compare("then.json", "now.json")
    assert edited.returncode == 2
    assert edited.stderr.startswith("weighin: now.json: changed after it was written")
    assert compare("then.json", "gone.json").returncode == 2
