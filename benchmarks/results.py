"""Results of a study as JSON lines. They are appended step by step, so that the study can be resumed."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from models.zoo.files import JsonLines
from service.bench.fingerprint import take_fingerprint
from service.inference.runtimes.opening import runtime_version

INSTRUMENT = Path(__file__).parent / "instrument" / "results.jsonl"
"""File with the results of benchmarks.instrument. Other studies have files of their own."""

Record = dict[str, Any]


class Results:
    """A file of results. Each line is a record, which has a `kind`."""

    def __init__(self, path: Path = INSTRUMENT) -> None:
        self._path = path

    def append(self, kind: str, **fields: Any) -> None:
        """Append a record and wait until it is on disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        JsonLines(self._path).append({"kind": kind, **fields})

    def of(self, kind: str) -> list[Record]:
        """Return all records of a kind, oldest first."""
        return [record for record in JsonLines(self._path).records if record["kind"] == kind]

    def last(self, kind: str) -> Record | None:
        """Return the newest record of a kind, or None."""
        records = self.of(kind)
        return records[-1] if records else None

    def record_machine(self) -> None:
        """Append a record of the machine and of the measured versions, unless the file already has it."""
        if self.last("machine") is None:
            machine = take_fingerprint({}, {}).machine
            self.append(
                "machine",
                cpu=machine.cpu_model,
                cores=machine.cores,
                onnxruntime=runtime_version("onnxruntime"),
                python=platform.python_version(),
            )
