"""Checks of how a model is run: int8 without gain, a slow runtime, too many or spinning threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass

from service.bench.doctor.ab_timing import time_in_turn
from service.bench.doctor.findings import Finding
from service.bench.doctor.model import ModelUnderTest
from service.bench.fingerprint import Machine
from service.bench.measure.subjects import BareSession
from service.errors import ModelUnavailable
from service.inference.runtimes.base import RuntimeName, SessionError
from service.inference.runtimes.opening import obstacle_of, open_session, runtime_version
from service.inference.session import OnnxSession

GAIN_WORTH_HAVING = 0.05
SMALL_MACS = 60_000_000
"""Below this number of multiply-accumulates, int8 is not worth it.

Quantizing between small layers then costs more than 8-bit arithmetic saves. On depthwise-separable networks,
int8 was slower at 18 million multiply-accumulates, and equally fast at 67 million.
"""
_INT8_INSTRUCTIONS = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm"})
_SPIN_RUNS = 40
_PAUSE_S = 0.003
_SPINNING_FROM = 1.25


@dataclass(frozen=True)
class RunSettings:
    """Settings with which the deployment that is diagnosed runs the model.

    `threads` is the number of threads per image, and `spinning` says whether idle threads spin.
    `service_threads` is the size of the service's pool (WEIGHIN_THREADS); None means the number of cores.
    `runtime` is the runtime in which the service runs the model, and `auto` says whether the service chooses
    it itself.
    """

    threads: int = 1
    spinning: bool = False
    service_threads: int | None = None
    runtime: RuntimeName = "onnxruntime"
    auto: bool = False


def int8_without_gain(
    model: ModelUnderTest, parent: ModelUnderTest | None, machine: Machine
) -> Iterator[Finding]:
    """Find an int8 model on a CPU without 8-bit instructions, or one hardly faster than its parent."""
    if model.card.precision != "int8":
        return
    has_instructions = bool(_INT8_INSTRUCTIONS & set(machine.isa))
    measured, loses = (
        "its fp32 model is not in the zoo, so the two could not be compared",
        False,
    )
    if parent is not None:
        timed = time_in_turn(model.subject(), parent.subject())
        gain = 1 / timed.ratio
        measured = f"it is {gain:.2f} times as fast as '{parent.card.name}': {timed}"
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
            else "none needed: it is faster here, and faster still on a CPU with VNNI",
        )
    elif loses:
        macs = model.card.macs
        size = f" ({macs / 1e6:.3g} M multiply-accumulates)"
        yield Finding(
            slug="int8-without-gain",
            title="int8 on a network too small to gain" if macs < SMALL_MACS else "int8 without gain",
            evidence=measured + (size if macs < SMALL_MACS else ""),
            remedy=f"{serve} instead: int8 gains from some tens of millions of multiply-accumulates on"
            if macs < SMALL_MACS
            else f"{serve} instead, or check whether its QDQ pairs fuse and its channels are aligned",
        )


def faster_in_openvino(model: ModelUnderTest, settings: RunSettings) -> Iterator[Finding]:
    """Find a model that the service runs in ONNX Runtime, although it is faster in OpenVINO here.

    Nothing is found if OpenVINO cannot be used or cannot run the model.
    """
    if settings.runtime == "openvino" or obstacle_of("openvino") is not None:
        return
    try:
        session = open_session("openvino", model.content, model.card)
        timed = time_in_turn(BareSession(session.run, [model.image]), model.subject())
    except (SessionError, ModelUnavailable):
        return  # OpenVINO lacks an operator, for example
    if timed.high > 1 - GAIN_WORTH_HAVING:
        return
    yield Finding(
        slug="faster-in-openvino",
        title="Faster in OpenVINO",
        evidence=f"OpenVINO {runtime_version('openvino')} runs it in {session.precision}, "
        f"{1 / timed.ratio:.2f} times as fast as ONNX Runtime: {timed}",
        remedy=(
            "wait until the service has weighed it (runtime.weighed in /models), which also compares the "
            "answers of both"
            if settings.auto
            else "serve with WEIGHIN_RUNTIME=auto, which also compares the answers of both"
        )
        + ", or choose OpenVINO for this model (docs/runtimes.md)",
    )


def threads_beyond_cores(settings: RunSettings, machine: Machine) -> Iterator[Finding]:
    """Find settings that ask for more threads than there are cores that the process can use.

    Such threads wait for each other, or the cgroup's quota throttles them.
    """
    for what, threads in (
        ("WEIGHIN_THREADS", settings.service_threads),
        ("threads per image", settings.threads),
    ):
        if threads is not None and threads > machine.cores:
            quota = "no limit" if machine.quota_cores is None else f"{machine.quota_cores:g} cores"
            yield Finding(
                slug="threads-beyond-the-cores",
                title="More threads than cores",
                evidence=f"{what} is {threads}, the process can keep {machine.cores} cores busy: CPU "
                f"affinity {machine.cpus}, cgroup cpu.max {quota}",
                remedy="leave WEIGHIN_THREADS unset: the cores are counted at start"
                if what == "WEIGHIN_THREADS"
                else f"set intra_op_num_threads to at most {machine.cores}; 1 is best where requests overlap",
            )


def spinning(model: ModelUnderTest, settings: RunSettings) -> Iterator[Finding]:
    """Find threads that busy-wait for work. They take cores that other sessions and requests need."""
    if not settings.spinning or settings.threads < 2:
        return  # a single thread is the caller's own, which never waits for work
    costs = [_cost(model, model.session(threads=settings.threads, spinning=spins)) for spins in (True, False)]
    (spinning_ms, spinning_run_ms), (waiting_ms, waiting_run_ms) = costs
    if spinning_ms < _SPINNING_FROM * waiting_ms:
        return
    yield Finding(
        slug="spinning",
        title="Threads that spin",
        evidence=f"with a pause of {_PAUSE_S * 1e3:g} ms between runs, {settings.threads} threads use "
        f"{spinning_ms:.3g} ms of CPU per run with spinning and {waiting_ms:.3g} ms without "
        f"(a run takes {spinning_run_ms:.3g} and {waiting_run_ms:.3g} ms)",
        remedy="set the session option session.intra_op.allow_spinning to 0, as Weigh-in does; "
        "spinning sessions slow each other down",
    )


def _cost(model: ModelUnderTest, session: OnnxSession) -> tuple[float, float]:
    """Return the CPU time and the wall time of a run, both in milliseconds.

    There is a pause after each run. The CPU time is the mean over the runs, and includes what idle threads
    use during the pauses. The wall time is the median over the runs, without the pauses.
    """
    outputs = model.card.main_outputs
    for _ in range(5):
        session.run(model.image, outputs)
    walls = []
    before = time.process_time_ns()
    for _ in range(_SPIN_RUNS):
        start = time.perf_counter_ns()
        session.run(model.image, outputs)
        walls.append(time.perf_counter_ns() - start)
        time.sleep(_PAUSE_S)
    return (time.process_time_ns() - before) / _SPIN_RUNS / 1e6, statistics.median(walls) / 1e6
