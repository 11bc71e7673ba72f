"""Test whether a run is flagged if another process keeps one core busy during half of it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

from benchmarks.results import Results
from service.bench.measure.plan import Request, make_plan
from service.bench.measure.progress import Progress
from service.bench.measure.runner import Runner
from service.inference.registry import Registry

_BUSY = "while True: pass"
WARM_UP_S = 0.3


def record_run(results: Results, registry: Registry, model: str, *, noise: bool) -> None:
    """Record a quick run of one model; with `noise`, one core is busy during its second half."""
    plan = replace(make_plan(registry, Request(models=(model,))), warm_up_s=WARM_UP_S)
    middle = plan.configuration.launches * plan.configuration.rounds // 2
    loops: list[subprocess.Popen[bytes]] = []

    def watch(now: Progress) -> None:
        if not noise or loops or not now.round:
            return
        if (now.launch - 1) * now.rounds + now.round > middle:
            loop = subprocess.Popen([sys.executable, "-c", _BUSY])
            os.sched_setaffinity(loop.pid, {min(os.sched_getaffinity(0))})
            loops.append(loop)

    try:
        bundle = Runner(plan, watch).run()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    results.append(
        "noise-run",
        noise=noise,
        flags=[flag.model_dump() for flag in bundle.flags],
        marked=bool(bundle.flags_of("dirty")) or any(flag.kind == "drift" for flag in bundle.flags),
    )
