"""What an evaluation has computed so far, also kept in a file, so that it can go on after an interruption."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock, Timeout

from models.zoo.files import JsonLines
from models.zoo.machine import this_machine
from service.errors import Busy, error_words
from service.inference.session import RUNTIME_VERSION

_FLUSH_S = 1.0
"""Longest time for which outcomes are only in memory."""


class Progress:
    """Outcomes (JSON values) by picture and model, both identified by a hash of their content.

    A context manager that locks its file. There is one file per data set, runtime and instruction set,
    because other kernels round differently. A process that is killed loses at most the last second. If the
    file cannot be written, `problem` gives the reason and the outcomes are only in memory.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        """`folder`: where these files are, created if missing. `data`: the data set that is evaluated."""
        self._conditions = {
            "data": str(data.absolute()),
            "onnxruntime": RUNTIME_VERSION,
            "instruction_set": " ".join(this_machine().instruction_set),
        }
        name = hashlib.sha256(json.dumps(self._conditions).encode()).hexdigest()[:16]
        self.path = folder / f"progress-{name}.jsonl"
        self.problem: str | None = None
        """Reason why outcomes are not kept in the file."""
        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)
        self._lines: JsonLines | None = None
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        """Read what an earlier run kept. Raises Busy if another process evaluates the same data set."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
            self._lines = self._opened()
        except Timeout:
            raise Busy(f"{self._conditions['data']}: another process evaluates it (wait for it)") from None
        except (OSError, NotImplementedError) as error:
            self._give_up(error)
            return self
        for record in self._lines.records:
            self._outcomes.setdefault(record["picture"], {}).update(record["models"])
        self._lines.records.clear()
        return self

    def _opened(self) -> JsonLines:
        try:
            return JsonLines(self.path, self._conditions)
        except ValueError:  # damaged: its content can be computed again
            self.path.unlink()
            return JsonLines(self.path, self._conditions)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is not yet in the file, and release it."""
        self.flush()
        self._lock.release()

    def of(self, picture: str) -> Mapping[str, Any]:
        """Return the outcomes of the picture whose file has that SHA-256, by model."""
        return self._outcomes.get(picture, {})

    def add(self, picture: str, outcomes: Mapping[str, Any]) -> None:
        """Keep the outcomes of a picture by model. Call it from one thread."""
        if not outcomes:
            return
        self._outcomes[picture] = {**self.of(picture), **outcomes}  # a new dict: others read the old one
        if self._lines is not None:
            self._unwritten.append({"picture": picture, "models": dict(outcomes)})
            if time.monotonic() - self._flushed >= _FLUSH_S:
                self.flush()

    def flush(self) -> None:
        """Write the outcomes that are not yet in the file."""
        if self._lines is not None and self._unwritten:
            try:
                self._lines.append(*self._unwritten)
            except OSError as error:
                self._give_up(error)
            else:
                self._lines.records.clear()
                self._unwritten.clear()
        self._flushed = time.monotonic()

    def remove(self) -> None:
        """Delete the file: the evaluation is finished and kept elsewhere."""
        self._lines = None
        for path in (self.path, self.path.with_suffix(".lock")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _give_up(self, error: OSError | NotImplementedError) -> None:
        """Write nothing more: a line that was cut off must stay the last one."""
        words = error_words(error) if isinstance(error, OSError) else "file locks are not supported"
        self.problem = f"{self.path.parent}: {words}"
        self._lines = None
        self._unwritten.clear()
