"""Evaluations as documents: round trip, packed bits, and figures that contradict their counts."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidEvaluation
from service.evaluation.figures import Share, pack_bits, unpack_bits
from service.evaluation.result import (
    Evaluation,
    data_hash,
    from_json,
    json_schema,
    read_evaluation,
    to_json,
    write_evaluation,
)
from tests.service.evaluation.evaluations import evaluation, halves, pictures

SCHEMA = Path(__file__).parents[3] / "docs/evaluation.schema.json"
RIGHT = [i % 5 != 0 for i in range(50)]


@pytest.fixture
def made() -> Evaluation:
    return evaluation({"a": RIGHT, "b": [not bit for bit in RIGHT]})


def test_what_is_written_is_read_again(made: Evaluation, tmp_path: Path) -> None:
    path = tmp_path / "pets.json"
    write_evaluation(path, made)
    assert read_evaluation(path) == made
    assert [entry.name for entry in tmp_path.iterdir()] == ["pets.json"]


def test_the_schema_in_docs_is_the_code_s() -> None:
    assert SCHEMA.read_text() == json_schema(), (
        "python -m service.evaluation.result > docs/evaluation.schema.json"
    )


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_packed_bits(n: int) -> None:
    bits = np.random.default_rng(n).random(n) < 0.5
    assert unpack_bits(pack_bits(bits), n).tolist() == bits.tolist()
    with pytest.raises(ValueError, match="bits: "):
        unpack_bits(pack_bits([True] * (n + 1)), n)


def test_hash_depends_on_truths_and_not_on_order() -> None:
    files = pictures(3)
    one = data_hash(zip(files, "abc", strict=True))
    assert one == data_hash(reversed(list(zip(files, "abc", strict=True))))
    assert one != data_hash(zip(files, "abb", strict=True))
    assert one != data_hash([*zip(files, "abc", strict=True), (files[0], "a")])


def test_halves_are_of_similar_size() -> None:
    assert 450 < sum(halves(1000)) < 550


def test_half_without_pictures() -> None:
    seed = next(seed for seed in "abcdefgh" if halves(2, seed) == [0, 0])
    made = evaluation({"a": [True, False]}, seed=seed)
    result = made.models[0].classification
    assert result is not None
    assert sorted(half.n if half else 0 for half in result.halves) == [0, 2]
    assert from_json(to_json(made)) == made


def _change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *folders, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        target: Any = document
        for part in folders:
            target = target[part]
        target[last] = value

    return change


RESULT = "models/0/classification"


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("id", "0" * 16, "id 0000000000000000: not the first 16 digits"),
        ("schema_version", 2, "schema_version"),
        ("finished_at", "2020-01-01T00:00:00Z", "finished_at: before started_at"),
        ("data/n", 40, "bits: 7 bytes for 40 pictures"),
        ("data/pictures", 40, "50 distinct pictures and 0 left out, of 40 listed"),
        ("data/classes/0/n", 26, "classes: 51 pictures, but 50 are distinct"),
        ("models/1/name", "a", "models: a is there twice"),
        ("models/0/labels", "fashion-mnist", "labels fashion-mnist are none of label_sets"),
        ("models/0/classes", 10, "10 classes, but imagenet-1k has 1000"),
        ("models/0/task", "object-detection", "task object-detection has the result detection"),
        ("label_sets/0/n", 51, "50 pictures, but imagenet-1k has 50"),
        (f"{RESULT}/top1", Share.of(41, 50).model_dump(), "top1: (50, 41), but the pictures give (50, 40)"),
        (f"{RESULT}/top1/value", 0.81, "value of 40 of 50: is 0.81, but the counts give 0.800000"),
        (f"{RESULT}/top1/low", 0.79, "low of 40 of 50"),
        (f"{RESULT}/top5", Share.of(39, 50).model_dump(), "top5: 39 correct, but 40 are in top1"),
        (f"{RESULT}/macro/value", 0.85, "macro: is 0.85"),
        (f"{RESULT}/confusion", [], "confusion: 0, but the pictures give 10"),
        (f"{RESULT}/calibration/ece", 0.1, "ece: is 0.1"),
        (f"{RESULT}/correct", pack_bits([True] * 50), "top1: (50, 40), but the pictures give (50, 50)"),
        (f"{RESULT}/halves", [None, Share.of(40, 50).model_dump()], "but the bits give"),
        (f"{RESULT}/top1/value", float("nan"), "value"),
        ("pairs", [{"first": "a", "second": "c", "difference": 0, "low": 0, "high": 0, "p": 1,
                    "verdict": "not distinguishable"}], "pairs: a and c are not two models"),
        ("surplus", 1, "surplus: Extra inputs"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(made: Evaluation, path: str, value: Any, words: str) -> None:
    document = json.loads(to_json(made))
    _change(path, value)(document)
    with pytest.raises(InvalidEvaluation) as caught:
        from_json(json.dumps(document), "pets.json")
    assert str(caught.value).startswith("pets.json: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe", "[" * 100_000])
def test_what_is_no_evaluation(text: str | bytes) -> None:
    with pytest.raises(InvalidEvaluation, match=r"^evaluation: "):
        from_json(text)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidEvaluation, match=r"none.json cannot be read: no such file"):
        read_evaluation(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('"notes": [' + ",".join(["1"] * 500_000) + "]", "evaluation: data.notes.0: Input should be"),
        (",".join(f'"{i}": 1' for i in range(100_000)), "evaluation: 100"),
        ('"' + "x" * 100_000 + '": 1', "evaluation: data." + "x" * 100 + ": Extra inputs"),
    ],
    ids=["items", "fields", "long"],
)
def test_millions_of_errors_do_not_fill_the_memory(made: Evaluation, broken: str, words: str) -> None:
    whole = to_json(made).replace('"data":{', '"data":{' + broken + ",", 1).replace(',"notes":[]', "", 1)
    tracemalloc.start()
    with pytest.raises(InvalidEvaluation) as caught:
        from_json(whole)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.detail.startswith(words)
    assert len(caught.value.detail) < 200
    assert peak < 50_000_000
