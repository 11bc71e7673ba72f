"""Published weights of detectors: every key mapped, and the networks compute what the published files do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import skimage.data
from numpy.typing import NDArray

torch = pytest.importorskip("torch")

from models.data.photos import crops  # noqa: E402
from models.onnx_tools.session import open_session  # noqa: E402
from models.publish import detector_weights  # noqa: E402
from models.publish.detector_weights import (  # noqa: E402
    PublishedFileError,
    load_centerface,
    onnx_weights,
    published_file,
    ssd_keys,
    tflite_weights,
)
from models.publish.detectors import DETECTOR_RECIPES  # noqa: E402
from models.publish.pretrained import WeightsMismatchError  # noqa: E402
from models.zoo.labels import BUILT_IN  # noqa: E402
from models.zoo.preprocess import preprocess  # noqa: E402

pytestmark = pytest.mark.torch

TOLERANCE = 1e-3
"""Largest difference between outputs, in standard deviations of the published file's."""
Outputs = list[NDArray[np.float32]]


def with_litert(path: Path, image: NDArray[np.float32]) -> Outputs:
    """The outputs of a `.tflite` file for one image, float32 (1, 3, height, width)."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], np.ascontiguousarray(image.transpose(0, 2, 3, 1))
    )
    interpreter.invoke()
    return [interpreter.get_tensor(entry["index"]) for entry in interpreter.get_output_details()]


def with_onnxruntime(path: Path, image: NDArray[np.float32]) -> Outputs:
    """The outputs of the published CenterFace, whose shapes are fixed at another size, for one image."""
    model = onnx.load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    for value in (*model.graph.input, *model.graph.output):
        for axis in (0, 2, 3):
            value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}.{axis}"
    outputs: Outputs = open_session(model.SerializeToString()).run(None, {inputs[0].name: image})
    return outputs


REFERENCES: dict[str, Callable[[Path, NDArray[np.float32]], Outputs]] = {
    "ssd-mobilenet-v2": with_litert,
    "centerface": with_onnxruntime,
}


@pytest.mark.photos
@pytest.mark.parametrize("name", list(DETECTOR_RECIPES))
def test_raw_outputs_equal_the_published_networks(
    name: str, photos: Path, published: Path, zoo: Path
) -> None:
    recipe, path = DETECTOR_RECIPES[name], published_file(name, published)
    pictures = [skimage.data.astronaut(), skimage.data.cat(), skimage.data.coffee(), skimage.data.rocket()]
    pictures += list(crops(photos, ["lomiri-wallpapers-16.04"], 1))[:6]
    assert len(pictures) == 10
    network = recipe.load(path)
    assert list(network.outputs) == list(recipe.outputs)
    session = open_session(zoo / name / "model.onnx")
    strongest = []
    for pixels in pictures:
        image = preprocess(pixels, recipe.input)
        expected = REFERENCES[name](path, image)
        with torch.no_grad():
            found = [output.numpy() for output in network(torch.from_numpy(image))]
        exported = session.run(list(recipe.outputs), {"image": image})
        for role, ours, ours_in_onnx, theirs in zip(recipe.outputs, found, exported, expected, strict=True):
            assert ours.shape == ours_in_onnx.shape == theirs.shape == (1, *recipe.outputs[role])
            assert theirs.std() > 0
            assert np.abs(ours - theirs).max() <= TOLERANCE * theirs.std(), role
            assert np.abs(ours_in_onnx - theirs).max() <= TOLERANCE * theirs.std(), role
        strongest.append(float(max(theirs.max() for theirs in expected)))
    assert len(set(strongest)) == 10


def test_labels_are_those_beside_the_published_network(published: Path) -> None:
    background, *labels = (published / "open-images.txt").read_text().splitlines()
    assert background == "???"
    assert labels == (BUILT_IN / "open-images-23.txt").read_text().splitlines()
    assert {"Person", "Car", "Vehicle", "Bicycle"} <= set(labels)


def test_missing_and_changed_files(published: Path, tmp_path: Path) -> None:
    with pytest.raises(PublishedFileError, match=r"centerface\.onnx: not there; run: make detectors"):
        published_file("centerface", tmp_path)
    content = (published / "centerface.onnx").read_bytes()
    (tmp_path / "centerface.onnx").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PublishedFileError, match=r"centerface\.onnx: SHA-256 [0-9a-f]{64} \(allowed: 09189"):
        published_file("centerface", tmp_path)


def test_missing_surplus_and_misshapen_weights(published: Path, tmp_path: Path) -> None:
    model = onnx.load(published / "centerface.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "558")

    def load() -> None:
        onnx.save(model, tmp_path / "changed.onnx")
        load_centerface(tmp_path / "changed.onnx")

    tensor.name = "559"
    with pytest.raises(WeightsMismatchError, match=r"^missing: 558; unexpected: 559$"):
        load()
    tensor.name = "558"
    tensor.dims[:] = [96, 9, 1, 1]
    with pytest.raises(WeightsMismatchError, match=r"^of another shape: blocks\.1\.conv_dw\.weight$"):
        load()


def test_every_published_weight_is_used_once(published: Path) -> None:
    ssd = detector_weights.SsdMobileNetV2()
    keys = list(ssd_keys(ssd).values())
    assert len(keys) == len(set(keys)) == 144
    weights = tflite_weights(published / "ssd-mobilenet-v2.tflite")
    assert set(keys) == weights.keys()
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    centerface = list(detector_weights.centerface_keys(detector_weights.CenterFace()).values())
    assert len(centerface) == len(set(centerface))
    assert set(centerface) == onnx_weights(published / "centerface.onnx").keys()
