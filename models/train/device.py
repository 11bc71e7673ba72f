"""Where a network is trained: on the processor or on an NVIDIA GPU. Serving is for processors."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Forward = Callable[[Tensor], Tensor]
"""Images (B, channels, height, width) to logits (B, classes)."""


def device_of(name: str) -> torch.device:
    """The device `cpu` or `cuda`. Raises ValueError where this machine's torch has no such device."""
    if name not in ("cpu", "cuda"):
        raise ValueError(f"device is {name!r}; known: cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is 'cuda', but torch finds no NVIDIA GPU here; there is: cpu")
    return torch.device(name)


def layout(device: torch.device) -> torch.memory_format:
    """The order of a tensor's dimensions in memory in which convolutions of these networks are fastest.

    Channels last suits the processor's vectors; cuDNN's depthwise convolutions in float32 want them first.
    """
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def cuda_graph(network: nn.Module, batch: Tensor) -> Forward:
    """Record `network` in training as a CUDA graph, which starts hundreds of small kernels as one.

    `batch` (B, channels, height, width) on the GPU sets the batch size of the graph; a batch of another size
    bypasses it. Weights and statistics are as they were afterwards. On the processor, and for a network with
    hooks, which a graph would skip, this is the network itself.
    """
    if batch.device.type != "cuda" or any(_hooked(module) for module in network.modules()):
        return network
    # The weights' gradients are added up on the stream that the record was made on: as is meant.
    torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    torch.cuda.make_graphed_callables(network, (batch.clone(),))
    replayed: Forward = network.__dict__.pop("forward")  # it put the record in the method's place
    network.load_state_dict(before)  # the warm-up moved the batch norms' statistics
    network.zero_grad(set_to_none=True)

    def forward(images: Tensor) -> Tensor:
        logits: Tensor = (replayed if images.shape == batch.shape else network)(images)
        return logits

    return forward


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)
