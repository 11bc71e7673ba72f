"""Benchmarks of detectors: from bytes to objects, with the network alone, in OpenVINO, through a service."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from PIL import Image

from models.zoo.card import Card, read_card
from models.zoo.preprocess import preprocess
from service.bench.bundle_file import from_json, to_json
from service.bench.measure.inputs import natural_picture
from service.bench.measure.plan import Repetitions, Request, make_plan
from service.bench.measure.runner import Runner
from service.bench.measure.subjects import FromBytes, ThroughService
from service.inference.registry import Registry
from service.inference.runtimes.opening import open_session
from tests.conftest import make_tiny_model
from tests.helpers.detectors import DECODERS, save_detector
from tests.helpers.networks import put_file


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zoo")
    make_tiny_model(folder, "tiny")
    for kind in DECODERS:
        save_detector(folder, kind, kind)
    return folder


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A red square on black: one object."""
    image = Image.new("RGB", (640, 480))
    image.paste((255, 0, 0), (100, 90, 140, 120))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def opened(zoo: Path, name: str) -> tuple[Card, bytes]:
    card = read_card(zoo / name)
    return card, (zoo / name / card.file.name).read_bytes()


@pytest.mark.parametrize("kind", DECODERS)
def test_from_bytes_to_objects(zoo: Path, picture: bytes, kind: str) -> None:
    card, content = opened(zoo, kind)
    subject = FromBytes(open_session("onnxruntime", content, card).run, card, [picture], 10**8)
    times = subject.run(0)
    assert list(times) == ["decode", "preprocess", "inference", "postprocess", "nms", "total"]
    assert times["total"] == sum(times.values()) - times["total"]
    assert min(times.values()) > 0


def test_classifiers_are_measured_to_their_logits(zoo: Path, picture: bytes) -> None:
    card, content = opened(zoo, "tiny")
    subject = FromBytes(open_session("onnxruntime", content, card).run, card, [picture], 10**8)
    assert list(subject.run(0)) == ["decode", "preprocess", "inference", "total"]


@pytest.mark.openvino
@pytest.mark.parametrize("kind", ["centre-points", "ssd-anchors", "decoded-boxes", "one-class-a-box"])
def test_openvino_gives_the_same_outputs(zoo: Path, kind: str) -> None:
    card, content = opened(zoo, kind)
    tensor = preprocess(natural_picture(), card.input)
    here, there = (open_session(name, content, card).run(tensor) for name in ("onnxruntime", "openvino"))
    assert list(here) == list(there) == list(card.main_outputs)
    for name, value in here.items():
        np.testing.assert_allclose(there[name], value, atol=1e-4)


def test_through_a_service(serve_for_module: Callable[..., httpx.Client], zoo: Path, picture: bytes) -> None:
    client = serve_for_module(model_dirs=(zoo,))
    with closing(
        ThroughService(str(client.base_url), "centre-points", [picture], "object-detection")
    ) as subject:
        times = subject.run(0)
    assert times["nms"] > 0
    assert times["round_trip"] > times["total"] > times["nms"]


def test_plan_has_the_task_of_each_model(zoo: Path) -> None:
    plan = make_plan(Registry([zoo], "tiny"), Request(models=("ssd-anchors", "tiny")))
    assert {model.name: (model.task, model.classes) for model in plan.models} == {
        "ssd-anchors": ("object-detection", 3),
        "tiny": ("image-classification", 10),
    }
    assert [model.name for model in make_plan(Registry([zoo], "tiny"), Request()).models] == ["tiny"]


@pytest.mark.fault
def test_whole_benchmark(
    serve_for_module: Callable[..., httpx.Client], zoo: Path, picture: bytes, tmp_path: Path
) -> None:
    """Two detectors and a classifier, on a photo, alone and through a service."""
    client = serve_for_module(model_dirs=(zoo,))
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(picture)
    request = Request(
        models=("centre-points", "selected-boxes", "tiny"), photos=(photo,), url=str(client.base_url), seed=1
    )
    repetitions = Repetitions(1, 2, 32, 0.0, 1, 700)
    plan = replace(make_plan(Registry([zoo], "tiny"), request, repetitions=repetitions), warm_up_s=0.0)
    bundle = Runner(plan).run()
    assert from_json(to_json(bundle)) == bundle
    for name in ("centre-points", "selected-boxes", "centre-points@http"):
        assert len(bundle.samples(name, "nms")) == 64
        parts = sum(
            statistics.median(bundle.samples(name, stage))
            for stage in ("decode", "preprocess", "inference", "postprocess", "nms")
        )
        assert statistics.median(bundle.samples(name, "total")) >= 0.8 * parts
    assert bundle.samples("tiny", "nms") == ()


@pytest.mark.slow
def test_one_class(serve: Callable[..., httpx.Client], tmp_path: Path, picture: bytes) -> None:
    """A detector of one class, among classifiers: /recommend and /benchmarks work, for all models."""
    make_tiny_model(tmp_path, "tiny")
    folder = save_detector(tmp_path, "blue")
    (folder / "labels.txt").write_text("blue\n")
    model = onnx.load(folder / "model.onnx")
    (node,) = [node for node in model.graph.node if "heatmap" in node.output]
    model.graph.node.remove(node)
    model.graph.node.append(onnx.helper.make_node("Gather", ["grid", "class"], ["heatmap"], axis=1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([2]), "class"))
    for value in model.graph.output:
        if value.name == "heatmap":
            value.type.tensor_type.shape.dim[1].dim_value = 1
    put_file(folder, model)
    card = json.loads((folder / "card.json").read_text())
    card["classes"] = card["outputs"]["heatmap"][0] = 1
    (folder / "card.json").write_text(json.dumps(card))
    client = serve(model_dirs=(tmp_path,), default_detector="blue")
    assert client.post("/detect", content=picture).status_code == 200
    for query in ("", "?task=object-detection", "?labels=colours&task=object-detection"):
        answer = client.get(f"/recommend{query}")
        assert answer.status_code == 200, answer.text
    job = client.post("/benchmarks", json={"models": ["blue"]})
    assert job.status_code == 202, job.text
    assert client.delete(f"/benchmarks/{job.json()['id']}").status_code in (200, 202, 204)
