"""Triton's own client, unmodified, speaks to the service: the blocking one and the one for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as blocking
import tritonclient.http.aio as waiting
from numpy.typing import NDArray
from PIL import Image
from tritonclient.utils import InferenceServerException

from models.zoo.files import NETWORKS
from service.api.v2.metadata import EXTENSIONS
from service.settings import Settings
from tests.helpers.until import until
from tests.service.api.v2.test_infer import SQUARES, latencies, tiny_tensor
from tests.service.conftest import NewTables, running

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture(scope="module")
def address(client: httpx.Client) -> str:
    """Return the address of the service, as Triton's clients take it."""
    return client.base_url.netloc.decode()


@pytest.fixture
def triton(address: str) -> Iterator[Any]:
    """Return the blocking client."""
    with contextlib.closing(blocking.InferenceServerClient(address)) as client:
        yield client


def pictures(*contents: bytes, binary: bool = True) -> list[Any]:
    """Return the inputs of a request with encoded images."""
    array = np.array(contents, np.object_)
    return [
        blocking.InferInput("image", [len(array)], "BYTES").set_data_from_numpy(array, binary_data=binary)
    ]


def numbers(array: NDArray[Any], *, binary: bool = True) -> list[Any]:
    """Return the inputs of a request with a tensor."""
    given = blocking.InferInput("image", list(array.shape), "FP32")
    return [given.set_data_from_numpy(array, binary_data=binary)]


def test_health_and_metadata(triton: Any, client: httpx.Client) -> None:
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("tiny")
    assert not triton.is_model_ready("broken")
    assert not triton.is_model_ready("none")
    version = client.get("/models/tiny").json()["version"]
    assert triton.is_model_ready("tiny", version)
    assert not triton.is_model_ready("tiny", "1")
    assert triton.get_server_metadata()["extensions"] == EXTENSIONS
    assert triton.get_model_metadata("tiny") == triton.get_model_metadata("tiny", version)
    index = {entry["name"]: entry["state"] for entry in triton.get_model_repository_index()}
    assert index["tiny"] == "READY"
    assert index["broken"] == "UNAVAILABLE"


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "JSON"])
def test_tensors(triton: Any, client: httpx.Client, png: bytes, binary: bool) -> None:
    array = np.concatenate([tiny_tensor(png)] * 2)
    outputs = [blocking.InferRequestedOutput(name, binary_data=binary) for name in ("logits", "embedding")]
    result = triton.infer("tiny", numbers(array, binary=binary), outputs=outputs, request_id="7")
    assert result.get_response()["id"] == "7"
    assert result.get_response()["model_version"] == client.get("/models/tiny").json()["version"]
    assert result.as_numpy("logits").shape == (2, 10)
    assert result.as_numpy("embedding").dtype == np.float32
    by_default = triton.infer("tiny", numbers(array))
    np.testing.assert_array_equal(by_default.as_numpy("logits"), result.as_numpy("logits"))


def test_images_and_classes(triton: Any, client: httpx.Client, png: bytes, cat_jpeg: bytes) -> None:
    outputs = [blocking.InferRequestedOutput("probabilities", class_count=3)]
    result = triton.infer("tiny", pictures(png, cat_jpeg), outputs=outputs).as_numpy("probabilities")
    assert result.shape == (2, 3)
    for row, picture in zip(result, (png, cat_jpeg), strict=True):
        best = client.post("/classify?model=tiny&top_k=3", content=picture).json()["predictions"]
        shown = [text.decode().split(":") for text in row]
        assert [(int(number), label) for _, number, label in shown] == [
            (one["class_id"], one["label"]) for one in best
        ]


def test_objects(triton: Any, client: httpx.Client) -> None:
    result = triton.infer("colours", pictures(SQUARES), parameters={"min_score": 0.5})
    objects = client.post("/detect?model=colours", content=SQUARES).json()["detections"]
    assert [text.decode() for text in result.as_numpy("detected_labels")[0]] == [
        one["label"] for one in objects
    ]
    np.testing.assert_allclose(
        result.as_numpy("detected_boxes")[0], [list(one["box"].values()) for one in objects], rtol=1e-6
    )
    buffer = io.BytesIO()
    Image.new("RGB", (20, 20)).save(buffer, "PNG")
    none = triton.infer("colours", pictures(buffer.getvalue()))
    assert none.as_numpy("detected_boxes").shape == (1, 0, 4)
    assert none.as_numpy("detected_counts").tolist() == [0]


def test_concurrent_requests(address: str, client: httpx.Client, png: bytes) -> None:
    before = latencies(client, "tiny")["total"]
    with contextlib.closing(blocking.InferenceServerClient(address, concurrency=4)) as triton:
        pending = [triton.async_infer("tiny", pictures(png), request_id=str(n)) for n in range(8)]
        answers = [one.get_result().get_response()["id"] for one in pending]
    assert answers == [str(number) for number in range(8)]
    until(lambda: latencies(client, "tiny")["total"] == before + 8, "all are recorded")


def test_errors(triton: Any, png: bytes) -> None:
    def refused(status: str, words: str, *arguments: Any, **options: Any) -> None:
        with pytest.raises(InferenceServerException) as raised:
            triton.infer(*arguments, **options)
        assert raised.value.status() == status
        assert words in raised.value.message()

    refused("404", "model 'none': unknown", "none", pictures(png))
    refused("404", "no version '1'", "tiny", pictures(png), model_version="1")
    refused("503", "cannot be served", "broken", pictures(png))
    refused("400", "shape [1, 3, 8, 8]", "tiny", numbers(np.zeros((1, 3, 8, 8), np.float32)))
    refused("400", "5 images (allowed: 1 to 4)", "tiny", pictures(*[png] * 5))
    refused("413", "limit: 200000", "tiny", numbers(np.zeros((17, 3, 32, 32), np.float32)))
    refused("415", "image", "tiny", pictures(b"text"))
    for algorithm in ("gzip", "deflate"):
        refused("415", "allowed: identity", "tiny", pictures(png), request_compression_algorithm=algorithm)
    memory = blocking.InferInput("image", [1], "BYTES").set_shared_memory("region", 10)
    refused("400", "shared memory is not supported", "tiny", [memory])


def test_compressed_responses_are_not_promised(triton: Any, png: bytes) -> None:
    """A client may accept a compressed response, and gets one that is not."""
    for algorithm in ("gzip", "deflate"):
        result = triton.infer("tiny", pictures(png), response_compression_algorithm=algorithm)
        assert result.as_numpy("logits").shape == (1, 10)


@pytest.mark.slow
def test_the_example_in_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cat_jpeg: bytes, new_tables: NewTables
) -> None:
    """The Python of docs/v2.md runs as it is, apart from the port."""
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs/v2.md").read_text(), re.MULTILINE | re.DOTALL
    )
    (tmp_path / "cat.jpg").write_bytes(cat_jpeg)
    (tmp_path / "zoo").mkdir()
    for name in ("efficientnet-lite0-int8", "ssd-mobilenet-v2"):
        (tmp_path / "zoo" / name).symlink_to(NETWORKS / name)
    settings = Settings(
        model_dirs=(tmp_path / "zoo",),
        data_dir=tmp_path / "data",
        database_url=new_tables(tmp_path / "data"),
    )
    monkeypatch.chdir(tmp_path)
    said: list[Any] = []
    with running(settings) as service:
        code = code.replace("localhost:8000", service.base_url.netloc.decode())
        names: dict[str, Any] = {"print": lambda *shown: said.extend(shown)}
        exec(compile(code, "docs/v2.md", "exec"), names)
        names["client"].close()
        best = service.post("/classify?top_k=2", content=cat_jpeg).json()["predictions"]
    classes, labels, boxes = said
    shown = [text.decode().split(":") for text in classes[0]]
    assert [(int(number), label) for _, number, label in shown] == [
        (one["class_id"], one["label"]) for one in best
    ]
    assert labels[0][0] == b"Cat"
    assert boxes.shape == (1, labels.shape[1], 4)


def test_asyncio(address: str, png: bytes, cat_jpeg: bytes) -> None:
    async def ask() -> None:
        async with waiting.InferenceServerClient(address) as triton:
            assert await triton.is_server_live()
            assert await triton.is_server_ready()
            assert await triton.is_model_ready("tiny")
            assert not await triton.is_model_ready("broken")
            assert (await triton.get_server_metadata())["name"] == "weighin"
            assert (await triton.get_model_metadata("tiny"))["name"] == "tiny"
            assert await triton.get_model_repository_index()
            by_image, by_tensor, *others = await asyncio.gather(
                triton.infer("tiny", pictures(png), request_id="1"),
                triton.infer("tiny", numbers(tiny_tensor(png)), request_id="2"),
                *(triton.infer("tiny", pictures(png, cat_jpeg)) for _ in range(4)),
            )
            np.testing.assert_array_equal(by_image.as_numpy("logits"), by_tensor.as_numpy("logits"))
            assert [one.get_response()["id"] for one in (by_image, by_tensor)] == ["1", "2"]
            for one in others:
                np.testing.assert_array_equal(one.as_numpy("logits")[:1], by_image.as_numpy("logits"))
            with pytest.raises(InferenceServerException, match="model 'none': unknown"):
                await triton.infer("none", pictures(png))
            with pytest.raises(InferenceServerException, match="allowed: identity"):
                await triton.infer("tiny", pictures(png), request_compression_algorithm="gzip")

    asyncio.run(ask())
