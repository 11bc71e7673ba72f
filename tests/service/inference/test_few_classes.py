"""Models with fewer than five classes: cats and dogs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.networks import save_network
from tests.helpers.problems import assert_problem
from tests.service.conftest import running


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    zoo = tmp_path_factory.mktemp("zoo")
    for name in ("cats-dogs", "dogs-cats"):
        save_network(zoo, name, classes=2, names=["cat", "dog"], labels="pets")
    make_tiny_model(zoo, "tiny")
    settings = Settings(
        model_dirs=(zoo,), default_model="cats-dogs", data_dir=tmp_path_factory.mktemp("data")
    )
    with running(settings) as client:
        yield client


def test_default_top_k_of_few_classes(client: httpx.Client, png: bytes) -> None:
    for query, count in (("", 2), ("?model=tiny", 5)):
        predictions = client.post(f"/classify{query}", content=png).json()["predictions"]
        assert len(predictions) == count
    assert sum(p["probability"] for p in client.post("/classify", content=png).json()["predictions"]) == (
        pytest.approx(1, abs=1e-5)
    )


@pytest.mark.parametrize("top_k", [0, 3, 5])
def test_given_top_k(client: httpx.Client, png: bytes, top_k: int) -> None:
    for path in (f"/classify?top_k={top_k}", f"/compare?top_k={top_k}"):
        assert_problem(client.post(path, content=png), 422, "invalid-parameter", f"top_k {top_k}:", "1 to 2")
    assert_problem(
        client.post("/compare?models=tiny,cats-dogs&mix_labels=true&top_k=3", content=png),
        422,
        "invalid-parameter",
        "1 to 2",
    )


def test_comparison_with_different_class_counts(client: httpx.Client, png: bytes) -> None:
    alone = client.post("/compare", content=png).json()
    assert [len(one["predictions"]) for one in alone["results"]] == [2, 2]
    assert set(alone["agreement"]["labels"]) <= {"cat", "dog"}
    mixed = client.post("/compare?models=tiny,cats-dogs&mix_labels=true", content=png).json()
    assert [len(one["predictions"]) for one in mixed["results"]] == [5, 2]


@pytest.mark.slow
def test_top_k_has_no_default_in_the_description(openapi: dict[str, Any]) -> None:
    paths = openapi["paths"]
    for path in ("/classify", "/compare"):
        (top_k,) = (p for p in paths[path]["post"]["parameters"] if p["name"] == "top_k")
        assert "default" not in top_k["schema"]
        assert "5, or all" in top_k["description"]


def test_pages_are_shown(client: httpx.Client) -> None:
    for path in ("/", "/dashboard"):
        assert client.get(path).status_code == 200
