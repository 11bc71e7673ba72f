"""Training on a GPU is the same training; where there is none, the command says so. The rest needs a GPU."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from models.cli import main  # noqa: E402
from models.train import checkpoint  # noqa: E402
from models.train.checkpoint import CheckpointError  # noqa: E402
from models.train.device import cuda_graph, device_of  # noqa: E402
from models.train.loop import CHECKPOINT, train  # noqa: E402
from tests.models.train.test_loop import fresh, tiny_job  # noqa: E402

pytestmark = pytest.mark.torch
has_gpu = torch.cuda.is_available()
needs_gpu = pytest.mark.skipif(not has_gpu, reason="there is no NVIDIA GPU")


@pytest.mark.skipif(has_gpu, reason="there is an NVIDIA GPU")
def test_a_gpu_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "fashion-ghost", "--device", "cuda", "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 1
    assert "torch finds no NVIDIA GPU here; there is: cpu" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_unknown_device_is_named_with_those_that_are_known() -> None:
    with pytest.raises(ValueError, match="device is 'tpu'; known: cpu, cuda"):
        device_of("tpu")


def test_on_the_processor_a_network_is_used_as_it_is() -> None:
    network = fresh()
    assert cuda_graph(network, torch.zeros(4, 1, 28, 28)) is network


@needs_gpu
def test_a_gpu_trains_as_the_processor_does(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=2)
    there = replace(
        job, folder=tmp_path / "gpu", train=job.train.to("cuda"), validation=job.validation.to("cuda")
    )
    networks = [fresh(), fresh()]
    for network in networks:
        network.dropout.p = 0.0  # its random numbers differ from device to device
    ours, theirs = (train(network, j, bar=False) for network, j in zip(networks, (job, there), strict=True))
    assert theirs.accuracy == pytest.approx(ours.accuracy, abs=0.05)
    for key, tensor in ours.state.items():
        assert theirs.state[key].device.type == "cpu"
        difference = (theirs.state[key].double() - tensor.double()).abs().max()
        assert difference <= 0.02 * max(1.0, float(tensor.double().abs().max())), key


@needs_gpu
def test_a_record_computes_what_the_network_does_and_leaves_it_as_it_was() -> None:
    network = fresh().cuda().train()
    network.dropout.p = 0.0
    before = copy.deepcopy(network)
    batch = torch.randn(16, 1, 28, 28, device="cuda")
    forward = cuda_graph(network, batch)
    assert all(
        torch.equal(a, b)
        for a, b in zip(before.state_dict().values(), network.state_dict().values(), strict=True)
    )
    for images in (torch.randn_like(batch), torch.randn_like(batch)[:5]):
        ours, theirs = forward(images), before(images)
        assert torch.allclose(ours, theirs, atol=1e-5)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        for mine, other in zip(network.parameters(), before.parameters(), strict=True):
            assert torch.allclose(mine.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_a_training_goes_on_where_it_began(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=1)
    train(fresh(), job, bar=False)
    path = job.folder / CHECKPOINT
    identity, state = checkpoint.load(path)
    checkpoint.save(path, identity, {**state, "history": state["history"].replace('"cpu"', '"cuda"')})
    with pytest.raises(CheckpointError, match="was begun on cuda; go on with --device cuda"):
        train(fresh(), job, bar=False)
