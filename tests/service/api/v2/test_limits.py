"""Small requests to /v2 that would take much time or memory."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from models.zoo.card import InputSpec
from service.api.v2.wire import read_batch, read_request
from service.errors import InvalidInferenceRequest
from tests.helpers.inference_protocol import assert_protocol_error, body_of, elements, images

SPEC = InputSpec(height=1, width=2, resize=2, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")
ONE = {"name": "image", "shape": [1], "datatype": "BYTES", "data": ["aGk="]}
ZEROS = {"name": "image", "shape": [1, 3, 1, 2], "datatype": "FP32"}
NESTED = "[" * 1000 + "]" * 1000


def peak(action: Callable[[], object]) -> int:
    """Return how many bytes more than before are in use at most."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def refused(fields: Any, words: str, binary: bytes = b"") -> int:
    """Assert that a request is refused; return the bytes that reading it takes at most."""
    header = json.dumps(fields).encode()
    body = header + binary

    def read() -> None:
        with pytest.raises(InvalidInferenceRequest) as raised:
            read_batch(*read_request(body, len(header)), SPEC, 3)
        assert words in raised.value.detail
        assert len(raised.value.detail) < 1000

    return peak(read)


def test_a_long_text_among_numbers_takes_no_more_than_itself() -> None:
    """NumPy would give each number the room of the text."""
    data = ["x" * 10_000, *[0] * 2000]
    for values in (data, [data], [[[data]]]):
        assert refused({"inputs": [ZEROS | {"data": values}]}, "data: not numbers throughout") < 1_000_000


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"inputs": [0] * 5000}, "inputs: list should have at most 64 items"),
        ({"inputs": [ONE], "outputs": [0] * 5000}, "outputs: list should have at most 64 items"),
        ({"inputs": [ONE | {"shape": ["1"] * 5000}]}, "inputs.0.shape: list should have at most 8 items"),
        ({"inputs": [ONE | {"shape": [1] * 5000}]}, "inputs.0.shape: list should have at most 8 items"),
    ],
)
def test_long_lists_give_one_error(fields: Any, words: str) -> None:
    assert refused(fields, words) < 1_000_000


def test_more_elements_than_images_are_not_read() -> None:
    many = elements(*[b"hi"] * 10_000)
    given = {"name": "image", "shape": [2], "datatype": "BYTES"}
    given |= {"parameters": {"binary_data_size": len(many)}}
    assert refused({"inputs": [given]}, "are not 2 elements of BYTES", many) < 100_000
    given = ONE | {"shape": [2], "data": [0] * 10_000}
    refused({"inputs": [given]}, "data: 10000 items (needed: 2 texts in base64)")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ('"parameters": {"binary_data_output": NESTED}', "binary_data_output an array (allowed"),
        ('"parameters": {"binary_data_output": {"a": NESTED}}', "binary_data_output an object (allowed"),
        ('"parameters": {"min_score": NESTED}', "parameter 'min_score': an array (allowed: a number)"),
        ('"outputs": [{"name": "heatmap", "parameters": {"binary_data": NESTED}}]', "binary_data an array"),
        ('"outputs": [{"name": "heatmap", "parameters": {"classification": NESTED}}]', "classification"),
        ('"id": NESTED', "id: input should be a valid string"),
    ],
)
def test_deeply_nested_values_are_named_by_kind(client: httpx.Client, fields: str, words: str) -> None:
    body = f'{{"inputs": [{json.dumps(ONE)}], {fields.replace("NESTED", NESTED)}}}'
    assert_protocol_error(client.post("/v2/models/colours/infer", content=body), 400, words)


def test_deeply_nested_tensors(client: httpx.Client) -> None:
    for entry, words in (
        ({"data": "NESTED", "shape": [1, 3, 32, 32], "datatype": "FP32"}, "data: not numbers throughout"),
        ({"data": "NESTED"}, "data: 1 items (needed: 1 texts in base64)"),
        ({"parameters": {"binary_data_size": "NESTED"}}, "binary_data_size an array"),
    ):
        body = json.dumps({"inputs": [ONE | entry]}).replace('"NESTED"', NESTED)
        assert_protocol_error(client.post("/v2/models/tiny/infer", content=body), 400, words)


def test_the_length_of_classes(client: httpx.Client, png: bytes) -> None:
    def post(classes: str) -> httpx.Response:
        request = body_of(images(png), ["detected_counts"], parameters={"classes": classes})
        return client.post("/v2/models/colours/infer", **request)

    assert post("0," * 2000).status_code == 200
    assert_protocol_error(post("0," * 2000 + "0"), 400, "parameter 'classes': 4001 characters (limit: 4000)")
