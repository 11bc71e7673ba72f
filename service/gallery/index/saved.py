"""The graph as files. They are replaced in one step, and are not read if a byte has changed since then.

`<name>.graph` is usearch's file. `index.json` has the name and SHA-256 of this file, the sequence number of
the last change, the network of the embeddings, the dead nodes, and a checksum of itself. Both are written to
temporary files, synced and renamed. Renaming `index.json` commits a new pair, so after a crash at any time
there is either one complete pair or none.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.gallery.index.graph import Graph

FORMAT = 1
DESCRIPTION = "index.json"
TEMP = "aside.tmp"
DESCRIPTION_TEMP = "index.json.tmp"


class UnusableIndex(Exception):
    """The files are not a complete index of this gallery. The message says why."""


@dataclass(frozen=True)
class WrittenGraph:
    """A graph in a temporary file, with its number of nodes and its dead nodes when it was written."""

    path: Path
    dimensions: int
    nodes: int
    dead: tuple[int, ...]


def write_temp(graph: Graph, folder: Path) -> WrittenGraph:
    """Write `graph` to a temporary file in `folder`, and do not sync it yet. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TEMP
    graph.write(path)
    return WrittenGraph(path, graph.dimensions, graph.nodes, tuple(sorted(graph.dead)))


def commit(written: WrittenGraph, *, model: str, sequence: int) -> None:
    """Sync the temporary file and make it the current index, which has the changes up to `sequence`.

    Raises OSError. The current index is then unchanged.
    """
    folder = written.path.parent
    _sync(written.path)
    digest = _sha256(written.path)
    name = f"{sequence}-{digest[:16]}.graph"
    described: dict[str, Any] = {
        "format": FORMAT,
        "model": model,
        "dimensions": written.dimensions,
        "sequence": sequence,
        "nodes": written.nodes,
        "dead": written.dead,
        "file": name,
        "bytes": written.path.stat().st_size,
        "sha256": digest,
    }
    written.path.replace(folder / name)
    description = folder / DESCRIPTION_TEMP
    description.write_text(json.dumps({**described, "checksum": _checksum(described)}))
    _sync(description)
    description.replace(folder / DESCRIPTION)
    _sync(folder)
    for old in folder.glob("*.graph"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read(folder: Path, *, model: str, dimensions: int) -> tuple[Graph, int] | None:
    """Return the current graph and the sequence number of its last change, or None if there is no graph.

    Raises UnusableIndex if the files are damaged in any way, or belong to another network.
    """
    try:
        described = json.loads((folder / DESCRIPTION).read_bytes())
        checksum = described.pop("checksum")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UnusableIndex(f"{DESCRIPTION} cannot be read: {error}") from None
    if checksum != _checksum(described) or described["format"] != FORMAT:
        raise UnusableIndex(f"{DESCRIPTION} is damaged, or of another version")
    if (described["model"], described["dimensions"]) != (model, dimensions):
        raise UnusableIndex(
            f"it is of {described['model']} with {described['dimensions']} dimensions, "
            f"not of {model} with {dimensions}"
        )
    path = folder / described["file"]
    try:
        if path.stat().st_size != described["bytes"] or _sha256(path) != described["sha256"]:
            raise UnusableIndex(f"{path.name} is not as it was written")
        graph = Graph.read(path, dimensions, described["dead"])
    except (OSError, ValueError) as error:
        raise UnusableIndex(f"{path.name} cannot be read: {error}") from None
    if graph.nodes != described["nodes"]:
        raise UnusableIndex(f"{path.name} has {graph.nodes} nodes, not {described['nodes']}")
    return graph, described["sequence"]


def discard(folder: Path) -> None:
    """Remove the current index, and files left over from earlier ones. File system errors are ignored."""
    for path in (folder / DESCRIPTION, folder / DESCRIPTION_TEMP, folder / TEMP, *folder.glob("*.graph")):
        try:
            path.unlink(missing_ok=True)
        except OSError:
            return


def _checksum(described: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
