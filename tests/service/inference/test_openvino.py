"""OpenVINO beside ONNX Runtime: sessions, and the service with either."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from models.zoo.card import Card, read_card
from models.zoo.files import NETWORKS
from models.zoo.machine import this_machine
from models.zoo.preprocess import preprocess
from service.bench.measure.inputs import natural_picture
from service.errors import ModelUnavailable
from service.inference.runtimes.base import Session, SessionError
from service.inference.runtimes.opening import open_session, runtime_version
from service.inference.runtimes.openvino import OpenVinoSession
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.networks import end_in_scaler
from tests.helpers.problems import assert_problem
from tests.helpers.until import until
from tests.service.conftest import running

pytestmark = pytest.mark.openvino

FASHION = "fashion-depthwise-separable"
INT8 = "fashion-inverted-residual-int8"
needs_avx512 = pytest.mark.skipif(
    "avx512bw" not in this_machine().instruction_set, reason="OpenVINO computes in bf16 only with AVX-512"
)


def opened(name: str, runtime: str = "openvino", **options: object) -> tuple[Session, Card]:
    card = read_card(NETWORKS / name)
    content = (NETWORKS / name / card.file.name).read_bytes()
    return open_session(runtime, content, card, **options), card  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [FASHION, "efficientnet-lite0"])
def test_same_logits(name: str) -> None:
    (there, card), (here, _) = opened(name, floats="f32"), opened(name, "onnxruntime")
    image = preprocess(natural_picture(), card.input)
    pair = np.concatenate((image, image[:, :, ::-1]))
    for tensor in (image, pair):
        np.testing.assert_allclose(there.run(tensor)["logits"], here.run(tensor)["logits"], atol=1e-3)
    assert (there.precision, there.label) == ("fp32", "openvino")


@needs_avx512
def test_precision_is_read_from_the_compiled_network() -> None:
    for name, precision in ((FASHION, "bf16"), (INT8, "int8+bf16")):
        session, card = opened(name, floats="bf16")
        assert (session.precision, session.label) == (precision, f"openvino-{precision.replace('+', '-')}")
        plain, _ = opened(name, floats="f32")
        assert (plain.precision, plain.label) == (card.precision, "openvino")
        image = preprocess(natural_picture(), card.input)
        assert not np.array_equal(session.run(image)["logits"], plain.run(image)["logits"])


def test_threads_do_not_share_a_request() -> None:
    session, card = opened("efficientnet-lite0-int8", streams=2)
    image = preprocess(natural_picture(), card.input)
    images = [image, image[:, :, :, ::-1].copy(), image[:, :, ::-1].copy(), image * 0.5]
    expected = [session.run(each)["logits"] for each in images]
    with ThreadPoolExecutor(4) as executor:
        for _ in range(5):
            results = executor.map(lambda each: session.run(each)["logits"], images)
            for got, wanted in zip(results, expected, strict=True):
                np.testing.assert_array_equal(got, wanted)


def test_threads_are_not_pinned() -> None:
    """Threads of several networks would be pinned to the same cores."""
    session, _ = opened(FASHION, streams=2)
    assert isinstance(session, OpenVinoSession)
    assert session.option("ENABLE_CPU_PINNING") is False
    assert session.option("NUM_STREAMS") == 2


def test_run_that_takes_too_long() -> None:
    session, card = opened("efficientnet-lite2")
    image = preprocess(natural_picture(), card.input)
    with pytest.raises(ModelUnavailable, match=r"takes longer than 0\.001 s"):
        session.run(image, limit_s=0.001)
    assert session.failure is not None
    assert session.run(image, limit_s=60)["logits"].shape == (1, 1000)
    assert session.failure is None


def test_file_that_does_not_load() -> None:
    card = read_card(NETWORKS / FASHION)
    content = (NETWORKS / FASHION / "model.onnx").read_bytes()
    for broken in (b"", b"not a model", content[: len(content) // 2]):
        with pytest.raises(SessionError):
            open_session("openvino", broken, card)


def test_only_main_outputs() -> None:
    session, card = opened(FASHION)
    with pytest.raises(ValueError, match=r"'embedding' \(allowed: logits\)"):
        session.run(preprocess(natural_picture(), card.input), ("embedding",))


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A float model with embedding, class map and measured accuracy, and its int8 variant."""
    for name in ("fashion-inverted-residual", INT8):
        shutil.copytree(NETWORKS / name, tmp_path / "zoo" / name)
    return tmp_path / "zoo"


@pytest.fixture
def settings(zoo: Path, tmp_path: Path) -> Settings:
    return Settings(model_dirs=(zoo,), default_model="fashion-inverted-residual", data_dir=tmp_path / "data")


def test_service_with_openvino(settings: Settings, png: bytes) -> None:
    answers = {}
    for runtime in ("onnxruntime", "openvino"):
        with running(settings.model_copy(update={"runtime": runtime})) as client:
            answers[runtime] = client.post("/classify", content=png).json()
            described = client.get("/models/fashion-inverted-residual").json()["runtime"]
            assert described["name"] == described["chosen"] == runtime
            assert (described["version"], described["reason"]) == (runtime_version(runtime), None)
            if runtime == "openvino":
                check_embeddings_and_class_maps(client, png)
            latency = client.get("/latency?stage=total&regime=live").json()
            label = described["name"] + ("" if described["precision"] == "fp32" else "-bf16")
            assert {"model": "fashion-inverted-residual", "runtime": label} in latency["runtimes"]
    there, here = answers["openvino"], answers["onnxruntime"]
    assert (there["runtime"], here["runtime"]) == ("openvino", "onnxruntime")
    for ours, theirs in zip(here["predictions"], there["predictions"], strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=0.02)


def check_embeddings_and_class_maps(client: httpx.Client, png: bytes) -> None:
    """Both are ONNX Runtime's: the map must sum up to the logit within 1e-3."""
    assert client.post("/explain", content=png).status_code == 200
    assert client.put("/gallery/images/one", content=png).status_code == 201
    (match,) = client.post("/retrieve-similar", content=png).json()["matches"]
    assert match["score"] == pytest.approx(1, abs=1e-6)
    runtimes = client.get("/latency").json()["runtimes"]
    assert {"model": "fashion-inverted-residual", "runtime": "onnxruntime"} in runtimes


def test_choice_by_request(settings: Settings, png: bytes) -> None:
    path = "/models/fashion-inverted-residual/runtime"
    with running(settings) as client:
        assert client.put(f"{path}?runtime=openvino&precision=f32").json()["runtime"]["name"] == "openvino"
        answer = client.post("/classify", content=png).json()
        assert (answer["runtime"], answer["precision"]) == ("openvino", "fp32")
        other = client.post(f"/classify?model={INT8}", content=png).json()
        assert (other["runtime"], other["precision"]) == ("onnxruntime", "int8")
    with running(settings) as client:  # kept
        assert client.post("/classify", content=png).json()["runtime"] == "openvino"
        assert client.put(f"{path}?runtime=default").json()["runtime"]["name"] == "onnxruntime"
        assert client.post("/classify", content=png).json()["runtime"] == "onnxruntime"


def test_going_back_needs_no_file(settings: Settings, zoo: Path, png: bytes) -> None:
    name = "fashion-inverted-residual"
    path = f"/models/{name}/runtime"
    with running(settings) as client:
        assert client.put(f"{path}?runtime=openvino").json()["runtime"]["name"] == "openvino"
        with (zoo / name / "model.onnx").open("r+b") as file:
            file.truncate(1000)
        assert client.put(f"{path}?runtime=onnxruntime").json()["runtime"]["name"] == "onnxruntime"
        assert client.post("/classify", content=png).json()["runtime"] == "onnxruntime"
        assert_problem(client.put(f"{path}?runtime=openvino"), 503, "model-unavailable", "cut off")


@needs_avx512
def test_bf16_is_another_precision(settings: Settings, png: bytes) -> None:
    with running(settings) as client:
        name = "fashion-inverted-residual"
        before = client.get(f"/models/{name}").json()
        assert before["accuracy"] == before["card"]["accuracy"]
        assert before["accuracy"]["kind"] == "measured"
        after = client.put(f"/models/{name}/runtime?runtime=openvino&precision=bf16").json()
        assert after["runtime"]["precision"] == "bf16"
        assert after["accuracy"] == before["accuracy"] | {"kind": "inherited"}
        assert after["card"] == before["card"]
        assert client.post("/classify", content=png).json()["precision"] == "bf16"
        compared = client.post("/compare", content=png).json()["results"]
        assert {each["model"]: (each["runtime"], each["precision"]) for each in compared} == {
            name: ("openvino", "bf16"),
            INT8: ("onnxruntime", "int8"),
        }
        recorded = client.get(f"/latency?model={name}&runtime=openvino-bf16&stage=total").json()
        assert recorded["latencies"][0]["count"] == 1


def test_file_that_openvino_refuses(settings: Settings, zoo: Path, png: bytes) -> None:
    name = "scaled"
    end_in_scaler(make_tiny_model(zoo, name))
    with running(settings.model_copy(update={"runtime": "openvino"})) as client:
        runtime = client.get(f"/models/{name}").json()["runtime"]
        assert (runtime["name"], runtime["chosen"]) == ("onnxruntime", "openvino")
        assert "OpenVINO" in runtime["reason"]
        assert client.post(f"/classify?model={name}", content=png).json()["runtime"] == "onnxruntime"
        answer = client.put(f"/models/{name}/runtime?runtime=openvino")
        assert_problem(answer, 422, "invalid-parameter", "runtime 'openvino': OpenVINO", "ai.onnx.ml.Scaler")


def test_dashboard_names_runtime_and_precision(settings: Settings, png: bytes) -> None:
    name = "fashion-inverted-residual"
    with running(settings) as client:
        client.post("/classify", content=png)
        page = client.get(f"/dashboard?model={name}").text
        assert "; runs in ONNX Runtime in fp32" in page
        assert "several runtimes" not in page
        client.put(f"/models/{name}/runtime?runtime=openvino&precision=f32")
        client.post("/classify", content=png)
        until(
            lambda: (
                "; runs in OpenVINO in fp32; the runs of several runtimes are pooled: onnxruntime and "
                "openvino" in client.get(f"/dashboard?model={name}").text
            ),
            "the dashboard names both runtimes",
        )
