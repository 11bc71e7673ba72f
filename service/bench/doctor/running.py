"""Faults of how a model is run here: 8 bits that gain nothing, more threads than cores, threads that spin."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from service.bench.doctor.ab_timing import time_in_turn
from service.bench.doctor.findings import Finding
from service.bench.doctor.model import ModelUnderTest
from service.bench.fingerprint import Machine
from service.inference.session import OnnxSession

GAIN_WORTH_HAVING = 0.05
SMALL_MACS = 60_000_000
"""Below this many multiply-accumulates, quantizing and requantizing between small layers costs more than
8-bit arithmetic saves (measured on depthwise-separable networks: slower at 18 M, even at 67 M)."""
_INT8_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
_SPIN_RUNS = 40
_PAUSE_S = 0.003
_SPINNING_FROM = 1.25


@dataclass(frozen=True)
class RunSettings:
    """How the model is run where it is slow: threads per image, and whether they spin while they wait.

    `service_threads` is the pool of the service (WEIGHIN_THREADS), None where the cores decide.
    """

    threads: int = 1
    spinning: bool = False
    service_threads: int | None = None


def int8_without_gain(
    model: ModelUnderTest, parent: ModelUnderTest | None, machine: Machine
) -> Iterator[Finding]:
    """8-bit arithmetic on a CPU without instructions for it, or on a network too small to gain by it."""
    if model.card.precision != "int8":
        return
    has_instructions = bool(_INT8_INSTRUCTIONS & set(machine.isa))
    measured, loses = (
        "its parent is not in the zoo, so the two could not be measured against each other",
        False,
    )
    if parent is not None:
        timed = time_in_turn(model.subject(), parent.subject())
        gain = 1 / timed.ratio
        measured = f"it is {gain:.2f} times as fast as its parent '{parent.card.name}': {timed}"
        loses = timed.ratio > 1 - GAIN_WORTH_HAVING
    serve = f"serve '{parent.card.name}'" if parent is not None else "serve the float model"
    if not has_instructions:
        yield Finding(
            slug="int8-without-vnni",
            title="int8 without VNNI",
            evidence="this CPU has no 8-bit dot products (instruction sets: "
            f"{', '.join(machine.isa) or 'none that matter'}); {measured}",
            remedy=f"{serve} on machines without VNNI, AMX or Arm's dot product"
            if loses or parent is None
            else "it gains by its size here; on a CPU with VNNI it would gain more",
        )
    elif loses:
        macs = model.card.macs
        small_words = f" ({macs / 1e6:.3g} M multiply-accumulates)"
        yield Finding(
            slug="int8-without-gain",
            title="int8 on a network too small to gain" if macs < SMALL_MACS else "int8 without gain",
            evidence=measured + (small_words if macs < SMALL_MACS else ""),
            remedy=f"{serve} instead: 8 bits pay from some tens of millions of multiply-accumulates on"
            if macs < SMALL_MACS
            else f"{serve} instead, or see whether its QDQ pairs fuse and its channels are aligned",
        )


def threads_beyond_cores(settings: RunSettings, machine: Machine) -> Iterator[Finding]:
    """More threads than the affinity and the cgroup leave cores: they wait for each other, or are stopped."""
    for what, threads in (
        ("WEIGHIN_THREADS", settings.service_threads),
        ("threads per image", settings.threads),
    ):
        if threads is not None and threads > machine.cores:
            quota = "no limit" if machine.quota_cores is None else f"{machine.quota_cores:g} cores"
            yield Finding(
                slug="threads-beyond-the-cores",
                title="More threads than cores",
                evidence=f"{what} is {threads}, the process can keep {machine.cores} busy: the affinity "
                f"leaves {machine.cpus}, the cgroup's cpu.max {quota}",
                remedy="leave WEIGHIN_THREADS unset: the cores are counted at start"
                if what == "WEIGHIN_THREADS"
                else f"set intra_op_num_threads to at most {machine.cores}; 1 is best where requests overlap",
            )


def spinning(model: ModelUnderTest, settings: RunSettings) -> Iterator[Finding]:
    """Threads that wait for work in a loop: they take the cores that other sessions and requests need."""
    if not settings.spinning or settings.threads < 2:
        return  # a single thread is the caller's own and does not wait
    spun = [_cost(model, model.session(threads=settings.threads, spinning=each)) for each in (True, False)]
    (busy_ms, run_ms), (calm_ms, calm_run_ms) = spun
    if busy_ms < _SPINNING_FROM * calm_ms:
        return
    yield Finding(
        slug="spinning",
        title="Threads that spin",
        evidence=f"with a pause of {_PAUSE_S * 1e3:g} ms between runs, {settings.threads} threads use "
        f"{busy_ms:.3g} ms of CPU per run with spinning and {calm_ms:.3g} ms without "
        f"(a run takes {run_ms:.3g} and {calm_run_ms:.3g} ms)",
        remedy="set the session option session.intra_op.allow_spinning to 0, as Weigh-in does; several "
        "sessions that spin against each other slow each other down",
    )


def _cost(model: ModelUnderTest, session: OnnxSession) -> tuple[float, float]:
    """Milliseconds of CPU per run, pauses included, and of wall time of the typical run."""
    for _ in range(5):
        session.run(model.image)
    walls = []
    before = time.process_time_ns()
    for _ in range(_SPIN_RUNS):
        start = time.perf_counter_ns()
        session.run(model.image)
        walls.append(time.perf_counter_ns() - start)
        time.sleep(_PAUSE_S)
    return (time.process_time_ns() - before) / _SPIN_RUNS / 1e6, statistics.median(walls) / 1e6
