"""Pulling a network from a hub: weights, preprocessing and labels; with local substitutes for the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from models.architectures.initialise import randomise  # noqa: E402
from models.cli import main  # noqa: E402
from models.export.to_onnx import model_file  # noqa: E402
from models.onnx_tools.session import open_session  # noqa: E402
from models.publish.pull import input_spec, label_set, pull, timm  # noqa: E402
from models.zoo.card import read_card  # noqa: E402
from models.zoo.labels import read_labels  # noqa: E402
from models.zoo.preprocess import preprocess  # noqa: E402
from tests.helpers.local_hub import local_hub  # noqa: E402

pytestmark = pytest.mark.torch

NETWORK = "mobilenetv3_small_100"


def saved(folder: Path, classes: int = 1000, **facts: Any) -> torch.nn.Module:
    """A randomly initialised network, saved in `folder` in the hub's format."""
    network = timm().create_model(NETWORK, num_classes=classes)
    randomise(network, 0, torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0)))
    network.pretrained_cfg.update(facts)
    timm().models.save_for_hf(network, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= facts
    (folder / "config.json").write_text(json.dumps(config))
    return network.eval()


@pytest.fixture
def photo() -> Image.Image:
    from skimage import data

    return Image.fromarray(data.astronaut()).crop((60, 0, 460, 400))


def test_pulled_network_equals_timm(tmp_path: Path, photo: Image.Image) -> None:
    facts = {"mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1], "crop_pct": 0.9, "interpolation": "bilinear"}
    network = saved(tmp_path / "hub", **facts)
    card = pull(f"timm/{NETWORK}", tmp_path / "zoo", folder=tmp_path / "hub", block="inverted-residual")
    folder = tmp_path / "zoo" / NETWORK
    assert card == read_card(folder)
    assert model_file(folder / "model.onnx") == card.file
    assert (card.parameters, card.labels, card.accuracy) == (2542856, "imagenet-1k", None)
    assert len(read_labels(card, folder)) == 1000
    assert card.outputs == {"logits": (1000,), "embedding": (1024,), "features": (576, 7, 7)}

    image = preprocess(np.asarray(photo), card.input)
    config = timm().data.resolve_model_data_config(timm().create_model(f"local-dir:{tmp_path / 'hub'}"))
    assert config["crop_pct"] == 0.9
    theirs = timm().data.create_transform(**config, is_training=False)(photo)[None]
    # 400 x 400 to 248 x 248 leaves 12 pixels on each side of the crop: no fraction that timm rounds away.
    steps = np.abs(image - theirs.numpy()) * np.array(facts["std"]).reshape(1, 3, 1, 1) * 255
    assert steps.mean() < 0.5
    (found,) = open_session(folder / "model.onnx").run(["logits"], {"image": theirs.numpy()})
    with torch.no_grad():
        expected = network(theirs).numpy()
    assert expected.std() > 0.1
    assert np.abs(found - expected).max() <= 1e-4 * expected.std()
    (ours,) = open_session(folder / "model.onnx").run(["logits"], {"image": image})
    assert np.corrcoef(ours[0], expected[0])[0, 1] > 0.99


def test_pull_from_a_hub(tmp_path: Path) -> None:
    network = saved(tmp_path / "hub")
    weights = (tmp_path / "hub" / "model.safetensors").read_bytes()
    path = f"/timm/{NETWORK}.lamb_in1k/resolve/main/model.safetensors"
    with local_hub(path, weights) as (address, requests):
        done = subprocess.run(
            [sys.executable, "-m", "models", "pull", f"timm/{NETWORK}", "--output", str(tmp_path / "zoo")],
            env=os.environ
            | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"},
            capture_output=True,
            text=True,
        )
    assert done.returncode == 0, done.stderr
    assert f"GET {path}" in requests
    assert " MB, labels imagenet-1k" in done.stdout
    card = read_card(tmp_path / "zoo" / NETWORK)
    assert card.source.weights == f"timm/{NETWORK}.lamb_in1k by timm {timm().__version__}"
    assert card.source.licence == "apache-2.0"
    assert (card.input.resize, card.input.interpolation) == (256, "bicubic")
    tensors = {t.name: t for t in onnx.load(tmp_path / "zoo" / NETWORK / "model.onnx").graph.initializer}
    stored = onnx.numpy_helper.to_array(tensors["model.classifier.weight"])
    assert np.array_equal(stored, network.classifier.weight.detach().numpy())


def test_labels_of_the_hub_configuration(tmp_path: Path) -> None:
    saved(tmp_path / "hub", classes=3, label_names=["cat", "dog", "bird"])
    zoo, hub = str(tmp_path / "zoo"), str(tmp_path / "hub")
    command = ["pull", f"timm/{NETWORK}", "--output", zoo, "--name", "pets", "--from-folder", hub]
    assert main(command) == 0
    card = read_card(tmp_path / "zoo" / "pets")
    assert (card.classes, card.labels) == (3, "mobilenetv3_small_100-labels")
    assert read_labels(card, tmp_path / "zoo" / "pets") == ("cat", "dog", "bird")


def test_label_sets() -> None:
    with pytest.raises(ValueError, match=r"label_names: 2 names \(allowed: 3"):
        label_set({"label_names": ["a", "b"]}, "x", 3)
    with pytest.raises(ValueError, match="label_names: missing for 7 classes"):
        label_set({}, "x", 7)
    assert label_set({"label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat"}}, "x", 2).own == (
        "cat",
        "n2",
    )
    larger = label_set({}, "x", 11821)
    assert larger.own is not None
    assert len(larger.own) == 11821


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop_mode": "squash"}, "crop_mode: 'squash'"),
        ({"interpolation": "nearest"}, "interpolation: 'nearest'"),
        ({"input_size": (3, 224, 256)}, "input_size: 224 x 256"),
    ],
)
def test_unsupported_preprocessing(change: dict[str, Any], message: str) -> None:
    config = {
        "input_size": (3, 224, 224),
        "crop_mode": "center",
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
    }
    assert input_spec(config).resize == 256
    with pytest.raises(ValueError, match=message):
        input_spec(config | change)


def test_failed_pull_leaves_the_zoo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    existing = tmp_path / "zoo" / NETWORK
    existing.mkdir(parents=True)
    (existing / "model.onnx").write_bytes(b"as it was")
    command = ["pull", f"timm/{NETWORK}", "--output", str(tmp_path / "zoo"), "--from-folder"]
    assert main([*command, str(tmp_path / "nowhere")]) == 1
    saved(tmp_path / "hub", crop_mode="squash")
    assert main([*command, str(tmp_path / "hub")]) == 1
    weights = (tmp_path / "hub" / "model.safetensors").read_bytes()
    (tmp_path / "hub" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert main([*command, str(tmp_path / "hub")]) == 1
    assert main(["pull", "timm/no-such-network", "--output", str(tmp_path / "zoo")]) == 1
    assert main(["pull", NETWORK, "--output", str(tmp_path / "zoo")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 5
    assert "config.json" in errors[0]
    assert "crop_mode: 'squash'" in errors[1]
    assert "no-such-network" in errors[3]
    assert "allowed: timm/NAME" in errors[4]
    assert [(file.name, file.read_bytes()) for file in existing.iterdir()] == [("model.onnx", b"as it was")]
