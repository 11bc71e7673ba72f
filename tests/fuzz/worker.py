"""Worker of a run: forks a child that runs inputs, and a new child if it crashes."""

from __future__ import annotations

import ctypes
import faulthandler
import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tests.fuzz import measure
from tests.fuzz.checks import Breach, Checker
from tests.fuzz.generate import Generator, Input

_DEBUG_MALLOC = "libc_malloc_debug.so.0"
_ADDRESS_SPACE = 1 << 30
_CPU_S = 20.0
_WALL_S = 120.0
# A child is replaced after this many inputs, to limit leaks; a crash costs one fork.
_INPUTS_OF_A_CHILD = 2000
_DONE, _BROKE, _CRASHED = 0, 3, 99
_PR_SET_PDEATHSIG = 1

OUTCOMES = (
    *(
        "decoded jpeg",
        "decoded png",
        "decoded webp",
        "decoded gif",
        "decoded bmp",
        "decoded tiff",
        "decoded avif",
    ),
    *("undecodable-image", "too-many-pixels", "unknown-image-type", "empty-body"),
    *("form complete", "form malformed", "card read", "card refused", "finding"),
)


def environment() -> dict[str, str]:
    """Return the environment of a worker: glibc checks the heap and returns freed memory to the system."""
    settings = {
        "MALLOC_CHECK_": "3",
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_THRESHOLD_": "131072",
        "MALLOC_TRIM_THRESHOLD_": "131072",
        "NUMPY_MADVISE_HUGEPAGE": "0",
        "PYTHONFAULTHANDLER": "0",
    }
    # Since glibc 2.34 the checks are in a separate library.
    trial = subprocess.run(
        [sys.executable, "-c", ""],
        env=os.environ | {"LD_PRELOAD": _DEBUG_MALLOC},
        capture_output=True,
        check=False,
    )
    if not trial.stderr:
        settings["LD_PRELOAD"] = _DEBUG_MALLOC
    return dict(os.environ) | settings


def _status_of_fork(run: Callable[[], None], stderr: int) -> int:
    """Run a function in a child with output to file descriptor `stderr`; return the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker handles Ctrl-C and kills the child
            os.dup2(stderr, 2)
            os.dup2(stderr, 1)
            run()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(_CRASHED)
    try:
        return os.waitpid(pid, 0)[1]
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


class Progress:
    """Progress of a worker in a file that survives a crash: next input, and number of inputs per outcome."""

    _FIELDS = ("next", "heap checked", "simplejpeg calls", *OUTCOMES)

    def __init__(self, path: Path, first: int) -> None:
        if not path.exists():
            np.array([first] + [0] * (len(self._FIELDS) - 1), np.int64).tofile(path)
        self._values = np.memmap(path, np.int64, "r+", shape=(len(self._FIELDS),))

    def __getitem__(self, field: str) -> int:
        return int(self._values[self._FIELDS.index(field)])

    def __setitem__(self, field: str, value: int) -> None:
        self._values[self._FIELDS.index(field)] = value

    @property
    def done(self) -> int:
        """Number of inputs with an outcome."""
        return int(self._values[-len(OUTCOMES) :].sum())


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that crashed a child or broke a rule, saved as `.json` beside the input's `.bin`."""

    seed: int
    index: int
    target: str
    origin: str
    reason: str

    def save(self, folder: Path, item: Input) -> None:
        """Write `<index>.json` and `<index>.bin`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{self.index:08d}.bin").write_bytes(item.data)
        parameters = {key: value for key, value in asdict(item).items() if key != "data"}
        again = f"python -m tests.fuzz --seed {self.seed} --only {self.index}"
        facts = asdict(self) | {"again": again, "parameters": parameters}
        (folder / f"{self.index:08d}.json").write_text(json.dumps(facts, indent=2) + "\n")


class Worker:
    """Runs the inputs `number`, `number + step`, ... below `end`, starting at its saved progress."""

    def __init__(
        self, folder: Path, seed: int, number: int, step: int, end: int, checker: Checker | None = None
    ) -> None:
        self._folder, self._seed, self._step, self._end = folder, seed, step, end
        self._checker = checker or Checker(folder / f"card-{number}")
        self._progress = Progress(folder / f"progress-{number}", number)
        self._messages = os.open(
            folder / f"messages-{number}", os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_TRUNC
        )
        self._current = os.open(folder / f"current-{number}", os.O_RDWR | os.O_CREAT)
        self._generator = Generator(seed)

    def run(self) -> None:
        """Run until the last input has an outcome."""
        self._progress["heap checked"] = int(measure.heap_is_checked())
        while self._progress["next"] < self._end:
            status = _status_of_fork(self._run_inputs, self._messages)
            if os.WIFSIGNALED(status):
                self._record_crash(f"killed by {signal.Signals(os.WTERMSIG(status)).name}")
            elif os.WEXITSTATUS(status) not in (_DONE, _BROKE):
                self._record_crash(f"exit {os.WEXITSTATUS(status)}")

    def run_one(self, index: int) -> str | None:
        """Run one input in a child; return the reason of a finding, or None."""
        self._progress["next"], self._step, self._end = index, 1, index + 1
        self.run()
        path = self._folder / "findings" / f"{index:08d}.json"
        return str(json.loads(path.read_text())["reason"]) if path.exists() else None

    def _run_inputs(self) -> None:
        """Run inputs in this child process, until a finding or _INPUTS_OF_A_CHILD inputs."""
        limit_this_process()
        calls = self._checker.guarded_calls
        for _ in range(_INPUTS_OF_A_CHILD):
            index = self._progress["next"]
            if index >= self._end:
                break
            item = self._generator.input(index)
            self._save_current(item)
            # By default, these signals end the process.
            signal.setitimer(signal.ITIMER_PROF, _CPU_S)
            signal.setitimer(signal.ITIMER_REAL, _WALL_S)
            try:
                outcome = self._checker.check(item)
            except Breach as breach:
                Finding(self._seed, index, item.target, item.origin, str(breach)).save(self._findings, item)
                outcome = "finding"
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._progress[outcome] += 1
            self._progress["next"] = index + self._step
            self._progress["simplejpeg calls"] += self._checker.guarded_calls - calls
            calls = self._checker.guarded_calls
            if outcome == "finding":
                os._exit(_BROKE)
        os._exit(_DONE)

    @property
    def _findings(self) -> Path:
        return self._folder / "findings"

    def _save_current(self, item: Input) -> None:
        os.ftruncate(self._messages, 0)
        os.ftruncate(self._current, 0)
        os.pwrite(self._current, item.data, 0)

    def _record_crash(self, how: str) -> None:
        """Save the child's current input and its last output as a finding, and skip the input."""
        index = self._progress["next"]
        item = self._generator.input(index)
        saved = os.pread(self._current, os.fstat(self._current).st_size, 0)
        if saved != item.data:
            raise RuntimeError(f"input {index}: differs from the input saved before the crash ({how})")
        output = os.pread(self._messages, 1 << 20, 0).decode(errors="replace")[-3000:]
        reason = f"{how}\n{output}".rstrip()
        Finding(self._seed, index, item.target, item.origin, reason).save(self._findings, item)
        self._progress["finding"] += 1
        self._progress["next"] = index + self._step


def limit_this_process() -> None:
    """Limit memory, disable core files and warnings, print tracebacks of crashes on standard error."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    space = pages * mmap.PAGESIZE + _ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (space, space))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Run `python -m tests.fuzz.worker FOLDER SEED NUMBER STEP END`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    folder, seed, number, step, end = sys.argv[1:]
    try:
        Worker(Path(folder), int(seed), int(number), int(step), int(end)).run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
