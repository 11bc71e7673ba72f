"""Table of the reference networks: latency from bundles of `weigh-reference`, and published figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from models.cost.latency import Measurement, measurement

PRECISIONS = ("fp32", "int8")
UNRELIABLE = (
    "Lines that begin with a flag, such as `void` or `dirty`, name networks whose measurements are "
    "unreliable: do not quote them."
)


@dataclass(frozen=True)
class Published:
    """Figures that the authors of a network published.

    `top_1` is the accuracy on ImageNet-1k validation in percent. `parameters` and `macs` are in millions,
    counted as in the source.
    """

    top_1: float
    parameters: float
    macs: float
    source: str


TORCHVISION = "torchvision's weights IMAGENET1K_V1 (pytorch.org/vision/stable/models.html)"
LITE = "README of models/official/efficientnet/lite (github.com/tensorflow/tpu)"

PUBLISHED = {
    "mobilenet-v1": Published(70.6, 4.2, 569, "Howard et al. 2017, table 8 (arXiv 1704.04861)"),
    "mobilenet-v2": Published(71.9, 3.50, 301, TORCHVISION),
    "mobilenet-v3-small": Published(67.7, 2.54, 57, TORCHVISION),
    "mobilenet-v3-large": Published(74.0, 5.48, 217, TORCHVISION),
    "shufflenet-v2": Published(69.4, 2.28, 146, "Ma et al. 2018, table 8 (arXiv 1807.11164)"),
    "squeezenet": Published(58.2, 1.24, 349, TORCHVISION),
    "ghostnet": Published(73.9, 5.2, 141, "Han et al. 2020, table 7 (arXiv 1911.11907)"),
    "mnasnet": Published(73.5, 4.38, 314, TORCHVISION),
    "efficientnet-lite0": Published(75.1, 4.7, 407, LITE),
    "efficientnet-lite1": Published(76.7, 5.4, 631, LITE),
    "efficientnet-lite2": Published(77.6, 6.1, 899, LITE),
}


def read_bundles(path: Path) -> list[Measurement]:
    """Read the file that `python -m models weigh-reference --json` wrote: a list with one bundle per network.

    Raises OSError if the file cannot be read, and ValueError if it is not such a list.
    """
    try:
        measurements = [measurement(bundle) for bundle in json.loads(path.read_bytes())]
        markdown(measurements)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a measurement of the reference networks: {error}") from None
    return measurements


def markdown(measured: Sequence[Measurement]) -> str:
    """Return the table of networks, one row per measurement, and the conditions of the measurement.

    Raises ValueError if there are no measurements, or if their machines, runtimes, rounds or runs differ.
    """
    conditions = {(network.machine, network.runtime, network.rounds, network.runs) for network in measured}
    if len(conditions) != 1:
        raise ValueError(f"{len(measured)} bundles: measured under {len(conditions)} conditions (allowed: 1)")
    machine, runtime, rounds, runs = conditions.pop()
    lines = [
        "| network (untrained) | px | parameters | MACs | fp32 p50 ms (rounds) | int8 p50 ms (rounds) "
        "| int8 speed-up | published top-1 | published parameters | published MACs |",
        "|" + " --- |" * 10,
    ]
    networks = {next(iter(network.models)).removesuffix("-fp32"): network for network in measured}
    for name, network in networks.items():
        fp32, int8 = (network.latency[f"{name}-{precision}"] for precision in PRECISIONS)
        facts, published = network.models[f"{name}-fp32"], PUBLISHED[name]
        cells = " | ".join(f"{x.p50_ms:.2f} ({x.low_ms:.2f} to {x.high_ms:.2f})" for x in (fp32, int8))
        lines.append(
            f"| {name} | {facts['height']} | {facts['parameters'] / 1e6:.2f} M | {facts['macs'] / 1e6:.0f} M "
            f"| {cells} | {fp32.p50_ms / int8.p50_ms:.2f} "
            f"| {published.top_1:.1f} % | {published.parameters:.2f} M | {published.macs:.0f} M |"
        )
    ratios = [network.control_ratio for network in measured]
    doubts: dict[str, list[str]] = {}
    for name, network in networks.items():
        for doubt in network.doubts:
            doubts.setdefault(doubt, []).append(name)
    lines += [
        "",
        f"The networks are untrained: their weights are random, scaled as by He's initialisation. Latencies "
        f"were measured by `weighin bench`. Machine: {machine}, {runtime}. Method: one thread, {rounds} "
        f"rounds; a round runs a network and its int8 form {runs} times each, in random order. The brackets "
        f"have the lowest and the highest median of a round. As a control, every fp32 network was measured "
        f"twice; ratios of the two times: {min(ratios):.3f} to {max(ratios):.3f}."
        f"{' ' + UNRELIABLE if doubts else ''}",
        "",
        *(f"- {doubt} ({', '.join(names)})" for doubt, names in doubts.items()),
        *(f"- Published top-1 of {name}: {PUBLISHED[name].source}" for name in networks),
    ]
    return "\n".join(lines) + "\n"
