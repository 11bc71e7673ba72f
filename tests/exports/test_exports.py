"""Exports of other frameworks: added with one command, they answer what their framework answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import httpx
import pytest

pytest.importorskip("torch")

from tests.exports.networks import EXPORTS
from tests.exports.page import PAGE, facts
from tests.exports.run import Tried, tried

pytestmark = pytest.mark.torch

PIXELS = ("colour_order", "fitting", "interpolation", "mean", "std")
UNKNOWN = {"block", "source.weights", "source.licence"}
PRESET = {f"input.{name}" for name in (*PIXELS, "resize")}
STRETCH = {f"input.{name}" for name in PIXELS}
TORCHVISION = {"flag": PRESET | {"labels"}, "assumed": UNKNOWN | {"architecture"}}
ORIGINS: dict[str, dict[str, set[str]]] = {
    "torchvision, two files": TORCHVISION,
    "torchvision, legacy exporter": TORCHVISION,
    "opset 9, weights as inputs": TORCHVISION,
    "fp16": TORCHVISION,
    "int8, QOperator": TORCHVISION,
    "timm": {
        "metadata": PRESET | {"architecture", "source.licence"},
        "assumed": {"block", "source.weights", "labels"},
    },
    "Hugging Face, with its processor": {
        "metadata": PRESET
        | {"input.height", "input.width", "input.channels", "labels", "outputs.class_offset", "architecture"},
        "assumed": UNKNOWN,
    },
    "Hugging Face, preset": {
        "flag": STRETCH | {"input.height", "input.width", "labels"},
        "assumed": UNKNOWN | {"architecture"},
    },
    "Keras": {"flag": STRETCH | {"labels"}, "assumed": UNKNOWN | {"architecture"}},
}
"""The facts of each export that do not come from its file, by origin."""
FURTHER = {"int8, QOperator": 0.5, "Hugging Face, with its processor": 1.0}
"""Largest deviation on photographs where it may exceed 0.05: docs/own-models.md says why."""

Results = Mapping[str, Tried]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Results, httpx.Client]]:
    """Every export, tried once, and the service that serves them."""
    with tried(tmp_path_factory.mktemp("exports")) as found:
        yield found


@pytest.fixture(scope="module")
def results(ran: tuple[Results, httpx.Client]) -> Results:
    """Every export, tried once."""
    return ran[0]


@pytest.mark.parametrize("name", EXPORTS)
def test_scores_of_the_same_tensor(name: str, results: Results) -> None:
    deviation = results[name].comparison.same_tensor
    print(f"{name}: {deviation:.1e} standard deviations")  # noqa: T201
    assert deviation <= results[name].export.tolerance


@pytest.mark.parametrize("name", EXPORTS)
def test_class_of_each_photograph(name: str, results: Results) -> None:
    comparison = results[name].comparison
    print(f"{name}: {comparison.pictures:.2g} standard deviations")  # noqa: T201
    assert comparison.named == comparison.expected
    assert len(set(comparison.expected)) == 10
    assert comparison.pictures <= FURTHER.get(name, 0.05)


@pytest.mark.parametrize("name", EXPORTS)
def test_origin_of_each_fact(name: str, results: Results) -> None:
    origins: dict[str, set[str]] = {}
    for path, fact in results[name].added.card.provenance.items():
        origins.setdefault(fact.origin, set()).add(path)
    file = origins.pop("file")
    assert origins == ORIGINS[name]
    assert {"input.layout", "input.dtype", "outputs.logits", "parameters", "macs", "precision"} <= file


@pytest.mark.parametrize("name", EXPORTS)
def test_embedding_and_class_map(name: str, ran: tuple[Results, httpx.Client], png: bytes) -> None:
    results, client = ran
    card = results[name].added.card
    assert "embedding" in card.outputs
    answer = client.post("/explain", params={"model": card.name}, content=png)
    assert answer.status_code == (200 if "features" in card.outputs else 409), answer.text


def test_page_of_facts(results: Results) -> None:
    """The deviations on the page are those of one run; the facts are the same at every run."""
    assert facts(results) in PAGE.read_text(), "run: python -m tests.exports"
