"""Requests and responses of the Open Inference Protocol, written and read by its specification."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

KINDS = {"FP32": "<f4", "FP16": "<f2", "UINT8": "u1", "INT64": "<i8"}


def elements(*contents: bytes) -> bytes:
    """Return elements of datatype BYTES."""
    return b"".join(struct.pack("<I", len(content)) + content for content in contents)


def images(*contents: bytes, name: str = "image") -> tuple[dict[str, Any], bytes]:
    """Return an input of encoded images, and its bytes."""
    return {"name": name, "shape": [len(contents)], "datatype": "BYTES"}, elements(*contents)


def tensor(values: NDArray[Any], name: str = "image") -> tuple[dict[str, Any], bytes]:
    """Return an input of numbers, and its bytes."""
    (datatype,) = (kind for kind, code in KINDS.items() if np.dtype(code) == values.dtype)
    return {"name": name, "shape": list(values.shape), "datatype": datatype}, values.tobytes()


def body_of(
    given: tuple[dict[str, Any], bytes], outputs: Sequence[Any] | None = None, **fields: Any
) -> dict[str, Any]:
    """Return body and header fields of a request with one binary input, for httpx.

    `outputs`: names, or names with parameters; they are returned as binary data, too.
    """
    entry, content = given
    entry = entry | {"parameters": {"binary_data_size": len(content)}}
    fields["inputs"] = [entry]
    fields["parameters"] = {"binary_data_output": True} | fields.get("parameters", {})
    if outputs is not None:
        pairs = [(output, {}) if isinstance(output, str) else output for output in outputs]
        fields["outputs"] = [{"name": name, "parameters": parameters} for name, parameters in pairs]
    header = json.dumps(fields).encode()
    return {
        "content": header + content,
        "headers": {"Inference-Header-Content-Length": str(len(header))},
    }


def infer(
    client: httpx.Client,
    model: str,
    given: tuple[dict[str, Any], bytes],
    outputs: Sequence[Any] | None = None,
    **fields: Any,
) -> dict[str, Any]:
    """Return the outputs by name: arrays, or nested lists of texts."""
    response = client.post(f"/v2/models/{model}/infer", **body_of(given, outputs, **fields))
    assert response.status_code == 200, response.text
    return outputs_of(response)


def outputs_of(response: httpx.Response) -> dict[str, Any]:
    """Return the outputs of a response by name."""
    length = response.headers.get("Inference-Header-Content-Length")
    content = response.content
    binary = b""
    if length is not None:
        content, binary = content[: int(length)], content[int(length) :]
    found: dict[str, Any] = {}
    for output in json.loads(content)["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        assert (size is None) == ("data" in output)
        if size is None:
            values = np.array(output["data"], KINDS.get(output["datatype"], object))
        elif output["datatype"] == "BYTES":
            values = np.array(_texts(binary[:size]), object)
        else:
            values = np.frombuffer(binary[:size], KINDS[output["datatype"]])
        binary = binary[size or 0 :]
        values = values.reshape(output["shape"])
        found[output["name"]] = values.tolist() if output["datatype"] == "BYTES" else values
    assert not binary
    return found


def _texts(binary: bytes) -> list[str]:
    texts = []
    while binary:
        (length,) = struct.unpack("<I", binary[:4])
        texts.append(binary[4 : 4 + length].decode())
        binary = binary[4 + length :]
    return texts


def assert_protocol_error(response: httpx.Response, status: int, *words: str) -> None:
    """Assert that `response` is an error in the protocol's form, with `words`, and nothing internal."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert list(body) == ["error"]
    for word in words:
        assert word in body["error"], body
    for internal in ("Traceback", "/site-packages", ".py", "service.", "0x", "/tmp", "/home"):
        assert internal not in response.text
    assert response.headers["x-request-id"]
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1
