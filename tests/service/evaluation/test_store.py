"""Evaluations in real databases: kept by data set, with models that are added later; unusable databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, inspect, update

import service.state  # noqa: F401  defines the tables of all features
from service.errors import InvalidEvaluation, StorageUnavailable, UnknownEvaluation
from service.evaluation.figures import pack_bits
from service.evaluation.merge import merge
from service.evaluation.result import Evaluation
from service.evaluation.store import EvaluationStore, evaluations, summarise
from service.storage.database import open_database, prepare
from tests.service.evaluation.evaluations import MOMENT, evaluation

N = 200
OFTEN = [i % 10 != 0 for i in range(N)]
RARELY = [i % 10 == 0 for i in range(N)]


@pytest.fixture
def engine(tmp_path: Path, database_url: str | None) -> Iterator[Engine]:
    engine = open_database(database_url, tmp_path)
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> EvaluationStore:
    return EvaluationStore(engine)


@pytest.mark.databases("sqlite", "postgresql")
def test_evaluation_is_kept(store: EvaluationStore) -> None:
    made = evaluation({"a": OFTEN})
    assert store.save(made) is made
    assert store.get(made.id) == made
    [summary] = store.summaries(10)
    assert summary == summarise(made)
    assert (summary.id, summary.name, summary.n, summary.classes) == (made.id, "pets", N, 2)
    assert [(model.name, model.value) for model in summary.models] == [("a", 0.9)]


@pytest.mark.databases("sqlite", "postgresql")
def test_models_are_added_to_the_evaluation_of_the_data_set(store: EvaluationStore) -> None:
    store.save(evaluation({"a": OFTEN, "b": OFTEN}))
    later = evaluation({"b": RARELY, "c": OFTEN}, moment=MOMENT + timedelta(days=1))
    merged = store.save(later)
    assert store.get(later.id) == merged
    assert [model.name for model in merged.models] == ["a", "b", "c"]
    assert [model.accuracy.value for model in merged.models] == [0.9, 0.1, 0.9]
    assert (merged.started_at, merged.finished_at) == (MOMENT, MOMENT + timedelta(days=1))
    assert [model.name for model in store.summaries(10)[0].models] == ["a", "b", "c"]
    assert merged.verdict("a", "b") == "better"
    assert merged.verdict("b", "c") == "worse"
    assert merged.verdict("a", "c") == "not distinguishable"
    assert len(merged.pairs) == 3


@pytest.mark.databases("sqlite", "postgresql")
def test_order_of_evaluations(store: EvaluationStore) -> None:
    made = [
        evaluation({"a": OFTEN}, seed=str(i), moment=MOMENT + timedelta(days=i % 2, hours=i))
        for i in range(3)
    ]
    for each in made:
        store.save(each)
    assert [each.id for each in store.summaries(10)] == [made[1].id, made[2].id, made[0].id]
    assert [each.id for each in store.summaries(1)] == [made[1].id]


@pytest.mark.databases("sqlite", "postgresql")
def test_writers_of_one_data_set_at_once(store: EvaluationStore) -> None:
    """Each adds its model to what the others have stored; none is lost."""
    names = [f"model-{i}" for i in range(6)]
    ready = threading.Barrier(len(names))

    def save(name: str) -> None:
        ready.wait()
        store.save(evaluation({name: OFTEN}))

    threads = [threading.Thread(target=save, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [summary] = store.summaries(10)
    assert sorted(model.name for model in summary.models) == names
    assert len(store.get(summary.id).pairs) == 15


@pytest.mark.databases("sqlite", "postgresql")
def test_unknown_evaluation(store: EvaluationStore, engine: Engine) -> None:
    """Reads do not create a database."""
    with pytest.raises(UnknownEvaluation, match=r"^no evaluation 'none' "):
        store.get("none")
    assert store.summaries(10) == []
    with engine.connect() as connection:
        assert not inspect(connection).has_table("evaluations")
    prepare(engine)
    for identifier in ("none", "\0" * 16, "0" * 16, "0" * 17):
        with pytest.raises(UnknownEvaluation):
            store.get(identifier)


@pytest.mark.databases("sqlite", "postgresql")
def test_damaged_document(store: EvaluationStore, engine: Engine) -> None:
    made = evaluation({"a": OFTEN})
    store.save(made)
    with engine.begin() as connection:
        connection.execute(update(evaluations).values(document=b"damaged", summary='{"id": 1}'))
    with pytest.raises(StorageUnavailable):
        store.summaries(10)
    with pytest.raises(StorageUnavailable):
        store.get(made.id)
    with pytest.raises(StorageUnavailable):
        store.save(made)


def test_refused_write(engine: Engine, tmp_path: Path) -> None:
    store = EvaluationStore(engine, lambda: "data directory: in use")
    with pytest.raises(StorageUnavailable, match="data directory: in use"):
        store.save(evaluation({"a": OFTEN}))
    assert list(tmp_path.iterdir()) == []


def of_some(made: Evaluation, kept: np.ndarray, right: list[bool]) -> Evaluation:
    """Return an evaluation whose label set has only some of the pictures, as with other matched classes."""
    from tests.service.evaluation.evaluations import halves, result

    chosen = np.flatnonzero(kept)
    half = [halves(N)[i] for i in chosen]
    (labels,) = made.label_sets
    models = tuple(
        model.model_copy(update={"classification": result([right[i] for i in chosen], half)})
        for model in made.models
    )
    some = labels.model_copy(update={"n": len(chosen), "pictures": pack_bits(kept)})
    changed = made.model_copy(update={"label_sets": (some,), "models": models, "pairs": ()})
    return Evaluation.model_validate_json(changed.model_dump_json())


def test_label_set_that_is_matched_to_other_pictures() -> None:
    """Models on different pictures are not compared: the later matching counts."""
    earlier = evaluation({"a": OFTEN, "b": OFTEN})
    later = of_some(evaluation({"c": OFTEN}), np.arange(N) < 100, OFTEN)
    merged = merge(earlier, later)
    assert [(model.name, model.n) for model in merged.models] == [("c", 100)]
    assert merged.data.notes[-1].startswith("earlier results of a, b were dropped")


def test_other_label_sets_stay() -> None:
    earlier = evaluation({"a": OFTEN}, labels="fashion-mnist", of=10)
    merged = merge(earlier, evaluation({"b": OFTEN}))
    assert [(model.name, model.labels) for model in merged.models] == [
        ("a", "fashion-mnist"),
        ("b", "imagenet-1k"),
    ]
    assert merged.pairs == ()


def test_too_many_models() -> None:
    """The time of comparing all pairs is bounded."""
    earlier = evaluation({f"a{i}": [True, False] for i in range(120)})
    with pytest.raises(InvalidEvaluation, match=r"240 models \(allowed: up to 200\)"):
        merge(earlier, evaluation({f"b{i}": [True, False] for i in range(120)}))
    assert len(merge(earlier, evaluation({f"a{i}": [True, True] for i in range(120)})).models) == 120


def test_other_pictures_under_one_id() -> None:
    one = evaluation({"a": OFTEN})
    data = one.data.model_copy(update={"half": pack_bits([True] * N)})
    with pytest.raises(InvalidEvaluation, match="its distinct pictures are not those of the stored one"):
        merge(one, one.model_copy(update={"data": data}))
