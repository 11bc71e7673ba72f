"""Finished rounds of a measurement in a file, one line each, that survives being killed at any moment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from models.export.to_onnx import write_whole


class Rounds:
    """`finished` holds the rounds that `path` has; `append` adds one, on disk before it returns.

    The first line says under which conditions all rounds were measured. A last line that is not whole, or not
    ended, is a round that was cut off: it is dropped.
    Raises ValueError where `path` holds rounds of other conditions, or a damaged line that is not the last.
    """

    def __init__(self, path: Path, conditions: dict[str, Any]) -> None:
        self._path = path
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        lines = whole.splitlines()
        try:
            entries: list[dict[str, Any]] = [json.loads(line) for line in lines]
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}); remove it to measure anew") from None
        if not entries:
            self.finished: list[dict[str, Any]] = []
            whole = json.dumps(conditions).encode() + b"\n"
        else:
            self.finished = entries[1:]
            differing = sorted(
                key
                for key in entries[0].keys() | conditions.keys()
                if entries[0].get(key) != conditions.get(key)
            )
            if differing:
                raise ValueError(
                    f"{path} was measured under other conditions ({', '.join(differing)} differ); remove it, "
                    f"or choose another folder"
                )
        if whole != content:
            write_whole(path, whole)

    def append(self, entry: dict[str, Any]) -> None:
        """Add a finished round."""
        with self._path.open("ab") as file:
            file.write(json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.finished.append(entry)
