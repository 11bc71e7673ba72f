"""Test whether a benchmark is flagged if another process keeps one core busy during half of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

from benchmarks.results import Results
from service.bench.measure.plan import Request, make_plan
from service.bench.measure.progress import Progress
from service.bench.measure.runner import Runner
from service.inference.registry import Registry

_BUSY = """
import sys, time
end = time.monotonic() + float(sys.argv[1])
while time.monotonic() < end:
    pass
"""
_BUSY_AT_MOST_S = 600.0
WARM_UP_S = 0.3


@contextlib.contextmanager
def busy_core(at_most_s: float = _BUSY_AT_MOST_S) -> Iterator[None]:
    """Keep the first core busy with a process. It ends by itself after at most `at_most_s` seconds."""
    loop = subprocess.Popen([sys.executable, "-c", _BUSY, str(at_most_s)])
    try:
        os.sched_setaffinity(loop.pid, {min(os.sched_getaffinity(0))})
        yield
    finally:
        loop.kill()
        loop.wait()


def record_run(results: Results, registry: Registry, model: str, *, noise: bool) -> None:
    """Record a quick benchmark of one model. If `noise`, one core is kept busy during its second half."""
    plan = replace(make_plan(registry, Request(models=(model,))), warm_up_s=WARM_UP_S)
    middle = plan.configuration.launches * plan.configuration.rounds // 2
    started = not noise
    with contextlib.ExitStack() as stack:

        def watch(now: Progress) -> None:
            nonlocal started
            if not started and now.round and (now.launch - 1) * now.rounds + now.round > middle:
                started = True
                stack.enter_context(busy_core())

        bundle = Runner(plan, watch).run()
    results.append(
        "noise-run",
        noise=noise,
        flags=[flag.model_dump() for flag in bundle.flags],
        marked=bool(bundle.flags_of("dirty")) or any(flag.kind == "drift" for flag in bundle.flags),
    )
