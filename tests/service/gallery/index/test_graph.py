"""The graph: what it finds, what removal does to it, and what float16 costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from service.gallery.index.graph import ROUNDING, Graph, cosines
from tests.service.gallery.index.sources import unit_vectors


def graph_of(count: int, dimensions: int = 32) -> Graph:
    graph = Graph(dimensions)
    graph.add(range(1, count + 1), [*unit_vectors(count, dimensions)])
    return graph


def test_float16_is_within_the_stated_rounding() -> None:
    vectors = unit_vectors(500, 1280)
    graph = graph_of(500, 1280)
    for query in unit_vectors(20, 1280, seed=1):
        keys, rough = graph.nearest(query, 500, exact=True)
        assert len(keys) == 500
        assert np.abs(rough - cosines(query, vectors[keys - 1])).max() < ROUNDING
        assert (np.diff(rough) <= 0).all()


def test_a_removed_key_is_not_found_and_keeps_its_node() -> None:
    graph = graph_of(50)
    query = unit_vectors(50)[6]
    assert graph.nearest(query, 1, exact=True)[0].tolist() == [7]
    graph.remove(7)
    graph.remove(7)
    graph.remove(1000)
    assert (len(graph), graph.nodes) == (49, 50)
    assert {*graph.dead} == {7}
    for exact in (True, False):
        assert 7 not in graph.nearest(query, 50, exact=exact)[0]


def test_a_removed_node_is_not_given_to_another() -> None:
    graph = graph_of(50)
    graph.remove(7)
    graph.add([51], [unit_vectors(1, seed=3)[0]])
    assert (len(graph), graph.nodes) == (50, 51)


def test_a_key_that_is_added_again_has_its_new_vector() -> None:
    graph = graph_of(50)
    new = unit_vectors(1, seed=3)[0]
    graph.remove(7)
    graph.add([7, 8], [new, -new])
    assert len(graph) == 50
    assert graph.nearest(new, 1, exact=True)[0].tolist() == [7]
    assert graph.nearest(-new, 1, exact=True)[0].tolist() == [8]


def test_a_graph_is_read_as_it_was_written(tmp_path: Path) -> None:
    graph = graph_of(300)
    graph.remove(9)
    graph.write(tmp_path / "graph")
    again = Graph.read(tmp_path / "graph", 32, graph.dead)
    assert (len(again), again.nodes) == (299, 300)
    for query in unit_vectors(10, seed=1):
        for exact in (True, False):
            one, other = graph.nearest(query, 10, exact=exact), again.nearest(query, 10, exact=exact)
            assert one[0].tolist() == other[0].tolist()
            assert one[1].tolist() == other[1].tolist()


def test_a_file_that_is_no_graph_of_these_dimensions_is_refused(tmp_path: Path) -> None:
    graph_of(30, 16).write(tmp_path / "graph")
    with pytest.raises(ValueError, match="16 dimensions"):
        Graph.read(tmp_path / "graph", 32, ())
    (tmp_path / "text").write_text("not a graph " * 100)
    with pytest.raises(ValueError, match="not a graph"):
        Graph.read(tmp_path / "text", 32, ())


def test_a_folder_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="cannot be written"):
        graph_of(3).write(tmp_path / "nowhere" / "graph")
