"""Cards refuse figures that contradict each other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.zoo.card import MAX_COUNT, Accuracy, Card, Robustness
from models.zoo.files import NETWORKS

ACCURACY: dict[str, Any] = {
    "value": 0.9431,
    "kind": "measured",
    "dataset": "Fashion-MNIST test",
    "n": 10_000,
    "correct": 9431,
    "how": "python -m models evaluate",
}
ROBUSTNESS: dict[str, Any] = {
    "measure": "accuracy",
    "dataset": "Fashion-MNIST test",
    "n": 10_000,
    "mean": 0.7,
    "corruptions": {"noise": (0.9, 0.8, 0.7, 0.6, 0.5), "blur": (0.9, 0.8, 0.7, 0.6, 0.5)},
    "how": "python -m models evaluate",
}


def test_accuracy_contradicts_its_counts() -> None:
    assert Accuracy.model_validate(ACCURACY).correct == 9431
    with pytest.raises(ValueError, match="9430 of 10000 right is not an accuracy"):
        Accuracy.model_validate(ACCURACY | {"correct": 9430})


@pytest.mark.parametrize("correct", [10_001, 10**400])
def test_more_right_answers_than_images(correct: int) -> None:
    with pytest.raises(ValueError, match="right is not an accuracy"):
        Accuracy.model_validate(ACCURACY | {"correct": correct})


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN", "1e999"])
def test_numbers_are_finite(value: str) -> None:
    text = json.dumps(ROBUSTNESS).replace('"mean": 0.7', f'"mean": {value}')
    with pytest.raises(ValueError, match="finite"):
        Robustness.model_validate_json(text)


def test_mean_contradicts_its_corruptions() -> None:
    assert Robustness.model_validate(ROBUSTNESS).corruptions["blur"][4] == 0.5
    with pytest.raises(ValueError, match=r"mean 0.8 is not the mean of the corruptions, 0.7000"):
        Robustness.model_validate(ROBUSTNESS | {"mean": 0.8})


@pytest.mark.parametrize("corruptions", [{}, {"noise": (0.9, 0.8)}, {"noise": (0.9, 0.8, 0.7, 0.6, 1.5)}])
def test_five_severities_of_at_least_one_corruption(corruptions: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="corruptions"):
        Robustness.model_validate(ROBUSTNESS | {"corruptions": corruptions})


def integers(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every integer that a JSON schema describes, by the path to it."""
    if schema.get("type") == "integer" and not {"enum", "const"} & schema.keys():
        yield path, schema
    for key, value in schema.items():
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, dict):
                yield from integers(part, f"{path}.{key}")


def test_every_integer_has_an_upper_bound() -> None:
    bounds = dict(integers(Card.model_json_schema(), "card"))
    assert len(bounds) >= 10
    unbounded = [path for path in bounds if bounds[path].get("maximum", MAX_COUNT + 1) > MAX_COUNT]
    assert [path.split(".")[-2:] for path in unbounded] == [["correct", "anyOf"]]  # not more than `n`


def test_documented_example_is_a_card() -> None:
    """docs/models.md shows a valid card, and says what each of its fields means."""
    page = (Path(__file__).parents[3] / "docs/models.md").read_text()
    (example,) = re.findall(r"```json\n(.+?)```", page, re.DOTALL)
    card = Card.model_validate_json(example)
    assert card.name == "my-model"
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`[^|]+) \|", page, re.MULTILINE))))
    assert set(Card.model_fields) - {"schema_version"} <= named


VERSION_2: dict[str, tuple[dict[str, Any], str]] = {
    "layout": ({"input": {"layout": "nhwc"}}, "input.layout"),
    "colour order": ({"input": {"colour_order": "bgr"}}, "input.colour_order"),
    "name of the input": ({"input": {"name": "x"}}, "input.name"),
    "fitting": ({"input": {"fitting": "stretch"}}, "input.fitting"),
    "batch": ({"input": {"batch": 4}}, "input.batch"),
    "names of outputs": ({"outputs": {"names": {"logits": "y"}}}, "outputs.names"),
    "multi-label": ({"outputs": {"multi_label": True}}, "outputs.multi_label"),
    "provenance": ({"provenance": {"labels": {"origin": "flag"}}}, "provenance"),
    "given": ({"given": {"name": "x", "bytes": 1, "sha256": "0" * 64}}, "given"),
    "half precision": ({"precision": "fp16"}, "precision fp16"),
}


@pytest.mark.parametrize("kind", VERSION_2)
def test_a_card_of_version_1_has_no_field_of_version_2(kind: str) -> None:
    """Written as version 1, it would lose the field."""
    later, path = VERSION_2[kind]
    card = json.loads((NETWORKS / "efficientnet-lite0" / "card.json").read_text())
    values = {
        key: {**card.get(key, {}), **value} if isinstance(value, dict) and key in card else value
        for key, value in later.items()
    }
    assert Card.model_validate(card | values | {"schema_version": 2}).schema_version == 2
    with pytest.raises(ValueError, match=rf"{path}: not in version 1 \(allowed: schema_version 2\)"):
        Card.model_validate(card | values | {"schema_version": 1})
