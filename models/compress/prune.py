"""Structured pruning: remove the least important channels of a trained network, across all layers."""

from __future__ import annotations

import copy
import warnings

import torch
import torch_pruning

from models.architectures.designed import DesignedNetwork
from models.cost.profiling import profile

MULTIPLE = 8
"""Pruning leaves each layer a number of channels that is a multiple of this."""
UNPRUNABLE = {"grouped", "shuffle"}
"""Blocks that shuffle channels. Without some channels, the remaining ones would get into other groups."""
STEPS = 60
"""Number of pruning ratios that are tried, in equal steps."""


def pruned(network: DesignedNetwork, share: float) -> DesignedNetwork:
    """Return a copy of `network` that lacks `share` of its multiply-accumulates, or slightly more.

    Channels that depend on each other (the two operands of an addition, a depthwise convolution and its
    input) form a group, which is removed as a whole. The importance of a group is the L2 norm of its weights.
    The library torch-pruning does this; its authors describe the method in Fang et al., "DepGraph: Towards
    Any Structural Pruning", https://arxiv.org/abs/2301.12900. `network` is not changed.

    Raises ValueError if `share` is not between 0 and 1 or cannot be reached, or if blocks cannot be pruned.
    """
    if not 0 < share < 1:
        raise ValueError(f"share: {share} (allowed: more than 0 and less than 1)")
    unprunable = sorted({stage.block for stage in network.design.stages} & UNPRUNABLE)
    if unprunable:
        raise ValueError(f"{', '.join(unprunable)} blocks: cannot be pruned, they shuffle channels")
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
            f"share: {share:.0%} of {before} multiply-accumulates cannot be removed with multiples of "
            f"{MULTIPLE} channels (allowed: down to {lowest} multiply-accumulates)"
        )
    return best


def _without(network: DesignedNetwork, ratio: float) -> DesignedNetwork:
    """Return a copy from which the share `ratio` of all channels was removed, the least important first."""
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
