"""The Fashion-MNIST family: outputs, gradients, export, budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.architectures.designed import BLOCKS, Design, DesignedNetwork, Stage, round_channels  # noqa: E402
from models.architectures.fashion import BUDGET, DESIGNS, SEARCHED, create, design_of  # noqa: E402
from models.cost.profiling import profile  # noqa: E402
from models.export.to_onnx import export  # noqa: E402
from models.onnx_tools.session import open_session  # noqa: E402

pytestmark = pytest.mark.torch

EQUAL_MACS = "fashion-standard-equal-macs"
WIDER, DEARER = "fashion-depthwise-separable", "fashion-standard-equal-width"


def used(name: str) -> DesignedNetwork:
    """A network whose batch norms do something, in evaluation mode."""
    torch.manual_seed(0)
    network = create(name)
    network.classifier.weight.data.normal_(0, 0.5)
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(16, 1, 28, 28))
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.7, 1.3)
                module.bias.normal_(0, 0.2)
    return network.eval()


@pytest.mark.parametrize("name", list(DESIGNS))
def test_outputs_and_gradients(name: str) -> None:
    torch.manual_seed(0)
    network = create(name).train()
    images = torch.randn(4, 1, 28, 28)
    features = network.forward_features(images)
    embedding = network.forward_head(features, pre_logits=True)
    logits = network.forward_head(features)
    assert embedding.shape == (4, features.shape[1]) == (4, network.classifier.in_features)
    assert logits.shape == (4, 10)
    assert torch.isfinite(logits).all()
    (logits * torch.randn_like(logits)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().sum() > 0, key


@pytest.mark.parametrize("name", list(DESIGNS))
def test_exported_file_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    network = used(name)
    images = np.random.default_rng(0).normal(0, 1, (6, 1, 28, 28)).astype(np.float32)
    export(network, tmp_path / "model.onnx", images)
    session = open_session(tmp_path / "model.onnx")
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    assert expected.std() > 0.1
    for batch in (1, 6):
        found = session.run(["logits"], {"image": images[:batch]})[0]
        assert np.abs(found - expected[:batch]).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.mark.parametrize("name", list(DESIGNS))
def test_macs_are_near_the_budget(name: str) -> None:
    macs = profile(create(name), 28, 1).macs
    if name == DEARER:
        assert macs > 5 * BUDGET
    elif name == SEARCHED:
        assert macs <= BUDGET  # the search may find that less is better
    else:
        assert 0.85 * BUDGET < macs <= BUDGET


def test_network_of_every_block_and_two_baselines() -> None:
    by_hand = {name: design for name, design in DESIGNS.items() if name != SEARCHED}
    assert {stage.block for design in by_hand.values() for stage in design.stages} == BLOCKS.keys()
    assert len(by_hand) == len(BLOCKS) + 1
    assert all(design_of(name).block() == "standard" for name in (EQUAL_MACS, DEARER))
    widths = [[stage.channels for stage in design_of(name).stages] for name in (WIDER, DEARER)]
    assert widths[0] == widths[1]


def test_unknown_network() -> None:
    with pytest.raises(ValueError, match=r"network 'x': unknown \(allowed: fashion-depthwise-separable, "):
        create("x")


def test_design_as_json() -> None:
    for design in DESIGNS.values():
        assert Design.model_validate_json(design.model_dump_json()) == design


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("channels", 20, "channels\n.*multiple of 8"),
        ("channels", 0, "channels\n.*greater than 0"),
        ("block", "transformer", "block\n.*'standard', 'depthwise-separable'"),
        ("kernel_size", 4, "kernel_size\n.*3, 5 or 7"),
    ],
)
def test_invalid_stage(entry: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage.model_validate({"block": "standard", "channels": 16, "repeats": 1} | {entry: value})


def test_groups_that_do_not_divide() -> None:
    design = Design(stem=40, stages=(Stage(block="grouped", channels=48, repeats=1),))
    with pytest.raises(ValueError, match="groups: 3 do not divide in_channels 56 and out_channels 72"):
        DesignedNetwork(Design(stem=56, stages=(Stage(block="grouped", channels=72, repeats=1),)), 10)
    assert DesignedNetwork(design, 10).blocks[0].conv.groups == 2


@pytest.mark.parametrize(("channels", "expected"), [(1, 8), (11.9, 8), (12, 16), (20, 24), (33, 32)])
def test_channels_are_rounded_to_multiples_of_eight(channels: float, expected: int) -> None:
    assert round_channels(channels) == expected
