"""Parts of the similarity search benchmark with known answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.results import Results
from benchmarks.retrieval import embeddings as embedded
from benchmarks.retrieval import page
from benchmarks.retrieval.corpus import FashionMnist, MissingDataError
from benchmarks.retrieval.edited import found_first
from benchmarks.retrieval.embeddings import Embedder, embeddings
from benchmarks.retrieval.precision import same_class, write_to_card
from benchmarks.retrieval.vectors import K, Workload
from models.zoo.card import Retrieval, read_card


class Noise:
    """Random images; `read` counts those that were read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.read = 0

    def __len__(self) -> int:
        return self.count

    def since(self, first: int) -> Iterator[NDArray[np.uint8]]:
        for number in range(first, self.count):
            self.read += 1
            yield np.random.default_rng(number).integers(0, 256, (40, 50, 3), np.uint8)


def test_interrupted_embeddings_resume(
    tiny_models_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "EMBEDDINGS", tmp_path)
    monkeypatch.setattr(embedded, "WRITE_EVERY", 8)
    embedder = Embedder(tiny_models_dir / "tiny")
    whole = np.array(embeddings(embedder, "whole", Noise(50)))
    assert np.linalg.norm(whole, axis=1) == pytest.approx(np.ones(50), abs=1e-5)
    with pytest.raises(TimeoutError, match="8 of 50"):
        embeddings(embedder, "parts", Noise(50), seconds=0)
    path = next(tmp_path.glob("*/parts.f32"))
    path.write_bytes(path.read_bytes() + b"half a row")
    rest = Noise(50)
    assert np.array_equal(embeddings(embedder, "parts", rest), whole)
    assert rest.read == 42
    again = Noise(50)
    assert np.array_equal(embeddings(embedder, "parts", again), whole)
    assert again.read == 0


def test_missing_images(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="make fashion"):
        FashionMnist(tmp_path)


def test_recall_with_ties() -> None:
    gallery = np.eye(20, dtype=np.float32)
    query = np.linspace(1, 0.05, 20, dtype=np.float32)[None]
    query[0, 9] = query[0, 10]  # two rows are tied for the tenth place
    data = Workload(gallery, query)
    nearest = np.arange(10)
    assert data.recall([nearest]).tolist() == [1]
    assert data.recall([np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 10])]).tolist() == [1]
    assert data.recall([np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 11])]).tolist() == [0.9]
    assert data.recall([np.zeros(10, np.int64)]).tolist() == [0.1]
    odd = np.arange(20) % 2 == 1
    assert data.recall([np.arange(1, 20, 2)], odd).tolist() == [1]
    assert data.recall([nearest], odd).tolist() == [0.5]


def test_precision_at_ten() -> None:
    gallery = np.repeat(np.eye(2, dtype=np.float32), 12, axis=0)
    gallery[:, 0] += np.linspace(0, 0.01, 24, dtype=np.float32)
    classes = np.repeat([0, 1], 12)
    classes[:3] = 1  # the three of the first twelve rows that are farthest from the query
    queries = np.eye(2, dtype=np.float32)
    shares = same_class(gallery, classes, queries, np.array([0, 1]))
    assert shares.tolist() == [(K - 1) / K, 1]


def test_copies_with_their_original_nearest() -> None:
    originals = np.eye(4, dtype=np.float32)
    assert found_first(originals, originals) == 4
    assert found_first(originals[[0, 1, 3, 2]], originals) == 2


def test_precision_in_the_card(tiny_models_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "card.json").write_bytes((tiny_models_dir / "tiny" / "card.json").read_bytes())
    result = Retrieval(
        dataset="Fashion-MNIST test", k=10, n=2, gallery=3, mean=0.5, classes={"Bag": 0.5}, how="so"
    )
    write_to_card(folder, result)
    card = read_card(folder)
    assert card.retrieval == result
    assert card.model_copy(update={"retrieval": None}) == read_card(tiny_models_dir / "tiny")


def record(**changes: Any) -> dict[str, Any]:
    """Return the record of a measured search."""
    times = {name: [1.0, 2.0, 4.0] for name in ("p50_ms", "p99_ms", "cpu_p50_ms", "cpu_p99_ms")}
    fields = {"way": "hnsw", "images": 100_000, "recall": 0.995, "build_s": 50.0, "build_cpu_s": 40.0}
    return {**fields, "bytes_per_vector": 2800.0, **times, **changes}


def test_targets_met_and_missed(tmp_path: Path) -> None:
    results = Results(tmp_path / "results.jsonl")
    results.append("search", **record(), first_answer_s=0.5)
    results.append("search", **record(way="build", build_s=77.0, bytes_per_vector=3100.0))
    results.append("search", **record(way="faiss flat", recall=1.0))
    results.append("search", **record(way="churn", images=10_000, recalls=[0.99, 0.97], dead=[1, 2]))
    text = page.figures(results)
    assert "| **Weigh-in**, HNSW | 0.9950 | 2.00 (1.00 to 4.00) |" in text
    assert "| faiss flat | 1.0000 |" in text
    assert "| search p99, hnsw, 100 000 | 2.0 ms, 2.0 of them CPU | ≤ 3 ms | met |" in text
    replaced = "recall@10 after ten rounds that each replace 20 % of the images"
    assert f"| {replaced}, 10 000 | 0.9700 | ≥ 0.98 | **missed** |" in text
    assert "| 77.0 |" in text
    assert "| memory per vector after the build, 100 000 | 3.03 KB | ≤ 3 KB | **missed** |" in text
    assert "| memory per vector after loading, 100 000 | 2.73 KB | ≤ 3 KB | met |" in text
    assert "| start with an index file to the first answer, 100 000 | 0.50 s | ≤ 2 s | met |" in text
    results.append("search", **record(p99_ms=[3.1, 3.2, 2.0], recall=0.98, first_answer_s=2.5))
    text = page.figures(results)
    assert "| recall@10, hnsw, 100 000 | 0.9800 | ≥ 0.99 | **missed** |" in text
    assert "3.1 ms, 2.0 of them CPU | ≤ 3 ms | **missed** |" in text


def test_markers_in_the_page() -> None:
    text = page.PAGE.read_text()
    assert text.index(page.BEGIN) < text.index(page.END)
