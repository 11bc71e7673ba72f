"""Progress of an evaluation, saved in a file so that an interrupted evaluation can continue."""

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
"""Longest time, in normal operation, for which outcomes are only in memory."""


class Progress:
    """The outcomes (JSON values) of an evaluation so far, in a file and in memory.

    An outcome is found by its picture and its model, each of which is identified by a hash of its content.
    Use the object as a context manager, which locks the file. There is a file for each combination of data
    set, version of the runtime and instruction set, because another version or instruction set may compute
    slightly different outcomes. A process that is killed loses at most the outcomes of the last second. If
    the file cannot be written, `problem` gives the reason, and the outcomes are only in memory.
    """

    def __init__(self, folder: Path, data: Path) -> None:
        """Choose the file in `folder` for this data set, runtime and instruction set.

        `data`: path of the data set. On entering the context, a missing `folder` is created.
        """
        self._conditions = {
            "data": str(data.absolute()),
            "onnxruntime": RUNTIME_VERSION,
            "instruction_set": " ".join(this_machine().instruction_set),
        }
        name = hashlib.sha256(json.dumps(self._conditions).encode()).hexdigest()[:16]
        self.path = folder / f"progress-{name}.jsonl"
        self.problem: str | None = None
        """Reason why outcomes are not saved in the file. It is None if they are saved."""
        self._lock = FileLock(self.path.with_suffix(".lock"), thread_local=False)
        self._lines: JsonLines | None = None
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._unwritten: list[dict[str, Any]] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        """Lock the file and read the outcomes of an earlier run.

        Raises Busy if another process evaluates the same data set.
        """
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
        """Write the outcomes that are not yet in the file, and unlock it."""
        self.flush()
        self._lock.release()

    def of(self, picture: str) -> Mapping[str, Any]:
        """Return the outcomes of a picture, by the hash of the model.

        `picture`: SHA-256 of the picture's file.
        """
        return self._outcomes.get(picture, {})

    def add(self, picture: str, outcomes: Mapping[str, Any]) -> None:
        """Save the outcomes of a picture, by the hash of the model. Only one thread may call this."""
        if not outcomes:
            return
        self._outcomes[picture] = {**self.of(picture), **outcomes}  # a new dict: threads may read the old one
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
        """Delete the file, because the evaluation is finished and saved elsewhere."""
        self._lines = None
        for path in (self.path, self.path.with_suffix(".lock")):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def _give_up(self, error: OSError | NotImplementedError) -> None:
        """Store the error in `problem`, and write nothing more to the file.

        The failed write may have left an incomplete line. The next run can drop this line only if nothing
        was written after it.
        """
        words = error_words(error) if isinstance(error, OSError) else "file locks are not supported"
        self.problem = f"{self.path.parent}: {words}"
        self._lines = None
        self._unwritten.clear()
