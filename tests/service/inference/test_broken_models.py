"""Whatever is wrong with one model is said of it, and the others are served."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
import structlog
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from models.zoo.card import File
from service.errors import ModelUnavailable, UnreadableFolder
from service.inference.linear_head import UnusableHead, read_linear_head
from service.inference.registry import Registry
from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.helpers.networks import CONTRAST, LIGHT, SIDE, put_file, save_network, served
from tests.helpers.problems import assert_problem
from tests.service.conftest import running

ONE = np.array([1], np.int64)

NETWORKS: dict[str, tuple[dict[str, Any], str]] = {
    "fixed batch": ({"batch": 8}, r"fixed batch of 8 \(allowed: 1, or a dynamic"),
    "index out of range": (
        {"tail": [("Gather", ["at"], {"axis": 1})], "weights": {"at": np.array([*range(9), 100], np.int64)}},
        "ONNX Runtime .* cannot run it: .*out of data bounds, idx=100",
    ),
    "NaN always": (
        {"tail": [("Mul", ["nan"], {})], "weights": {"nan": np.array(np.nan, np.float32)}},
        "output 'logits' is not finite: 10 of 10 values",
    ),
    "infinite": (
        {"tail": [("Mul", ["inf"], {})], "weights": {"inf": np.array(np.inf, np.float32)}},
        "output 'logits' is not finite",
    ),
    "one value infinite": (
        {"bias": np.array([np.inf] + [0] * 9, np.float32)},
        "output 'logits' is not finite: 1 of 10 values",
    ),
    "NaN in the embedding": (
        {
            "tail": [("Sub", [LIGHT, LIGHT], {}), ("Log", [], {}), ("Mul", ["zero"], {})],
            "weights": {"zero": np.array(0, np.float32)},
            "embedding": True,
        },
        "output 'embedding' is not finite: 3 of 3 values",
    ),
    "other number of classes": (
        {"tail": [("Gather", ["at"], {"axis": 1})], "weights": {"at": np.arange(9)}},
        r"logits",
    ),
    "another shape than declared": (
        {"tail": [("Reshape", ["shape"], {})], "weights": {"shape": np.array([2, -1], np.int64)}},
        r"output 'logits' is float32 \(2, 5\), the card says float32 \(1, 10\)",
    ),
    "no values": (
        {"tail": [("Compress", ["none"], {"axis": 0})], "weights": {"none": np.zeros(1, bool)}},
        r"output 'logits' is float32 \(0, 10\), the card says float32 \(1, 10\)",
    ),
    "one dimension more": (
        {"tail": [("Unsqueeze", ["axis"], {})], "weights": {"axis": ONE}, "declared": ["N", 1, 10]},
        "output 'logits' is .*the card says float",
    ),
    "declared without a shape": ({"declared": None, "tail": [("NonZero", [], {})]}, "logits"),
    "float64": (
        {"tail": [("Cast", [], {"to": TensorProto.DOUBLE})], "kind": TensorProto.DOUBLE},
        r"tensor\(double\)",
    ),
    "int64": (
        {"tail": [("Cast", [], {"to": TensorProto.INT64})], "kind": TensorProto.INT64},
        r"tensor\(int64\)",
    ),
    "float16": (
        {"tail": [("Cast", [], {"to": TensorProto.FLOAT16})], "kind": TensorProto.FLOAT16},
        r"tensor\(float16\)",
    ),
    "strings": (
        {"tail": [("Cast", [], {"to": TensorProto.STRING})], "kind": TensorProto.STRING},
        r"tensor\(string\)",
    ),
    "sequence": ({"tail": [("SequenceConstruct", [], {})], "kind": -1}, r"seq\(tensor\(float\)\)"),
    "mean that makes everything infinite": (
        {
            "input": {
                "height": SIDE,
                "width": SIDE,
                "resize": SIDE,
                "mean": [127.0] * 3,
                "std": [1e-320] * 3,
                "interpolation": "bilinear",
            }
        },
        "output 'logits' is not finite",
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_network_with_wrong_outputs(tmp_path: Path, network: str) -> None:
    make_tiny_model(tmp_path, "good")
    changes, reason = NETWORKS[network]
    save_network(tmp_path, "broken", **changes)
    assert_only_broken(tmp_path, reason)


def truncate(folder: Path) -> None:
    put_file(folder, (folder / "model.onnx").read_bytes()[:-40])


def replace_by(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return replace


def loop(path: Path) -> None:
    path.symlink_to(path)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "model truncated": (truncate, "cannot load the model: its file is cut off after [0-9]+ bytes"),
    "model empty": (lambda f: put_file(f, b""), "cannot load the model"),
    "model a folder": (replace_by("model.onnx", Path.mkdir), "model.onnx cannot be read: is a folder"),
    "model a link to itself": (replace_by("model.onnx", loop), "model.onnx cannot be read: too many levels"),
    "model a broken link": (
        replace_by("model.onnx", lambda p: p.symlink_to("nowhere")),
        "model.onnx is missing",
    ),
    "model a pipe": (replace_by("model.onnx", os.mkfifo), "model.onnx cannot be read: not a regular file"),
    "card a folder": (replace_by("card.json", Path.mkdir), "card.json cannot be read: is a folder"),
    "card a link to itself": (replace_by("card.json", loop), "card.json cannot be read: too many levels"),
    "card a pipe": (replace_by("card.json", os.mkfifo), "card.json cannot be read: not a regular file"),
    "card of bytes": (
        lambda f: (f / "card.json").write_bytes(bytes(range(256))),
        "card.json is not text: byte 0x80 at 128 is not utf-8",
    ),
    "card nested deep": (
        lambda f: (f / "card.json").write_text('{"notes":' + "[" * 100_000),
        "card.json is not valid: the file: .*recursion limit",
    ),
    "card a number": (lambda f: (f / "card.json").write_text("1"), "card.json is not valid"),
    "card with an infinite mean": (
        lambda f: edit(f, "input", mean=[float("inf")] * 3),
        "card.json is not valid: input.mean.0: Input should be a finite number",
    ),
    "card that names a folder": (
        lambda f: edit(f, "file", name=".."),
        "its file .. cannot be read: is a folder",
    ),
    "card with more bytes than JSON readers can count": (
        lambda f: edit(f, "file", bytes=10**30),
        "card.json is not valid: file.bytes: Input should be less than or equal to 9007199254740991",
    ),
    "card with more pixels than a picture has": (
        lambda f: edit(f, "input", resize=2**50),
        "card.json is not valid: input.resize: Input should be less than or equal to 16384",
    ),
    "labels a folder": (replace_by("labels.txt", Path.mkdir), "labels .*cannot be read: is a folder"),
    "labels a link to itself": (replace_by("labels.txt", loop), "labels .* cannot be read: too many levels"),
    "model an LFS pointer": (
        lambda f: (f / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "not the one that the card describes, it is a Git LFS pointer.*`git lfs pull`",
    ),
    "model downloaded in part": (
        lambda f: (f / "model.onnx").write_bytes((f / "model.onnx").read_bytes()[:-40]),
        "not the one that the card describes, it is cut off: [0-9]+ bytes of [0-9]+: download it again",
    ),
    "model an error page": (
        lambda f: put_file(f, b"<html>404: Not Found</html>"),
        "cannot load the model: its file is not an ONNX file, it is an HTML page",
    ),
    "page with the key of external data": (
        lambda f: put_file(f, b"<html><script>window.location = '/'</script></html>"),
        "cannot be loaded: its file is not an ONNX file, it is an HTML page",
    ),
    "card an LFS pointer": (
        lambda f: (f / "card.json").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "its card.json is a Git LFS pointer",
    ),
    "card empty": (lambda f: (f / "card.json").write_bytes(b""), "its card.json is empty"),
    "labels an LFS pointer": (
        lambda f: (f / "labels.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "labels .* cannot be used: labels.txt is a Git LFS pointer",
    ),
    "labels of bytes": (
        lambda f: (f / "labels.txt").write_bytes(b"\xe9\n" * 10),
        "labels.txt is not UTF-8 text",
    ),
}


def edit(folder: Path, part: str, **changes: Any) -> None:
    card = json.loads((folder / "card.json").read_text())
    card[part] |= changes
    (folder / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize("fault", FILES)
def test_broken_file_affects_only_its_model(tmp_path: Path, fault: str) -> None:
    make_tiny_model(tmp_path, "good")
    break_it, reason = FILES[fault]
    break_it(save_network(tmp_path, "broken"))
    assert_only_broken(tmp_path, reason)


def assert_only_broken(zoo: Path, reason: str) -> None:
    registry = Registry([zoo], "good")
    registry.load()
    assert registry.ready
    assert [model.name for model in registry.loaded] == ["good"]
    with pytest.raises(ModelUnavailable, match=reason) as caught:
        registry.get("broken")
    message = str(caught.value)
    assert "model 'broken'" in message
    assert str(zoo) not in message
    assert "\n" not in message
    assert len(message) < 700


def test_a_batch_of_one_is_served(tmp_path: Path) -> None:
    save_network(tmp_path, "one", batch=1)
    registry = Registry([tmp_path], "one")
    registry.load()
    assert registry.get().name == "one"


def test_a_run_without_end_is_ended(tmp_path: Path) -> None:
    save_network(tmp_path, "good")
    put_file(save_network(tmp_path, "endless"), endless())
    registry = Registry([tmp_path], "good", warm_up_limit_s=0.3)
    registry.load()
    assert [model.name for model in registry.loaded] == ["good"]
    with pytest.raises(ModelUnavailable, match=r"'endless' .* a run takes longer than 0.3 s"):
        registry.get("endless")


def endless() -> onnx.ModelProto:
    """A network with a loop that nothing ends."""
    values = [("going", TensorProto.BOOL, []), ("scores", TensorProto.FLOAT, ["N", 10])]
    body = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}.next"]) for name, _, _ in values],
        "body",
        [helper.make_tensor_value_info("round", TensorProto.INT64, [])]
        + [helper.make_tensor_value_info(*value) for value in values],
        [helper.make_tensor_value_info(f"{name}.next", kind, shape) for name, kind, shape in values],
    )
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["means"]),
            helper.make_node("Gemm", ["means", "weight"], ["scores"]),
            helper.make_node("Loop", ["", "yes", "scores"], ["logits"], body=body),
        ],
        "endless",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 10])],
        [
            numpy_helper.from_array(np.array(True), "yes"),
            numpy_helper.from_array(np.ones((3, 10), np.float32), "weight"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_broken_links_in_the_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_network(tmp_path / "elsewhere", "linked")
    save_network(tmp_path / "zoo", "good")
    (tmp_path / "zoo/linked").symlink_to(tmp_path / "elsewhere/linked")
    (tmp_path / "zoo/gone").symlink_to(tmp_path / "nowhere")
    loop(tmp_path / "zoo/loop")
    (tmp_path / "zoo/empty").mkdir()
    (tmp_path / "zoo/README.md").write_text("no model")
    os.mkfifo(tmp_path / "zoo/pipe")
    assert Registry([tmp_path / "zoo"], "good").names() == ("good", "linked")
    lines = [line for line in capsys.readouterr().out.splitlines() if "folder skipped" in line]
    assert len(lines) == 2
    assert "/gone" in lines[0]
    assert "no such file" in lines[0]
    assert "/loop" in lines[1]
    assert "too many levels" in lines[1]


@pytest.mark.slow
def test_names_that_are_no_text_are_shown(tmp_path: Path) -> None:
    save_network(tmp_path / "zoo", "good")
    for name in (b"m\xfcller", b"two\nlines"):
        folder = tmp_path / "zoo" / os.fsdecode(name)
        folder.mkdir()
        (folder / "card.json").write_text("{}")
    settings = Settings(model_dirs=(tmp_path / "zoo",), default_model="good", data_dir=tmp_path / "data")
    with running(settings) as client:
        names = [model["name"] for model in client.get("/models").json()["models"]]
        assert names == ["good", "m\\xfcller", "two\nlines"]
        for path in ("/readyz", "/dashboard", "/latency", "/metrics", "/recommend", "/"):
            assert client.get(path).status_code == 200
        assert_problem(client.post("/classify?model=x", content=picture(0)), 404, "unknown-model", "xfcller")


def test_reason_is_one_short_line(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "good")
    folder = save_network(tmp_path, "broken")
    model = onnx.load(folder / "model.onnx")
    for number in range(3):
        name = f"input {number}\n" * 500
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]))
    put_file(folder, model)
    assert_only_broken(tmp_path, "the model's inputs are")


@pytest.mark.parametrize("make", [loop, Path.touch, lambda path: path.symlink_to("nowhere")])
def test_unreadable_zoo(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "zoo")
    with pytest.raises((FileNotFoundError, UnreadableFolder), match=f"{tmp_path}/zoo"):
        Registry([tmp_path / "zoo"], "good")


def test_labels_file_is_a_broken_link(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "good")
    replace_by("labels.txt", lambda p: p.symlink_to("nowhere"))(save_network(tmp_path, "broken"))
    assert_only_broken(tmp_path, "labels .* cannot be read: no such file")


@pytest.mark.slow
def test_ready_after_any_failure(tmp_path: Path) -> None:
    """An error that is no fault of a model: the log cannot be written."""
    make_tiny_model(tmp_path, "good")
    save_network(tmp_path, "z-last")
    save_network(tmp_path, "not-finite", **NETWORKS["infinite"][0])
    registry = Registry([tmp_path], "good")
    closed = (tmp_path / "log").open("w")
    closed.close()
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(closed))
    try:
        with pytest.raises(ValueError, match="closed file"):
            registry.load()
    finally:
        structlog.configure(**before)
    assert registry.ready
    assert [model.name for model in registry.loaded] == ["good", "z-last"]
    with pytest.raises(ModelUnavailable, match="see the log"):
        registry.get("not-finite")


FLAT = {"tail": [("Div", [CONTRAST], {})]}
DARK = {
    "tail": [("Log", [LIGHT], {}), ("Gather", ["at"], {"axis": 1})],
    "weights": {"at": np.zeros(10, np.int64)},
}


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def test_network_that_fails_on_flat_pictures_only(tmp_path: Path) -> None:
    save_network(tmp_path, "flat", **FLAT)
    registry = Registry([tmp_path], "flat")
    registry.load()
    assert registry.get().session.failure is None


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service of `good`, `dark`, which gives NaN for dark pictures, and `batch-8`, the default model."""
    zoo = tmp_path_factory.mktemp("zoo")
    save_network(zoo, "good", embedding=True, tail=[("Abs", [LIGHT], {})], **same_labels())
    save_network(zoo, "dark", **DARK, **same_labels())
    save_network(zoo, "dark-embedding", [("Log", [LIGHT], {})], embedding=True, **same_labels())
    save_network(zoo, "batch-8", batch=8, **same_labels())
    settings = Settings(
        model_dirs=(zoo,),
        default_model="batch-8",
        gallery_model="dark-embedding",
        data_dir=tmp_path_factory.mktemp("data"),
    )
    with running(settings) as client:
        yield client


def same_labels() -> dict[str, Any]:
    return {"labels": "ten"}


def problems(client: httpx.Client) -> dict[str, str | None]:
    return {model["name"]: model["reason"] for model in client.get("/models").json()["models"]}


def test_failure_is_reported_until_a_run_succeeds(fragile: httpx.Client) -> None:
    reason = "its latest run failed: output 'logits' is not finite: 10 of 10 values"
    assert fragile.post("/classify?model=dark", content=picture(255)).status_code == 200
    refused = fragile.post("/classify?model=dark", content=picture(0))
    assert_problem(refused, 503, "model-unavailable", "model 'dark' failed", "not finite: 10 of 10")
    assert problems(fragile)["dark"] == reason
    assert fragile.get("/models/dark").json()["loaded"] is True
    ready = fragile.get("/readyz").json()
    assert ready["failing"] == [{"model": "dark", "reason": reason}]
    assert [each["model"] for each in ready["broken"]] == ["batch-8"]
    assert (ready["models_loaded"], ready["models_broken"]) == (3, 1)
    assert fragile.post("/classify?model=dark", content=picture(255)).status_code == 200
    assert problems(fragile)["dark"] is None
    assert fragile.get("/readyz").json()["failing"] == []


def test_comparison_with_a_failing_model(fragile: httpx.Client) -> None:
    answer = fragile.post("/compare?models=good,dark", content=picture(0))
    assert_problem(answer, 503, "model-unavailable", "model 'dark' failed", "not finite")
    assert fragile.post("/compare?models=good,dark", content=picture(255)).status_code == 200


def test_broken_default_model(fragile: httpx.Client) -> None:
    assert_problem(
        fragile.post("/classify", content=picture(255)), 503, "model-unavailable", "'batch-8'", "batch of 8"
    )
    compared = fragile.post("/compare", content=picture(255)).json()
    assert [result["model"] for result in compared["results"]] == ["dark", "dark-embedding", "good"]
    assert compared["baseline"] == "dark"
    assert fragile.get("/").status_code == 200
    assert fragile.get("/dashboard").status_code == 200
    assert fragile.post("/classify?model=good", content=picture(0)).status_code == 200


def test_gallery_whose_model_fails(fragile: httpx.Client) -> None:
    for response in (
        fragile.put("/gallery/images/a", content=picture(0)),
        fragile.post("/retrieve-similar", content=picture(0)),
    ):
        assert_problem(response, 503, "model-unavailable", "'dark-embedding' failed", "output 'embedding'")
    assert fragile.put("/gallery/images/a", content=picture(255)).status_code == 201
    assert fragile.post("/retrieve-similar", content=picture(255)).status_code == 200


def test_gallery_whose_model_is_broken(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "zoo", "good")
    save_network(tmp_path / "zoo", "batch-8", batch=8, embedding=True, tail=[("Abs", [LIGHT], {})])
    settings = Settings(
        model_dirs=(tmp_path / "zoo",),
        default_model="good",
        gallery_model="batch-8",
        data_dir=tmp_path / "data",
    )
    with running(settings) as client:
        for response in (
            client.put("/gallery/images/a", content=picture(255)),
            client.post("/retrieve-similar", content=picture(255)),
        ):
            assert_problem(response, 503, "model-unavailable", "'batch-8'", "batch of 8")
        assert client.post("/classify", content=picture(255)).status_code == 200


def saved(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


HEAD = {"weight": np.ones((2, 3), np.float32), "bias": np.zeros(2, np.float32)}
HEADS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no arrays"),
    "text": (b"version https://git-lfs", "no arrays"),
    "cut off": (saved(HEAD)[:-30], "no arrays"),
    "damaged": (saved(HEAD).replace(b"NUMPY", b"NUMBY"), "no arrays"),
    "without a bias": (saved({"weight": HEAD["weight"]}), "no arrays"),
    "of text": (saved(HEAD | {"weight": np.array([["a"] * 3] * 2)}), "no arrays"),
    "of records": (saved(HEAD | {"weight": np.zeros((2, 3), "f4,f4")}), "no arrays"),
    "not finite": (saved(HEAD | {"weight": np.full((2, 3), np.nan)}), "not finite"),
    "too large for float32": (saved(HEAD | {"bias": np.full(2, 1e300)}), "not finite"),
    "of another shape": (saved(HEAD | {"weight": np.ones((3, 2))}), r"\(3, 2\) \(needed: \(2, 3\)\)"),
}


@pytest.mark.parametrize("head", HEADS)
def test_broken_classifier(tmp_path: Path, head: str) -> None:
    content, reason = HEADS[head]
    path = tmp_path / "classifier.npz"
    path.write_bytes(content)
    file = File(name=path.name, bytes=max(1, len(content)), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(UnusableHead, match=reason):
        read_linear_head(path, file, (2, 3))


def test_session_after_a_failed_run(tmp_path: Path) -> None:
    model = served(save_network(tmp_path, "dark", **DARK))
    dark, light = (np.full((1, 3, SIDE, SIDE), value, np.float32) for value in (-1, 1))
    with pytest.raises(ModelUnavailable, match="model 'dark' failed: output 'logits' is not finite"):
        model.session.run(dark)
    assert model.session.failure is not None
    assert np.isfinite(model.session.run(light)["logits"]).all()
    assert model.session.failure is None


def test_output_names_not_utf8(tmp_path: Path) -> None:
    make_tiny_model(tmp_path, "good")
    folder = save_network(tmp_path, "broken")
    put_file(folder, (folder / "model.onnx").read_bytes().replace(b"logits", b"log\xfc\xfcs"))
    assert_only_broken(tmp_path, "names that are not UTF-8|cannot load the model")


def test_huge_numbers_are_numbers(tmp_path: Path) -> None:
    save_network(tmp_path, "huge", bias=np.full(10, 3e38, np.float32))
    registry = Registry([tmp_path], "huge")
    registry.load()
    assert registry.get().name == "huge"
