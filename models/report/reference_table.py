"""The reference networks' figures, as `weigh-reference` writes them, as a table; needs no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PRECISIONS = ("fp32", "int8")


def read_figures(path: Path) -> dict[str, Any]:
    """What `python -m models weigh-reference --json` wrote to `path`. Raises ValueError for anything else."""
    try:
        figures = json.loads(path.read_text(encoding="utf-8"))
        markdown(figures)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no measurement of the reference networks: {error}") from None
    return dict(figures)


def markdown(figures: Mapping[str, Any]) -> str:
    """The figures as a table, and what they hold for."""
    rows = [
        "| network (untrained) | px | parameters | MACs | fp32 p50 ms (rounds) | int8 p50 ms (rounds) "
        "| int8 speed-up | published top-1 | published parameters | published MACs |",
        "|" + " --- |" * 10,
    ]
    for one in figures["networks"]:
        floating, integer = (
            f"{one[p]['p50_ms']:.2f} ({one[p]['low_ms']:.2f} to {one[p]['high_ms']:.2f})" for p in PRECISIONS
        )
        published = one["published"]
        rows.append(
            f"| {one['network']} | {one['input_size']} | {one['parameters'] / 1e6:.2f} M "
            f"| {one['macs'] / 1e6:.0f} M | {floating} | {integer} | {one['int8_speedup']:.2f} "
            f"| {published['top_1']:.1f} % | {published['parameters']:.2f} M | {published['macs']:.0f} M |"
        )
    machine = figures["machine"]
    verdict = "; disturbed: not to be published" if figures["dirty"] else ""
    rows += [
        "",
        f"Random, He-scaled weights: these latencies are those of untrained networks. {machine['cpu']} "
        f"({', '.join(machine['instruction_set'])}), {figures['runtime']}, one thread, {figures['rounds']} "
        f"rounds of {figures['runs']} runs in random order; in brackets the least and the greatest of the "
        f"rounds' medians. The first model measured twice: ratio {figures['control_ratio']:.3f}{verdict}.",
        "",
        *(f"- {one['network']}: top-1 {one['published']['source']}" for one in figures["networks"]),
    ]
    return "\n".join(rows) + "\n"
