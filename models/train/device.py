"""Settings that make training fast on the CPU or on an NVIDIA GPU. The service uses only the CPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]
"""Function that takes images (B, channels, height, width) and returns logits (B, classes)."""


def device_of(name: str) -> torch.device:
    """Return the torch device with this name, `cpu` or `cuda`.

    Raises ValueError for any other name, and for `cuda` if there is no GPU.
    """
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device: {name!r} is unknown (allowed: cpu, cuda)")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: 'cuda' is unavailable, torch finds no NVIDIA GPU (allowed: cpu)")
    return torch.device(name)


def layout(device: torch.device) -> torch.memory_format:
    """Return the memory format in which convolutions of these networks are fastest on `device`.

    On the CPU, the channels are last. On the GPU, they are first, because cuDNN's depthwise convolutions in
    float32 are faster in this format.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def cuda_graph(network: nn.Module, batch: Tensor) -> Forward:
    """Record a training pass of `network` as a CUDA graph, which starts hundreds of small kernels at once.

    `batch` (B, channels, height, width) on the GPU sets the batch size of the graph; a batch of another size
    bypasses it. Recording leaves weights and statistics unchanged. Returns the network itself if it runs on
    the CPU or has hooks, which a graph would skip.
    """
    if batch.device.type != "cuda" or any(_hooked(module) for module in network.modules()):
        return network
    # Gradients accumulate on the stream that recorded the graph, as intended.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    torch.cuda.make_graphed_callables(network, (batch.clone(),))
    replayed: Forward = network.__dict__.pop("forward")  # torch replaced the method by the recorded graph
    network.load_state_dict(before)  # the warm-up changed the batch norm statistics
    network.zero_grad(set_to_none=True)

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = (replayed if images.shape == batch.shape else network)(images)
        return logits

    return forward


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
