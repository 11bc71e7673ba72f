"""Bytes of requests to /v2, damaged at random."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from models.zoo.card import InputSpec
from service.api.v2.wire import json_length, read_batch, read_request
from service.errors import InvalidInferenceRequest

SPEC = InputSpec(height=1, width=2, resize=2, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="bilinear")

ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
NEARLY_AN_INPUT = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "image", "image", "x"]),
        "shape": st.sampled_from([[1], [2, 1], [1, 3, 1, 2], [2, 3, 1, 2], [], [10**20]]) | ANYTHING,
        "datatype": st.sampled_from(["BYTES", "FP32", "FP32", "INT8"]),
    },
    optional={
        "data": st.sampled_from([["aGk="], [["aGk="], ["aGk="]], [1, 2, 3, 4, 5, 6], [1.5] * 12]) | ANYTHING,
        "parameters": st.fixed_dictionaries(
            {}, optional={"binary_data_size": st.sampled_from([0, 6, 24, 40, -1, "6"])}
        ),
    },
)
NEARLY_A_REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(NEARLY_AN_INPUT, min_size=1, max_size=2)}, optional={"id": ANYTHING}
)


@given(st.data())
@settings(max_examples=40)
def test_broken_requests_are_refused(data: st.DataObject) -> None:
    """Whatever bytes arrive, they are read or refused with an expected error."""
    fields = data.draw(NEARLY_A_REQUEST)
    header = json.dumps(fields).encode()
    binary = data.draw(st.binary(max_size=40))
    body = header + binary
    if data.draw(st.booleans()):
        start = data.draw(st.integers(0, len(body)))
        body = body[:start] + data.draw(st.binary(max_size=4)) + body[start + data.draw(st.integers(0, 4)) :]
    given_length = data.draw(st.sampled_from([None, str(len(header)), str(len(header) + 1), "7", "x", ""]))
    try:
        asked, rest = read_request(body, json_length(body, given_length))
        batch = read_batch(asked, rest, SPEC, 3)
    except InvalidInferenceRequest:
        return
    assert 1 <= len(batch) <= 3
    assert isinstance(batch, list) or batch.shape[1:] == SPEC.graph_shape
