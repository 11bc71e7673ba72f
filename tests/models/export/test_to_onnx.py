"""Exported files compute the same as the network; others are not written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from models.architectures.fashion import create  # noqa: E402
from models.data.photos import crops  # noqa: E402
from models.export import to_onnx as exporting  # noqa: E402
from models.export.to_onnx import ExportMismatchError, export, to_onnx  # noqa: E402
from models.onnx_tools.session import open_session, run  # noqa: E402
from models.publish.build import tensors  # noqa: E402
from models.publish.pretrained import load_pretrained  # noqa: E402
from models.publish.recipes import RECIPES  # noqa: E402
from tests.helpers.small_network import noise, small_network  # noqa: E402

pytestmark = pytest.mark.torch

SMALLEST = "fashion-standard-equal-macs"
"""The network that is exported in the least time."""


@pytest.mark.photos
@pytest.mark.parametrize("name", list(RECIPES))
def test_zoo_file_equals_the_network(name: str, photos: Path, zoo: Path) -> None:
    images = tensors(crops(photos, ["lomiri-wallpapers-16.04"], 2), RECIPES[name].input)
    found = run(open_session(zoo / name / "model.onnx"), images)
    with torch.no_grad():
        expected = load_pretrained(name)(torch.from_numpy(np.concatenate(images))).numpy()
    assert np.abs(found - expected).max() <= 1e-4
    assert len(set(expected.argmax(1))) > 10


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `small_network()`."""
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    export(small_network(), path, noise(3))
    return path


def test_any_batch_gives_the_same_outputs(exported: Path) -> None:
    network = small_network()
    session = open_session(exported)
    assert [(value.name, value.shape[1:]) for value in session.get_inputs()] == [("image", [3, 64, 64])]
    images = noise(5, seed=1)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert expected.std() > 0.1
    for batch in (1, 2, 5):
        logits, embedding, features = session.run(None, {"image": images[:batch]})
        assert np.abs(logits - expected[:batch]).max() <= 1e-4
        assert embedding.shape == (batch, 1280)
        assert features.shape == (batch, 1280, 2, 2)


def test_batch_norm_and_padding_are_folded_and_nothing_local_is_kept(exported: Path) -> None:
    model = onnx.load(exported)
    assert {node.op_type for node in model.graph.node} == {
        "Conv",
        "Clip",
        "Add",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    stem = next(node for node in model.graph.node if node.name == "stem.conv")
    pads = next(list(entry.ints) for entry in stem.attribute if entry.name == "pads")
    assert pads == [0, 0, 1, 1]
    content = model.SerializeToString()
    assert b"/models/" not in content
    assert b".py" not in content
    assert len(content) == pytest.approx(4 * sum(np.prod(t.dims) for t in model.graph.initializer), rel=0.2)


def test_export_preserves_training_mode() -> None:
    network = create(SMALLEST).train()
    to_onnx(network)
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    assert all(module.training for module in network.modules())


def test_mismatched_file_is_not_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_weights(_network: torch.nn.Module) -> onnx.ModelProto:
        return onnx.load(exported)

    monkeypatch.setattr(exporting, "to_onnx", other_weights)
    (tmp_path / "model.onnx").write_bytes(b"as it was")
    with pytest.raises(ExportMismatchError, match="logits: differs from the network's by"):
        export(small_network(seed=1), tmp_path / "model.onnx", noise(2))
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.onnx", b"as it was")]


def test_non_finite_outputs(tmp_path: Path) -> None:
    network = create(SMALLEST).eval()
    with torch.no_grad():
        network.classifier.bias[3] = float("nan")
    with pytest.raises(ExportMismatchError, match="logits: differs from the network's by nan"):
        export(network, tmp_path / "model.onnx", np.zeros((2, 1, 28, 28), np.float32))
    assert not list(tmp_path.iterdir())


def test_classifier_file_without_pickle(tmp_path: Path) -> None:
    network = small_network()
    exporting.write_classifier(network, tmp_path / "classifier.npz")
    with np.load(tmp_path / "classifier.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["bias", "weight"]
        assert np.array_equal(arrays["weight"], network.classifier.weight.detach().numpy())
        assert np.array_equal(arrays["bias"], network.classifier.bias.detach().numpy())
        assert arrays["weight"].dtype == np.float32
