"""The harness detects overflows, crashes and costs, and resumes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.generate import Generator
from tests.fuzz.guard import GuardedPages, Overflow
from tests.fuzz.measure import Meter
from tests.fuzz.worker import OUTCOMES, Progress, environment
from tests.helpers.until import until

pytestmark = pytest.mark.fuzz

LOSSLESS = """
import random
from tests.fuzz.guard import GuardedSimplejpeg
from tests.fuzz.jpeg_files import lossless_jpeg
decode = GuardedSimplejpeg(1_000_000, 1_000_000)
data = lossless_jpeg(random.Random(1), 64, 64)
assert decode(data, "RGB").shape == (64, 64, 3)
print("whole", flush=True)
decode(data, "RGB", min_height=8, min_width=8)
print("scaled", flush=True)
"""


def run_python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process with the environment of a worker."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment() | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_write_past_a_guarded_buffer() -> None:
    code = """
import ctypes
from tests.fuzz.guard import GuardedPages
buffer = GuardedPages(100_000).take({size})
ctypes.memset(buffer.ctypes.data, 1, {size})
print("within", flush=True)
ctypes.memset(buffer.ctypes.data + {size}, 1, 1)
"""
    for size in (1, 4096, 99_999):
        done = run_python(code.format(size=size))
        assert (done.stdout, done.returncode) == ("within\n", -signal.SIGSEGV)


def test_write_before_a_guarded_buffer() -> None:
    pages = GuardedPages(10_000)
    buffer = pages.take(5000)
    buffer[:] = 1
    pages.check()
    before = buffer.ctypes.data - pages._pages.ctypes.data - 1
    pages._pages[before] = 1
    with pytest.raises(Overflow, match="1 bytes before the buffer were written to, from -1 on"):
        pages.check()


def test_overflow_of_libjpeg_turbo_3_1_2() -> None:
    """simplejpeg writes a lossless JPEG at full size even if it should scale it; adapt this after a fix."""
    done = run_python(LOSSLESS)
    assert done.stdout == "whole\n"
    assert done.returncode == -signal.SIGSEGV


def test_heap_checks_where_glibc_has_them() -> None:
    code = "from tests.fuzz.measure import heap_is_checked; print(heap_is_checked())"
    assert run_python(code).stdout.strip() == str("LD_PRELOAD" in environment())


def test_fill_of_fresh_memory() -> None:
    code = """
import numpy as np
from tests.fuzz.measure import fill_fresh_memory_with
for byte in (0xA5, 0x11):
    fill_fresh_memory_with(byte)
    assert (np.empty(5000, np.uint8)[16:] == byte).all()
"""
    assert run_python(code).stderr == ""


def test_released_memory_counts_again() -> None:
    code = """
from tests.fuzz.measure import Meter
for size in (5_000_000, 50_000_000, 50_000_000, 10_000_000):
    with Meter() as meter:
        bytes([1]) * size
    assert abs(meter.peak_bytes - size) < 1_000_000, (size, meter.peak_bytes)
"""
    assert run_python(code).stderr == ""


def test_meter_measures_cpu_time() -> None:
    with Meter() as meter:
        sum(range(1_000_000))
    assert 0.001 < meter.cpu_s < 5


def test_costs_above_a_bound_are_breaches(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from tests.fuzz.checks import Breach, Checker
from tests.fuzz.generate import Input
from tests.fuzz.measure import Bound
from tests.fuzz.seeds import load_seeds
name = "png flat RGB {}"
item = Input(0, "image", name, load_seeds()[name], shorter_side=8)
for memory, cpu in ((3, 1), (1e-3, 1), (3, 1e-15)):
    try:
        print(Checker(Path(sys.argv[1]), Bound(2e6, memory * 10, 0), Bound(0, cpu, 0)).check(item))
    except Breach as breach:
        print(str(breach).split(":")[0])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split("\n"), done.stderr) == (["decoded png", "memory", "time", ""], "")


def test_crash_is_a_finding_and_the_run_continues(tmp_path: Path) -> None:
    code = """
import ctypes, os, signal, sys
from pathlib import Path
from tests.fuzz.checks import Breach
from tests.fuzz.worker import Worker

class Fatal:
    guarded_calls = 0
    def check(self, item):
        if item.index == 3:
            ctypes.string_at(0)
        if item.index == 5:
            raise Breach("a rule")
        if item.index == 6:
            raise KeyError("a fault of the harness")
        return "decoded png"

Worker(Path(sys.argv[1]), 1, 0, 1, 9, Fatal()).run()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment(), check=True)
    progress = Progress(tmp_path / "progress-0", 0)
    assert (progress["next"], progress["decoded png"], progress["finding"]) == (9, 6, 3)
    reasons = {
        int(path.stem): json.loads(path.read_text())["reason"]
        for path in (tmp_path / "findings").glob("*.json")
    }
    assert reasons.keys() == {3, 5, 6}
    assert reasons[3].startswith("killed by SIGSEGV")
    assert "string_at" in reasons[3]
    assert reasons[5] == "a rule"
    assert "a fault of the harness" in reasons[6]
    for index in reasons:
        saved = (tmp_path / "findings" / f"{index:08d}.bin").read_bytes()
        assert saved == Generator(1).input(index).data


def command(folder: Path, *more: str) -> list[str]:
    """Return the command line of a run in `folder`."""
    return [sys.executable, "-m", "tests.fuzz", "--folder", str(folder), "--workers", "1", *more]


@pytest.mark.fault
def test_killed_run_resumes(tmp_path: Path) -> None:
    arguments = command(tmp_path, "--inputs", "600", "--seed", "3")
    state = tmp_path / "run-3" / "progress-0"
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL) as process:
        until(
            lambda: state.exists() and state.stat().st_size > 0 and Progress(state, 0).done > 20,
            "some are done",
        )
        process.kill()
    before = Progress(state, 0).done
    assert before < 600
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("resuming the last run\n")
    assert "600 inputs in" in done.stdout
    assert done.stderr == ""
    counts = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert sum(int(line[0]) for line in counts if len(line) == 2 and line[1] in OUTCOMES) == 600


@pytest.mark.fault
def test_ctrl_c(tmp_path: Path) -> None:
    arguments = command(tmp_path, "--inputs", "100000", "--seed", "3")
    state = tmp_path / "run-3" / "progress-0"
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        until(
            lambda: state.exists() and state.stat().st_size > 0 and Progress(state, 0).done > 20,
            "some are done",
        )
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert process.returncode == 130
    assert output.endswith("stopped; run the same command to resume\n")


def test_run_of_one_input(tmp_path: Path) -> None:
    done = subprocess.run(
        command(tmp_path, "--seed", "3", "--only", "11"), capture_output=True, text=True, check=False
    )
    assert (tmp_path / "only" / "3-11" / "current-0").read_bytes() == Generator(3).input(11).data
    assert done.stdout.endswith("no finding\n")
    assert done.returncode == 0
