"""Results as JSON lines, appended one experiment's step at a time, so that a proof can be resumed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PLACE = Path(__file__).parent.parent / "results" / "instrument.jsonl"

Record = dict[str, Any]


class Results:
    """The file of results; each line is one record with its `kind`."""

    def __init__(self, path: Path = PLACE) -> None:
        self._path = path

    def append(self, kind: str, **fields: Any) -> None:
        """Add a record and make sure that it is on the disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a") as file:
            file.write("\n" * cut_off + json.dumps({"kind": kind, **fields}) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def of(self, kind: str) -> list[Record]:
        """Every record of that kind, the oldest first. A line that a crash cut off is passed over."""
        return [record for record in self._all() if record["kind"] == kind]

    def last(self, kind: str) -> Record | None:
        """The newest record of that kind."""
        found = self.of(kind)
        return found[-1] if found else None

    def _all(self) -> Iterator[Record]:
        if not self._path.exists():
            return
        for line in self._path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue
