"""Structured pruning: the least important channels of a trained network are taken out, wherever they are."""

from __future__ import annotations

import copy
import warnings

import torch
import torch_pruning

from models.architectures.designed import DesignedNetwork
from models.cost.profiling import profile

MULTIPLE = 8
"""Channels are left in multiples of it."""
SHUFFLED = {"grouped", "shuffle"}
"""Blocks whose channels change places: taking some out would deal the rest into other groups."""
STEPS = 60


def pruned(network: DesignedNetwork, share: float) -> DesignedNetwork:
    """A copy of `network` with at least `share` of its multiply-accumulates fewer, and as few less as can be.

    Channels that belong together (the two sides of an addition, a depthwise convolution and its input) go
    together; a group's importance is the size of all its weights: Fang et al., "DepGraph: Towards Any
    Structural Pruning", https://arxiv.org/abs/2301.12900, by the authors' library torch-pruning. The network
    is left as it was. Raises ValueError for a share that is not between 0 and 1 or cannot be reached.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; more than 0 and less than 1 is needed")
    fixed = sorted({stage.block for stage in network.design.stages} & SHUFFLED)
    if fixed:
        raise ValueError(f"{', '.join(fixed)} blocks shuffle their channels and cannot be pruned; others can")
    before = _macs(network)
    best: DesignedNetwork | None = None
    lowest = before
    for step in range(1, STEPS):
        candidate = _without(network, step / STEPS)
        macs = _macs(candidate)
        lowest = min(lowest, macs)
        if macs <= (1 - share) * before:
            best = candidate
            break
    if best is None:
        raise ValueError(
            f"{share:.0%} fewer of {before} multiply-accumulates cannot be had with channels in multiples of "
            f"{MULTIPLE}; the fewest are {lowest}"
        )
    return best


def _without(network: DesignedNetwork, ratio: float) -> DesignedNetwork:
    """A copy without `ratio` of all channels, wherever in the network the least important are."""
    smaller = copy.deepcopy(network).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.BasePruner(
            smaller,
            torch.zeros(1, smaller.input_channels, smaller.input_size, smaller.input_size),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            max_pruning_ratio=0.9,
            round_to=MULTIPLE,
            ignored_layers=[smaller.classifier],
        )
        pruner.step()
    return smaller


def _macs(network: DesignedNetwork) -> int:
    return profile(network, network.input_size, network.input_channels).macs
