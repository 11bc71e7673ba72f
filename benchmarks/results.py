"""Results of a study as JSON lines, appended step by step, so that it can be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models.zoo.files import JsonLines

PLACE = Path(__file__).parent / "instrument" / "results.jsonl"
"""Of the proof of the instrument; other studies have a file of their own."""

Record = dict[str, Any]


class Results:
    """The file of results; each line is one record with its `kind`."""

    def __init__(self, path: Path = PLACE) -> None:
        self._path = path

    def append(self, kind: str, **fields: Any) -> None:
        """Add a record and make sure that it is on the disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        JsonLines(self._path).append({"kind": kind, **fields})

    def of(self, kind: str) -> list[Record]:
        """Every record of that kind, the oldest first."""
        return [record for record in JsonLines(self._path).records if record["kind"] == kind]

    def last(self, kind: str) -> Record | None:
        """The newest record of that kind."""
        found = self.of(kind)
        return found[-1] if found else None
