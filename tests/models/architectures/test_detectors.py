"""Every detector: shapes, finite outputs, gradients everywhere, the same outputs in ONNX, known costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.architectures.detectors import DETECTORS  # noqa: E402
from models.architectures.initialise import randomise  # noqa: E402
from models.cost.profiling import profile  # noqa: E402
from models.export.to_onnx import export, to_onnx  # noqa: E402
from models.onnx_tools.session import open_session  # noqa: E402
from models.publish.detectors import DETECTOR_RECIPES  # noqa: E402
from models.zoo.card import read_card  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", list(DETECTORS))
def test_every_detector(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DETECTORS[name]().train()
    images = torch.randn(2, network.input_channels, *network.input_size)
    outputs = network(images)
    assert [tuple(output.shape[1:]) for output in outputs] == [
        DETECTOR_RECIPES[name].outputs[role] for role in network.outputs
    ]
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().sum() > 0, key

    randomise(network, 2, images)
    network.eval()
    with torch.no_grad():
        expected = [output.numpy() for output in network(images)]
    export(network, tmp_path / "model.onnx", images.numpy())
    session = open_session(tmp_path / "model.onnx")
    for batch in (1, 2):
        found = session.run(list(network.outputs), {"image": images.numpy()[:batch]})
        for ours, theirs in zip(found, expected, strict=True):
            assert theirs.std() > 0.05
            assert np.abs(ours - theirs[:batch]).max() <= 1e-3 * float(theirs.std())


def test_exported_nodes_are_named_after_modules() -> None:
    graph = to_onnx(DETECTORS["centerface"]()).graph
    assert {"stem.conv", "blocks.16.conv_pwl", "ups.0.conv", "heatmap_predictor"} <= {
        node.name for node in graph.node
    }
    assert {node.op_type for node in graph.node} == {"Conv", "ConvTranspose", "Relu", "Add", "Sigmoid"}


def test_costs_counted_by_hand() -> None:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2, padding=1), torch.nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
    )
    macs = 8 * 5 * 3 * 9 * 8 + (16 * 10) * 6 * 4  # each output position of an unpadded 2 x 2 is of one input
    assert profile(network, (16, 10)).macs == macs


@pytest.mark.parametrize("name", list(DETECTORS))
def test_costs_on_cards_equal_the_networks(name: str, zoo: Path) -> None:
    network = DETECTORS[name]()
    cost = profile(network, network.input_size)
    for folder in (zoo / name, zoo / f"{name}-int8"):
        if folder.exists():
            card = read_card(folder)
            assert (card.parameters, card.macs) == (cost.parameters, cost.macs)
