"""The index's files: a damaged one is noticed, a missing one is no damage, none gets half in force."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from service.gallery.index import saved
from service.gallery.index.embedded import EmbeddedSearch
from service.gallery.index.graph import Graph
from tests.service.gallery.index.sources import Rows, unit_vectors

DIMENSIONS = 32
LONG_S = 60.0


def commit(folder: Path, count: int, sequence: int) -> Path:
    """Save a graph of so many vectors, one of them dead; the graph's file."""
    graph = Graph(DIMENSIONS)
    graph.add(range(1, count + 1), [*unit_vectors(count, DIMENSIONS)])
    graph.remove(3)
    saved.commit(saved.write_temp(graph, folder), model="net", sequence=sequence)
    return next(folder.glob("*.graph"))


def read(folder: Path) -> tuple[Graph, int] | None:
    return saved.read(folder, model="net", dimensions=DIMENSIONS)


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    commit(tmp_path / "index", 40, 44)
    kept = read(tmp_path / "index")
    assert kept is not None
    assert (len(kept[0]), kept[0].nodes, {*kept[0].dead}, kept[1]) == (39, 40, {3}, 44)


def test_no_file_is_no_index(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert read(tmp_path / "nowhere") is None


def test_newer_index_replaces_the_older(tmp_path: Path) -> None:
    older = commit(tmp_path, 40, 44)
    commit(tmp_path, 50, 55)
    kept = read(tmp_path)
    assert kept is not None
    assert (kept[0].nodes, kept[1]) == (50, 55)
    assert not older.exists()
    assert len([*tmp_path.iterdir()]) == 2


@pytest.mark.parametrize("lost", ["temp", "graph", "description"])
def test_files_left_by_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
    """The machine stops before the second is renamed, or before anything is: the first is read."""
    commit(tmp_path, 40, 44)
    graph = Graph(DIMENSIONS)
    graph.add(range(1, 61), [*unit_vectors(60, DIMENSIONS)])
    if lost == "temp":
        saved.write_temp(graph, tmp_path)
    else:
        renamed = Path.replace

        def stop(self: Path, target: Path) -> Path:
            if (self.name == saved.TEMP) == (lost == "graph"):
                raise KeyboardInterrupt
            return renamed(self, target)

        monkeypatch.setattr(Path, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            saved.commit(saved.write_temp(graph, tmp_path), model="net", sequence=66)
        monkeypatch.undo()
    kept = read(tmp_path)
    assert kept is not None
    assert (kept[0].nodes, kept[1]) == (40, 44)
    commit(tmp_path, 50, 77)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".graph", ".json"]


def test_files_are_synced_before_the_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    sync, renamed = saved._sync, Path.replace
    monkeypatch.setattr(saved, "_sync", lambda path: (steps.append(f"sync {path.name}"), sync(path)))
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (steps.append(f"rename {self.name}"), renamed(self, target))[1]
    )
    commit(tmp_path / "index", 10, 11)
    assert steps == [
        "sync aside.tmp",
        "rename aside.tmp",
        "sync index.json.tmp",
        "rename index.json.tmp",
        "sync index",
    ]


def test_saved_index_of_another_network(tmp_path: Path) -> None:
    commit(tmp_path, 10, 11)
    with pytest.raises(saved.UnusableIndex, match="of net with 32 dimensions, not of other with 32"):
        saved.read(tmp_path, model="other", dimensions=DIMENSIONS)
    with pytest.raises(saved.UnusableIndex, match="not of net with 64"):
        saved.read(tmp_path, model="net", dimensions=64)


def flipped(content: bytes, where: int, bit: int) -> bytes:
    return content[:where] + bytes([content[where] ^ 1 << bit]) + content[where + 1 :]


def damages(content: bytes, count: int, seed: int) -> list[bytes]:
    """So many copies with one bit flipped anywhere, and so many cut off anywhere; empty; longer by a byte."""
    chosen = random.Random(seed)
    flips = [flipped(content, chosen.randrange(len(content)), chosen.randrange(8)) for _ in range(count)]
    cuts = [content[: chosen.randrange(len(content))] for _ in range(count)]
    return [*flips, *cuts, b"", content + b"\0"]


@pytest.mark.parametrize("count", [20, pytest.param(2_000, marks=pytest.mark.fault)])
@pytest.mark.parametrize("pattern", ["*.graph", "*.json"])
def test_no_damage_goes_unnoticed(tmp_path: Path, pattern: str, count: int) -> None:
    commit(tmp_path, 60, 66)
    file = next(tmp_path.glob(pattern))
    content = file.read_bytes()
    for damaged in damages(content, count, seed=1):
        file.write_bytes(damaged)
        with pytest.raises(saved.UnusableIndex):
            read(tmp_path)
    file.write_bytes(content)
    assert read(tmp_path) is not None


@pytest.mark.parametrize(
    "described",
    ["[]", "null", "7", '"text"', "{}", '{"checksum": null}', '{"checksum": {}}', "[" * 100_000, "\xff"],
)
def test_invalid_description(tmp_path: Path, described: str) -> None:
    commit(tmp_path, 10, 11)
    (tmp_path / saved.DESCRIPTION).write_text(described, encoding="latin-1")
    with pytest.raises(saved.UnusableIndex):
        read(tmp_path)


def test_a_graph_that_is_gone_is_unusable(tmp_path: Path) -> None:
    commit(tmp_path, 10, 11).unlink()
    with pytest.raises(saved.UnusableIndex, match="cannot be read"):
        read(tmp_path)


Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize("pattern", ["*.graph", "*.json"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content[: len(content) // 2], id="truncated"),
        pytest.param(lambda content: flipped(content, len(content) // 2, 3), id="a bit flipped"),
        pytest.param(lambda _: b"", id="empty"),
    ],
)
def test_a_damaged_index_costs_no_answer(tmp_path: Path, pattern: str, damage: Damage) -> None:
    """The gallery answers rightly at once, builds its index anew and saves it whole again."""
    rows = Rows()
    vectors = unit_vectors(200, DIMENSIONS)
    for vector in vectors:
        rows.put(vector)

    def open_search() -> EmbeddedSearch:
        return EmbeddedSearch(rows, DIMENSIONS, model="net", folder=tmp_path, exact_up_to=0)

    first = open_search()
    assert first.wait_until_settled(LONG_S)
    first.close()
    file = next(tmp_path.glob(pattern))
    file.write_bytes(damage(file.read_bytes()))

    search = open_search()
    assert search.search(vectors[0], 5)[0].tolist() == rows.exact(vectors[0], 5)
    assert search.wait_until_settled(LONG_S)
    assert search.status.indexed == 200
    search.close()
    described = json.loads((tmp_path / saved.DESCRIPTION).read_text())
    assert (described["sequence"], described["nodes"]) == (200, 200)
    kept = read(tmp_path)
    assert kept is not None
    assert len(kept[0]) == 200
