"""Training on a GPU and without one; some tests need a GPU."""

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
needs_gpu = pytest.mark.skipif(not has_gpu, reason="no NVIDIA GPU")


@pytest.mark.skipif(has_gpu, reason="NVIDIA GPU present")
def test_unavailable_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", "fashion-ghost", "--device", "cuda", "--runs", str(tmp_path / "runs")]
    assert main(arguments) == 1
    assert "torch finds no NVIDIA GPU (allowed: cpu)" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_unknown_device() -> None:
    with pytest.raises(ValueError, match=r"device: 'tpu' is unknown \(allowed: cpu, cuda\)"):
        device_of("tpu")


def test_no_cuda_graph_on_the_cpu() -> None:
    network = fresh()
    assert cuda_graph(network, torch.zeros(4, 1, 28, 28)) is network


@needs_gpu
def test_gpu_training_equals_cpu_training(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=2)
    gpu_job = replace(
        job, folder=tmp_path / "gpu", train=job.train.to("cuda"), validation=job.validation.to("cuda")
    )
    networks = [fresh(), fresh()]
    for network in networks:
        network.dropout.p = 0.0  # its random numbers differ from device to device
    first, second = (
        train(network, j, bar=False) for network, j in zip(networks, (job, gpu_job), strict=True)
    )
    assert second.accuracy == pytest.approx(first.accuracy, abs=0.05)
    for key, tensor in first.state.items():
        assert second.state[key].device.type == "cpu"
        difference = (second.state[key].double() - tensor.double()).abs().max()
        assert difference <= 0.02 * max(1.0, float(tensor.double().abs().max())), key


@needs_gpu
def test_cuda_graph_equals_the_network() -> None:
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
        first, second = forward(images), before(images)
        assert torch.allclose(first, second, atol=1e-5)
        first.square().sum().backward()
        second.square().sum().backward()
        for parameter, other in zip(network.parameters(), before.parameters(), strict=True):
            assert torch.allclose(parameter.grad, other.grad, rtol=1e-3, atol=1e-4)


def test_resume_on_another_device(tmp_path: Path) -> None:
    job = tiny_job(tmp_path, epochs=1)
    train(fresh(), job, bar=False)
    path = job.folder / CHECKPOINT
    identity, state = checkpoint.load(path)
    checkpoint.save(path, identity, {**state, "history": state["history"].replace('"cpu"', '"cuda"')})
    with pytest.raises(CheckpointError, match="started on cuda; resume it with --device cuda"):
        train(fresh(), job, bar=False)
