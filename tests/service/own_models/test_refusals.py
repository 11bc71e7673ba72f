"""Files that are no model to serve: each is refused in one line that says what to do, and leaves nothing."""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from service.errors import RefusedModel
from service.own_models.add import Bounds, Options, add
from tests.helpers.foreign import SIDE, graph_of, looping, network, save

FLOAT = TensorProto.FLOAT
IMAGE = helper.make_tensor_value_info("image", FLOAT, ["N", 3, SIDE, SIDE])
node, info = helper.make_node, helper.make_tensor_value_info


def refused(file: Path, zoo: Path, bounds: Bounds | None = None, **options: Any) -> str:
    """Add a file, which must be refused in one line and leave nothing; return the words."""
    with pytest.raises(RefusedModel) as error:
        add(file, Options(**{"name": "m", **options}), to=zoo, bounds=bounds)
    words = str(error.value)
    assert "\n" not in words
    assert str(zoo.parent) not in words
    assert not zoo.exists() or list(zoo.iterdir()) == []
    return words


NOT_ONNX: dict[str, tuple[str, bytes, str]] = {
    "PyTorch": ("net.pt", b"PK\x03\x04" + bytes(40), "a zip archive.*torch.onnx.export"),
    "pickle": ("net.pth", b"\x80\x02}q\x00.", "a Python pickle.*torch.onnx.export"),
    "safetensors": ("net.safetensors", bytes(8) + b'{"a":1}', "weights without a network.*optimum-cli"),
    "TFLite": ("net.tflite", b"\x1c\0\0\0TFL3" + bytes(40), "TensorFlow Lite.*tf2onnx.*--tflite"),
    "Keras": ("net.h5", b"\x89HDF\r\n\x1a\n" + bytes(40), r"HDF5.*model.export\('model.onnx'"),
    "HTML": ("net.onnx", b"<!DOCTYPE html><html>not found</html>", "an HTML page.*download it again"),
    "LFS": ("net.onnx", b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS.*git lfs pull"),
    "empty": ("net.onnx", b"", "it is empty"),
    "noise": ("net.onnx", b"\x08\x07" + bytes(range(256)), "not an ONNX file, or a damaged one"),
}


@pytest.mark.parametrize("kind", NOT_ONNX)
def test_another_kind_of_file_is_named_with_its_remedy(kind: str, tmp_path: Path) -> None:
    name, content, words = NOT_ONNX[kind]
    file = tmp_path / name
    file.write_bytes(content)
    said = refused(file, tmp_path / "zoo")
    assert re.search(words, said), said


def test_a_saved_model_folder_is_named_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    assert "a TensorFlow SavedModel" in refused(tmp_path / "saved", tmp_path / "zoo")
    assert "--saved-model" in refused(tmp_path / "saved", tmp_path / "zoo")


def test_a_folder_is_answered_with_the_files_in_it(tmp_path: Path) -> None:
    save(tmp_path / "repository" / "onnx" / "model.onnx")
    words = refused(tmp_path / "repository", tmp_path / "zoo")
    assert words == "repository: a folder (allowed: an ONNX file, such as onnx/model.onnx)"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path / "none.onnx", tmp_path / "zoo") == "none.onnx: no such file"


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    file = save(tmp_path / "net.onnx")
    file.write_bytes(file.read_bytes()[:300])
    assert refused(file, tmp_path / "zoo") == "net.onnx: cut off after 300 bytes: download it again"


def test_a_file_over_two_gibibytes_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    with file.open("wb") as sparse:
        sparse.truncate(3_000_000_000)
    assert refused(file, tmp_path / "zoo") == ("net.onnx: 3000000000 bytes (allowed: 2147483647, 2 GiB)")


@pytest.mark.parametrize("location", ["../outside.data", "/etc/passwd", "missing.data"])
def test_external_data_elsewhere_is_refused(location: str, tmp_path: Path) -> None:
    model = network()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "outside.data").write_bytes(bytes(10_000))
    words = refused(save(tmp_path / "given" / "net.onnx", model), tmp_path / "zoo")
    assert location.rpartition("/")[2] in words


def grey_scale() -> onnx.ModelProto:
    maps = node("Conv", ["image", "w"], ["maps"])
    return graph_of([maps], [IMAGE], [info("maps", FLOAT, None)], {"w": np.ones((4, 3, 3, 3), np.float32)})


def detector() -> onnx.ModelProto:
    nodes = [node("Conv", ["image", "w"], [name]) for name in ("heat", "size", "offset")]
    values = [info(name, FLOAT, None) for name in ("heat", "size", "offset")]
    return graph_of(nodes, [IMAGE], values, {"w": np.ones((4, 3, 3, 3), np.float32)})


def boxes() -> onnx.ModelProto:
    nodes = [node("Reshape", ["image", "shape"], ["boxes"])]
    shape = {"shape": np.array([0, -1, 6], np.int64)}
    return graph_of(nodes, [IMAGE], [info("boxes", FLOAT, None)], shape)


def two_inputs() -> onnx.ModelProto:
    other = info("mask", FLOAT, ["N", 3, SIDE, SIDE])
    return graph_of([node("Add", ["image", "mask"], ["y"])], [IMAGE, other], [info("y", FLOAT, None)])


def sequence() -> onnx.ModelProto:
    value = helper.make_tensor_sequence_value_info("parts", FLOAT, None)
    return graph_of([node("SplitToSequence", ["image"], ["parts"], axis=1)], [IMAGE], [value])


def huge() -> onnx.ModelProto:
    """A tensor of 100 GB."""
    nodes = [
        node("GlobalAveragePool", ["image"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("Expand", ["flat", "shape"], ["much"]),
        node("ReduceMax", ["much"], ["y"], axes=[0, 1], keepdims=0),
    ]
    model = graph_of(
        nodes, [IMAGE], [info("y", FLOAT, ["N", 3])], {"shape": np.array([100_000, 83_334, 1, 3], np.int64)}
    )
    model.opset_import[0].version = 17
    return model


GRAPHS: dict[str, tuple[Callable[[], onnx.ModelProto], list[str]]] = {
    "segmentation": (grey_scale, ["'maps' float32 (1, 4, 14, 14)", "segmentation"]),
    "detection": (detector, ["detection network", "an image classifier"]),
    "boxes": (boxes, ["detection network"]),
    "two inputs": (two_inputs, ["inputs: 2", "'mask'", "allowed: one, the image"]),
    "sequence": (sequence, ["a sequence", "ZipMap"]),
    "custom operator": (lambda: network(domain="org.example"), ["operators of org.example"]),
    "int input": (
        lambda: network(shape=["N", 3, SIDE, SIDE], kind=TensorProto.INT32),
        ["input 'x': int32 (allowed: float32, float16, uint8)"],
    ),
    "four channels": (lambda: network(channels=4), ["1 or 3 channels, first or last"]),
    "three dimensions": (lambda: network(shape=[3, SIDE, SIDE]), ["3 dimensions", "allowed: 4"]),
    "one score": (lambda: network(classes=1), ["one score without a sigmoid"]),
    "several outputs": (
        lambda: network(more_outputs=[("z", "flat")]),
        ["'y' float32 (1, 5)", "'z' float32 (1, 6)", "--output NAME"],
    ),
}


@pytest.mark.parametrize("kind", GRAPHS)
def test_a_network_that_is_no_classifier_is_refused(kind: str, tmp_path: Path) -> None:
    make, parts = GRAPHS[kind]
    words = refused(save(tmp_path / "net.onnx", make()), tmp_path / "zoo")
    assert all(part in words for part in parts), words


@pytest.fixture
def fork_server(tmp_path: Path) -> None:
    """A fork server that runs, so that a trial spends its time on the file."""
    add(save(tmp_path / "plain.onnx"), Options(name="plain"), to=tmp_path / "other")


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
def test_a_loop_is_ended(tmp_path: Path) -> None:
    words = refused(save(tmp_path / "net.onnx", looping()), tmp_path / "zoo", Bounds(seconds=0.5))
    assert words == "net.onnx: it does not load and run once within 0.5 s (--time-limit allows more)"


@pytest.mark.slow
@pytest.mark.usefixtures("fork_server")
def test_the_time_is_one_for_all_layouts_and_batches_that_are_tried(tmp_path: Path) -> None:
    model = looping()
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, name in zip(dims, "nabc", strict=True):
        dim.dim_param = name
    begun = time.monotonic()
    words = refused(save(tmp_path / "net.onnx", model), tmp_path / "zoo", Bounds(seconds=1.5))
    assert words == "net.onnx: it does not load and run once within 1.5 s (--time-limit allows more)"
    assert time.monotonic() - begun < 3


@pytest.mark.slow
def test_a_hundred_gigabytes_are_refused(tmp_path: Path) -> None:
    words = refused(save(tmp_path / "net.onnx", huge()), tmp_path / "zoo", Bounds(memory_bytes=1 << 30))
    assert "it needs more than 1 GiB of memory: " in words


def test_the_runtimes_own_words_are_given(tmp_path: Path) -> None:
    model = network(shape=["N", 3, "h", "w"])
    model.graph.node.insert(4, node("Reshape", ["flat", "seven"], ["seven_of"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 7], np.int64), "seven"))
    model.graph.node[5].input[0] = "seven_of"
    words = refused(save(tmp_path / "net.onnx", model), tmp_path / "zoo")
    assert "ONNX Runtime" in words
    assert "Gemm" in words


def write(name: str, content: str | bytes) -> Callable[[Path], Path]:
    def at(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return at


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (write("l.txt", "a\nb\nc\n"), "3 names for 5 scores (allowed: 5, or 4 with a background class"),
        (write("l.txt", "a\n\nb\nc\nd\n"), "l.txt: the name of class 1 is blank"),
        (write("l.json", "[1, [], 2, 3, 4]"), "l.json: a name is not text"),
        (write("l.json", '{"a": "b"}'), "l.json: keys are not class ids"),
        (write("l.json", '{"0": "a", "2": "b"}'), "l.json: class ids are not 0 to 1"),
        (write("l.json", "[" * 100_000), "l.json: not valid JSON"),
        (write("l.pkl", pickle.dumps(["a"] * 5)), "l.pkl: a pickle or NumPy file"),
        (write("l.txt", pickle.dumps(["a"] * 5)), "l.txt: a pickle or NumPy file"),
        (lambda folder: folder / "none.txt", "no such file or label set (allowed: a file, faces, fas"),
    ],
    ids=range(9),
)
def test_labels_that_do_not_fit_are_refused(
    labels: Callable[[Path], Path], words: str, tmp_path: Path
) -> None:
    said = refused(save(tmp_path / "net.onnx"), tmp_path / "zoo", labels=labels(tmp_path))
    assert words in said


def test_a_pickle_of_labels_is_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "opened",))

    (tmp_path / "labels.pkl").write_bytes(pickle.dumps(Trap()))
    refused(save(tmp_path / "net.onnx"), tmp_path / "zoo", labels=tmp_path / "labels.pkl")
    assert not (tmp_path / "opened").exists()


def test_an_unknown_preset_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    words = refused(save(tmp_path / "net.onnx"), tmp_path / "zoo", preset="onnx")
    assert words.startswith("--preset 'onnx': unknown (allowed: torchvision, timm, hf, keras")
