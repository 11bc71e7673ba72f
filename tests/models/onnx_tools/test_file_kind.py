"""Files of other kinds are recognised by their signature."""

from __future__ import annotations

import io
import json
import pickle
import re
import tarfile
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.onnx_tools.file_kind import file_kind, looks_truncated


def network() -> bytes:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["image"], ["logits"])],
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [10])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [10])],
        [numpy_helper.from_array(np.arange(50, dtype=np.float32), "w")],
    )
    return bytes(helper.make_model(graph).SerializeToString())


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    return buffer.getvalue()


def tarred() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345678\n"
KINDS = {
    "empty": (b"", "empty: download it again"),
    "LFS pointer": (POINTER, "a Git LFS pointer.*`git lfs pull`"),
    "HTML": (b"\xef\xbb\xbf\n <!DOCTYPE html><html><title>Sign in</title>", "an HTML page"),
    "HTML without a type": (b"<html>404: Not Found</html>", "an HTML page"),
    "HTML in UTF-16": ("<!doctype html>".encode("utf-16"), "an HTML page"),
    "XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    "OpenVINO": (b'<net name="m" version="11"></net>', "an XML document"),
    "JSON": (b'{"message": "Not Found"}', "JSON text"),
    "text": (b"404: Not Found\n", "text .'404: not found'.: download it again"),
    "PyTorch": (zipped(), r"a zip archive, e.g. a PyTorch checkpoint \(.pt\).*export the model to ONNX"),
    "old PyTorch": (pickle.dumps({"w": 1}, protocol=2), "a Python pickle, e.g. a PyTorch checkpoint"),
    "TensorFlow Lite": (b"\x1c\0\0\0TFL3" + bytes(40), "a TensorFlow Lite model"),
    "ONNX Runtime's format": (b"\x18\0\0\0ORTM" + bytes(40), "a model in ONNX Runtime's own format"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(40), "an HDF5 file"),
    "safetensors": (safetensors(), "a safetensors file"),
    "GGUF": (b"GGUF" + bytes(40), "a GGUF file"),
    "gzip": (b"\x1f\x8b\x08\0" + bytes(40), "a gzip archive: unpack it"),
    "tar": (tarred(), "a tar archive: unpack it"),
    "image": (b"\x89PNG\r\n\x1a\n" + bytes(40), "a PNG image"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_named(kind: str) -> None:
    content, words = KINDS[kind]
    assert re.match(words, file_kind(content) or "")


@pytest.mark.parametrize("content", [network(), network()[:-10], bytes(range(128, 256)), b"\x0a\x05pytho"])
def test_unrecognised_content(content: bytes) -> None:
    assert file_kind(content) is None


def test_truncated_onnx_file() -> None:
    content = network()
    onnx.ModelProto.FromString(content)
    assert not looks_truncated(content)
    truncated = [looks_truncated(content[:end]) for end in range(10, len(content))]
    # Cut between two fields, it is a valid file, which the runtime refuses because parts are missing.
    assert truncated.count(False) <= 5
    assert looks_truncated(content[: len(content) // 2])
