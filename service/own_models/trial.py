"""Run a file for the first time: in a child process, with bounds on time and memory.

`service.own_models.trial`, run as a program, is the child: it reads one request from standard input, sets its
bounds, and writes one answer to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.child import child_command
from service.errors import RefusedModel
from service.inference.registry import Registry
from service.inference.runtime_errors import one_line
from service.inference.session import SessionError, run_as_written

_MOST_VALUES = 4096
"""Values of an output that are reported, to compare two files."""
_OUT_OF_MEMORY = ("bad alloc", "bad_alloc", "failed to allocate", "not enough memory", "out of memory")
_MODULE = "service.own_models.trial"


@dataclass(frozen=True)
class Bounds:
    """Bounds of one trial.

    `seconds` is wall-clock time for loading and running; `memory_bytes` is what the process may take beyond
    Python and ONNX Runtime and four times the file. Memory is bounded on Linux only, where `/proc` says how
    much the process has already.
    """

    seconds: float = 60.0
    memory_bytes: int = 4 << 30


@dataclass(frozen=True)
class Ran:
    """One output of a run on noise. `values`: the first 4096; `finite`: every value is."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    finite: bool
    low: float
    high: float
    sums_to_one: bool
    values: tuple[float, ...]


@dataclass(frozen=True)
class Feed:
    """The noise to run a file on: the input's name, dtype, and its shape with the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TrialFailed(RefusedModel):
    """The file does not load or run within its bounds; the message has the runtime's own words."""


def run_once(path: Path, feeds: Sequence[Feed], bounds: Bounds) -> list[tuple[Ran, ...]]:
    """Load the ONNX file at `path` and run it on noise for each of `feeds`; return the outputs of each run.

    Raises TrialFailed.
    """
    answer = _child(
        {"kind": "run", "path": str(path), "feeds": [asdict(feed) for feed in feeds]}, bounds, path
    )
    return [
        tuple(
            Ran(**output | {"shape": tuple(output["shape"]), "values": tuple(output["values"])})
            for output in run
        )
        for run in answer["runs"]
    ]


def serve_once(folder: Path, bounds: Bounds) -> None:
    """Load the model in `folder` as the service does, card and labels included, and warm it up.

    Raises TrialFailed with the reason why the service would not serve it.
    """
    model = next(folder.glob("*.onnx"), folder)
    _child({"kind": "serve", "folder": str(folder), "seconds": bounds.seconds}, bounds, model)


def _child(request: Mapping[str, Any], bounds: Bounds, model: Path) -> dict[str, Any]:
    """Start the child, wait for its answer, and make sure that it has ended."""
    memory = bounds.memory_bytes + 4 * model.stat().st_size
    body = json.dumps({**request, "memory_bytes": memory, "cpu_s": int(bounds.seconds) + 5}).encode()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            child_command(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C on the terminal is for the parent, which then ends the child
        )
        try:
            out, _ = process.communicate(body, timeout=bounds.seconds)
        except subprocess.TimeoutExpired:
            raise TrialFailed(
                f"it does not load and run once within {bounds.seconds:g} s (--time-limit allows more)"
            ) from None
        finally:
            process.kill()
            process.communicate()  # waits, and closes the pipes
        try:
            answer: dict[str, Any] = json.loads(out)
        except ValueError:
            raise TrialFailed(_ended(process.returncode, errors, bounds)) from None
    error = answer.get("error")
    if error is not None:
        if any(words in error.lower() for words in _OUT_OF_MEMORY):
            error = f"it needs more than {_gigabytes(bounds.memory_bytes)} of memory: {error}"
        raise TrialFailed(error)
    return answer


def _ended(code: int, errors: Any, bounds: Bounds) -> str:
    """Say how a child ended that gave no answer."""
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 2000))
    said = errors.read().decode(errors="replace").strip().splitlines()
    last = one_line(said[-1]) if said else ""
    if any(words in last.lower() for words in (*_OUT_OF_MEMORY, "memoryerror")):
        return f"it needs more than {_gigabytes(bounds.memory_bytes)} of memory: {last}"
    if code < 0:
        with contextlib.suppress(ValueError):
            last = f"{signal.Signals(-code).name}{', ' + last if last else ''}"
        return f"the process that ran it was ended ({last})"
    return f"the process that ran it ended with {code} ({last})"


def _gigabytes(count: int) -> str:
    return f"{count / (1 << 30):.3g} GiB"


def main() -> None:
    """Answer one request; the child's whole life."""
    request = json.loads(sys.stdin.buffer.read())
    # What libraries print must not come between the answer's lines.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _bound(request["memory_bytes"], request["cpu_s"])
    try:
        answer = _run(request) if request["kind"] == "run" else _serve(request)
    except SessionError as error:
        answer = {"error": one_line(str(error))}
    except MemoryError:
        answer = {"error": "not enough memory"}
    json.dump(answer, answers)
    answers.flush()
    os._exit(0)  # without the destructors of a model that may have done anything


def _bound(memory_bytes: int, cpu_s: int) -> None:
    """Bound this process: memory beyond what it has by now, processor time, no core file."""
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        _lower(resource, resource.RLIMIT_AS, limit)
    _lower(resource, resource.RLIMIT_CPU, cpu_s)
    _lower(resource, resource.RLIMIT_CORE, 0)


def _lower(resource: Any, kind: int, limit: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (limit, limit))


def _run(request: Mapping[str, Any]) -> dict[str, Any]:
    feeds = [{feed["name"]: _noise(feed["dtype"], feed["shape"])} for feed in request["feeds"]]
    runs = run_as_written(Path(request["path"]).read_bytes(), feeds)
    return {"runs": [[_described(name, value) for name, value in run.items()] for run in runs]}


def _serve(request: Mapping[str, Any]) -> dict[str, Any]:
    folder = Path(request["folder"])
    registry = Registry([folder.parent], folder.name, warm_up_limit_s=request["seconds"])
    registry.load()
    return {"error": registry.entry(folder.name).problem}


def _noise(dtype: str, shape: Sequence[int]) -> NDArray[Any]:
    random = np.random.default_rng(0)
    if dtype == "uint8":
        return random.integers(0, 256, shape, np.uint8)
    return random.normal(0, 1, shape).astype(dtype)


def _described(name: str, value: object) -> dict[str, Any]:
    """Describe one output for the answer."""
    if not isinstance(value, np.ndarray):
        kind = "sequence" if isinstance(value, list) else type(value).__name__
        return _output(name, kind, ())
    if value.dtype.kind != "f" or value.size == 0:
        return _output(name, str(value.dtype), value.shape)
    with np.errstate(all="ignore"):
        numbers = value.astype(np.float64)
        finite = bool(np.isfinite(numbers).all())
        rows = numbers.reshape(len(value), -1) if value.ndim else numbers.reshape(1, 1)
        sums = bool(
            finite
            and rows.shape[1] > 1
            and (rows >= 0).all()
            and (np.abs(rows.sum(axis=1) - 1) <= 1e-3).all()
        )
        return _output(
            name, str(value.dtype), value.shape, finite, sums, numbers.ravel()[:_MOST_VALUES].tolist(),
            float(np.nan_to_num(numbers).min()), float(np.nan_to_num(numbers).max()),
        )  # fmt: skip


def _output(
    name: str,
    dtype: str,
    shape: Sequence[int],
    finite: bool = True,
    sums_to_one: bool = False,
    values: Sequence[float] = (),
    low: float = 0.0,
    high: float = 0.0,
) -> dict[str, Any]:
    return {
        "name": name, "dtype": dtype, "shape": list(shape), "finite": finite, "sums_to_one": sums_to_one,
        "values": [value if np.isfinite(value) else 0.0 for value in values], "low": low, "high": high,
    }  # fmt: skip


if __name__ == "__main__":
    main()
