"""Run a plan with one process per launch, watch the machine, and collect the results in a bundle."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from service.bench.bundle import (
    Block,
    Bundle,
    Cold,
    Flag,
    GateReading,
    Memory,
    RateTrial,
    WarmUp,
)
from service.bench.fingerprint import take_fingerprint
from service.bench.judge.flags import find_flags
from service.bench.measure.machine_watch import MachineWatch
from service.bench.measure.messages import (
    BlockReport,
    ColdReport,
    Done,
    MemoryReport,
    Report,
    TrialReport,
    WarmUpReport,
    WorkerConfig,
)
from service.bench.measure.plan import Plan
from service.bench.measure.process import WORKER, Cancelled, run_worker
from service.bench.measure.progress import Progress, Timetable, memory_entries
from service.bench.measure.subjects import runtime_in_service
from service.errors import MeasurementFailed
from service.inference.runtimes.base import RuntimeName
from service.inference.runtimes.opening import runtime_version, session_options

GATE_S = 0.5
"""Seconds that the machine is watched before the first launch and after the last."""


class Runner:
    """A runner runs one plan, once. `cancel` may be called from any thread or from a signal handler."""

    def __init__(
        self, plan: Plan, progress: Callable[[Progress], None] = lambda _: None, *, worker: str = WORKER
    ) -> None:
        self._plan = plan
        self._tell = progress
        self._worker = worker
        self._cancel = threading.Event()
        self._timetable = Timetable(plan)
        self._gates: list[GateReading] = []
        self._warm_ups: list[WarmUp] = []
        self._cold: list[Cold] = []
        self._memory: list[Memory] = []
        self._blocks: list[Block] = []
        self._trials: list[RateTrial] = []

    def cancel(self) -> None:
        """Stop soon. `run` then returns a partial bundle. This may be called more than once."""
        self._cancel.set()

    def run(self) -> Bundle:
        """Measure and return the bundle.

        The bundle is flagged `partial` after a cancellation, a KeyboardInterrupt, or a failure after the
        first results. Raises MeasurementFailed for a failure before the first results. No process remains
        after this call.
        """
        plan = self._plan = _with_runtimes_of_service(self._plan)
        started_at = datetime.now(UTC)
        self._timetable = Timetable(plan)
        runtimes: list[RuntimeName] = sorted(
            {entry.runtime for entry in plan.entries if entry.via == "session"}
        )
        fingerprint = take_fingerprint(
            {name: runtime_version(name) for name in runtimes},
            {key: value for name in runtimes for key, value in session_options(name).items()},
        )
        partial: str | None = None
        try:
            self._watch("before", 0)
            for name in memory_entries(plan):
                self._measure_memory(name)
            for launch in range(plan.configuration.launches):
                self._launch(launch)
            self._watch("after", plan.configuration.launches - 1)
        except (KeyboardInterrupt, Cancelled):
            partial = "it was cancelled"
        except MeasurementFailed as error:
            if not self._blocks and not self._trials:
                raise
            partial = error.detail
        bundle = Bundle(
            started_at=started_at,
            finished_at=datetime.now(UTC),
            regime="isolated" if plan.configuration.scenario == "single-stream" else "load",
            configuration=plan.configuration,
            fingerprint=fingerprint,
            models=plan.models,
            entries=plan.entries,
            gates=tuple(self._gates),
            warm_ups=tuple(self._warm_ups),
            cold=tuple(self._cold),
            memory=tuple(self._memory),
            blocks=tuple(self._blocks),
            trials=tuple(self._trials),
            flags=(),
        )
        flags = find_flags(bundle)
        if partial is not None:
            flags.append(Flag(kind="partial", reason=self._partial_reason(partial)))
        return bundle.model_copy(update={"flags": tuple(flags)})

    def _watch(self, when: str, launch: int) -> None:
        self._tell(self._timetable.now("watching the machine"))
        watch = MachineWatch("before" if when == "before" else "after", launch)
        if self._cancel.wait(GATE_S):
            raise Cancelled
        self._gates.append(watch.read())

    def _measure_memory(self, name: str) -> None:
        self._tell(self._timetable.now(f"memory of {name}"))
        worker_entry = next(entry for entry in self._plan.worker_entries if entry.entry.name == name)
        config = self._worker_config(0).model_copy(
            update={"purpose": "memory", "entries": (worker_entry,), "order": ()}
        )
        for report in run_worker(config, self._cancel.is_set, self._worker):
            if isinstance(report, MemoryReport):
                self._memory.append(report.memory)
        self._timetable.finish("memory")

    def _launch(self, launch: int) -> None:
        self._tell(self._timetable.now("loading", launch + 1))
        watch = MachineWatch("during", launch)
        for report in run_worker(self._worker_config(launch), self._cancel.is_set, self._worker):
            self._take(report)
            if isinstance(report, Done):
                self._gates.append(watch.read(report.cpu_s))
        self._timetable.finish("launch")

    def _take(self, report: Report) -> None:
        doing, launch, number = "", 0, 0
        if isinstance(report, ColdReport):
            self._cold.append(report.cold)
            doing, launch = f"loaded {report.cold.entry}", report.cold.launch
        elif isinstance(report, WarmUpReport):
            warm_up = report.warm_up
            self._warm_ups.append(warm_up)
            self._timetable.learn_run(warm_up.entry, warm_up.window_p50_ns[-1] / 1e9)
            self._timetable.finish(f"warm-up {warm_up.entry}")
            doing, launch = f"warmed up {warm_up.entry}", warm_up.launch
        elif isinstance(report, BlockReport):
            self._blocks.append(report.block)
            self._timetable.finish(f"block {report.block.entry}")
            doing, launch = f"measured {report.block.entry}", report.block.launch
            number = report.block.round + 1
        elif isinstance(report, TrialReport):
            self._trials.append(report.trial)
            doing = f"{report.trial.entry} at {report.trial.rate_per_s:.0f}/s"
            launch, number = report.trial.launch, 1
        else:
            return
        self._tell(self._timetable.now(doing, launch + 1, number))

    def _worker_config(self, launch: int) -> WorkerConfig:
        plan, configuration = self._plan, self._plan.configuration
        return WorkerConfig(
            launch=launch,
            scenario=configuration.scenario,
            entries=plan.worker_entries,
            order=plan.orders[launch],
            block_runs=configuration.block_runs,
            block_s=configuration.block_s,
            warm_up_s=plan.warm_up_s,
            cores=plan.cores,
            photos=plan.photos,
            stages=plan.stages,
            url=plan.url,
            budget_ms=configuration.budget_ms,
            trial_queries=plan.trial_queries,
            seed=configuration.seed,
        )

    def _partial_reason(self, cause: str) -> str:
        configuration = self._plan.configuration
        complete = sum(reading.when == "during" for reading in self._gates)
        return f"{cause}; {complete} of {configuration.launches} launches are complete"


def _with_runtimes_of_service(plan: Plan) -> Plan:
    """Return the plan in which each entry over HTTP has the runtime in which the service runs its model.

    Raises MeasurementFailed if the service does not answer, or has not loaded one of these models.
    """
    entries = []
    for each in plan.worker_entries:
        if each.entry.via == "http" and plan.url is not None:
            runtime = runtime_in_service(plan.url, each.entry.model)
            each = each.model_copy(update={"entry": each.entry.model_copy(update={"runtime": runtime})})
        entries.append(each)
    return replace(plan, worker_entries=tuple(entries))
