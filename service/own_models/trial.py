"""Run a file for the first time: in a child process, with bounds on time and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import default_rng  # here, so that no child has to import it
from numpy.typing import NDArray

from service.errors import RefusedModel
from service.inference.registry import Registry
from service.inference.runtime_errors import one_line
from service.inference.runtimes.base import SessionError
from service.inference.session import run_as_written
from service.own_models.bounded import ChildFailed, TimeIsOver, ask, of_memory

_MOST_VALUES = 4096
"""Maximum number of values of an output that a run reports. They serve to compare two files."""
_MODULE = "service.own_models.trial"


@dataclass(frozen=True)
class Bounds:
    """Bounds of a trial, in which a child process loads and runs a file.

    `seconds`: wall-clock time for loading and running. `memory_bytes`: memory that the process may use in
    addition to Python, ONNX Runtime and four times the file's size. Memory is bounded on Linux only, where
    `/proc` tells how much the process uses already. `until`: deadline of several trials together, by
    `time.monotonic`. `own_group`: whether the child gets a process group of its own, which is killed as a
    whole. This must be False if this process is itself a bounded child: its child must be in the same group,
    so that both are killed together.
    """

    seconds: float = 60.0
    memory_bytes: int = 4 << 30
    until: float | None = None
    own_group: bool = True

    def from_now(self) -> Bounds:
        """Return bounds for several trials that together may take `seconds`, counted from now.

        If `self` has a deadline already, the returned bounds have the same one.
        """
        return self if self.until is not None else replace(self, until=time.monotonic() + self.seconds)

    @property
    def left(self) -> float:
        """Seconds that a trial may take if it starts now."""
        return self.seconds if self.until is None else min(self.seconds, self.until - time.monotonic())


@dataclass(frozen=True)
class Ran:
    """One output of a run on noise.

    `values`: its first 4096 values. `finite`: whether all values are finite. `low` and `high`: the smallest
    and the largest value. `sums_to_one`: whether each image has more than one value, none is negative, and
    they add up to 1.
    """

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
    """Noise input of a run: the input's name, its dtype, and its shape including the batch."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class TrialFailed(RefusedModel):
    """The file does not load, or does not run within its bounds. The message quotes the runtime."""


class OutOfTime(TrialFailed):
    """The file did not load and run within its time."""


def run_once(path: Path, feeds: Sequence[Feed], bounds: Bounds) -> list[tuple[Ran, ...]]:
    """Load the ONNX file at `path`, run it on noise for each of `feeds`, and return the outputs of each run.

    Raises TrialFailed.
    """
    answer = _child(
        {"kind": "run", "path": str(path.absolute()), "feeds": [asdict(feed) for feed in feeds]}, bounds, path
    )
    return [
        tuple(
            Ran(**output | {"shape": tuple(output["shape"]), "values": tuple(output["values"])})
            for output in run
        )
        for run in answer["runs"]
    ]


def serve_once(folder: Path, bounds: Bounds) -> None:
    """Load the model in `folder` as the service does, with card and labels, and run it to warm it up.

    Raises TrialFailed with the reason why the service would not serve the model.
    """
    model = next(folder.glob("*.onnx"), folder)
    _child({"kind": "serve", "folder": str(folder.absolute())}, bounds, model)


def _child(request: Mapping[str, Any], bounds: Bounds, model: Path) -> dict[str, Any]:
    """Send the request to a child process and return its answer. Raises TrialFailed if the child fails."""
    size = model.stat().st_size
    seconds = bounds.left
    try:
        said = ask(
            _MODULE, {**request, "seconds": seconds}, seconds=seconds,
            memory_bytes=bounds.memory_bytes + 4 * size, own_group=bounds.own_group,
        )  # fmt: skip
    except TimeIsOver:
        more = " (--time-limit allows more)" if bounds.own_group else ""
        raise OutOfTime(f"it does not load and run once within {bounds.seconds:g} s{more}") from None
    except ChildFailed as error:
        raise TrialFailed(str(error)) from None
    problem = said.get("error")
    if problem is not None:
        raise TrialFailed(of_memory(problem, bounds.memory_bytes))
    return said


def handle(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run the file of `request` in the child process, and return the answer for the parent process.

    If `request` names a model's folder instead of a file, load this model as the service does. The answer has
    the outputs, or the error.
    """
    try:
        return _run(request) if request["kind"] == "run" else _serve(request)
    except SessionError as error:
        return {"error": one_line(str(error))}
    except MemoryError:
        return {"error": "not enough memory"}


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
    random = default_rng(0)
    if dtype == "uint8":
        return random.integers(0, 256, shape, np.uint8)
    return random.normal(0, 1, shape).astype(dtype)


def _described(name: str, value: object) -> dict[str, Any]:
    """Return one output of a run as it is in the JSON answer: an object with the fields of `Ran`."""
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
