"""Query latencies of a time window, or per time step."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import structlog
from cachetools import TTLCache

from service.errors import InvalidParameter, StorageUnavailable
from service.latency.buckets import DAY_S, HOUR_S, KEEP_DAYS_S, MINUTE_S, Bucket, bucket_of
from service.latency.cache import LatencyCache, Question
from service.latency.histogram import Distribution, merge
from service.latency.recorder import Recorder
from service.latency.series import Figures, Run, Scope, Versions
from service.latency.stages import Regime, Stage
from service.latency.store import StoreView

T = TypeVar("T")

_log = structlog.get_logger(__name__)

CURRENT, ALL = "current", "all"
"""Values of `version` that select the served versions, or all versions.

Any other value is the beginning of the SHA-256 of a model's file.
"""

_VERSIONS_FOR_S = 5.0

UNKNOWN_MACHINE = UNKNOWN_RUNTIME = "unknown"

MAX_STEPS = 1500
"""Maximum number of time steps of a history. A day in minutes has fewer."""


@dataclass(frozen=True, slots=True)
class Window:
    """Time range of an answer, in seconds since 1970.

    `resolution_s`: the start is a multiple of it. In a history it is also the length of the steps.
    `degraded`: reason, for clients, why the database could not be read, so that the answer is from memory
    only. It is None if the database was read, or if the service has no database. `machines`: the machines of
    the selected runs. They are found by whole days, so machines that ran on the first day, but only before
    `start`, are included. Runs that an earlier release recorded have UNKNOWN_MACHINE. `other_machines`: the
    machines of all other runs, found in the same way.
    """

    start: int
    end: float
    resolution_s: int
    degraded: str | None = None
    machines: tuple[str, ...] = ()
    other_machines: tuple[str, ...] = ()


class Latencies:
    """Answers questions about latencies from the recorder's memory and its store.

    An object is thread-safe and answers one question at a time. `version` of a question is CURRENT, ALL, or
    the beginning of the SHA-256 of a model's file. CURRENT selects the runs of the file that is served, the
    runs that an earlier release recorded without a version, and all runs of models that no longer exist.
    `runtime` is a `Session.label`, or UNKNOWN_RUNTIME for the runs that an earlier release recorded. If it is
    None, the runs of all runtimes are pooled. Errors have no runtime, so they are part of the answer for
    every runtime. `machine` is one of `machines`, or UNKNOWN_MACHINE. If it is None, the runs of all machines
    are pooled.
    """

    def __init__(self, recorder: Recorder, current: Callable[[], Mapping[str, str]] = dict) -> None:
        """`current` returns the version of each existing model."""
        self._recorder = recorder
        self._current = current
        self._stored: TTLCache[tuple[object, ...], set[Run]] = TTLCache(64, _VERSIONS_FOR_S)
        self._stored_last_runs: TTLCache[tuple[object, ...], dict[str, int]] = TTLCache(64, _VERSIONS_FOR_S)
        self._cache = LatencyCache(recorder)
        self._cached_for: Mapping[str, str] = {}
        self._lock = threading.Lock()

    def now(self) -> float:
        """Return seconds since 1970 by the recorder's clock."""
        return self._recorder.now()

    def revision(self) -> int:
        """Return a number that changes whenever this process records something."""
        return self._recorder.revision()

    @property
    def machine(self) -> str:
        """Name of this machine; empty if unknown."""
        return self._recorder.machine

    def machines(self) -> set[str]:
        """Return the names of all machines with recorded latencies, and of this one.

        Raises StorageUnavailable if the database cannot be read.
        """
        store, names = self._recorder.store, {self.machine} - {""}
        if store is None:
            return names
        with store.view() as view:
            return names | view.read_machines()

    def has_history(self) -> bool:
        """Return whether the database has any latency. Return False if the database cannot be read."""
        store = self._recorder.store
        try:
            return store is not None and store.knows()
        except StorageUnavailable:
            return False

    def window(
        self,
        regime: Regime,
        since: float,
        *,
        model: str | None = None,
        stage: Stage | None = None,
        version: str = CURRENT,
        runtime: str | None = None,
        machine: str | None = None,
        totals_only: bool = False,
    ) -> tuple[Window, Figures]:
        """Return the time range of the answer, and the figures since `since`, in seconds since 1970.

        If `totals_only` is true, percentiles are left out.
        """

        def answer(question: Question, degraded: str | None) -> tuple[Window, Figures]:
            window = self._window(question, since, degraded)
            return window, self._cache.figures(question, window.start, math.inf)

        scope = self._scope(regime, model, stage, version, runtime, machine)
        return self._answer(scope._replace(totals_only=totals_only), answer)

    def distribution(
        self,
        regime: Regime,
        since: float,
        model: str,
        stage: Stage,
        version: str = CURRENT,
        runtime: str | None = None,
        machine: str | None = None,
    ) -> tuple[Window, Distribution]:
        """Return the time range, and the distribution of one model and stage since `since`.

        If there are no samples, the distribution is empty.
        """
        scope = self._scope(regime, model, stage, version, runtime, machine)
        window, distributions = self._distributions(scope, since)
        return window, distributions.get((model, stage)) or merge([])

    def distributions(
        self, regime: Regime, since: float, stage: Stage, version: str = CURRENT, machine: str | None = None
    ) -> dict[str, Distribution]:
        """Return, by model, the distribution of one stage since `since`, for models that have samples."""
        scope = self._scope(regime, None, stage, version, machine=machine)
        _, distributions = self._distributions(scope, since)
        return {model: found for (model, _), found in distributions.items()}

    def _distributions(
        self, scope: Scope, since: float
    ) -> tuple[Window, Mapping[tuple[str, Stage], Distribution]]:
        def answer(
            question: Question, degraded: str | None
        ) -> tuple[Window, Mapping[tuple[str, Stage], Distribution]]:
            window = self._window(question, since, degraded)
            return window, self._cache.pooled(question, window.start).distributions

        return self._answer(scope, answer)

    def history(
        self,
        regime: Regime,
        since: float,
        step_s: int | None = None,
        *,
        model: str | None = None,
        stage: Stage | None = None,
        version: str = CURRENT,
        runtime: str | None = None,
        machine: str | None = None,
    ) -> tuple[Window, list[tuple[int, Figures]]]:
        """Return the time range, and start and figures of each time step that has data.

        `step_s`, a multiple of 60, is rounded up to a multiple of the stored resolution of the first step. If
        it is None, the steps are minutes for a time range of up to an hour, hours for up to a week, and days
        for a longer time range. Raises InvalidParameter for more than MAX_STEPS steps.
        """

        def answer(question: Question, degraded: str | None) -> tuple[Window, list[tuple[int, Figures]]]:
            steps = _steps(question, _begin(question, since), step_s)
            self._cache.sum_up(question, steps)
            points = []
            for step in steps:
                figures = self._cache.step(question, step)
                if figures is None:
                    # The last step has no end, like the window.
                    end = math.inf if step is steps[-1] else step.end
                    figures = self._cache.figures(question, step.start, end)
                if figures.summaries or figures.errors:
                    points.append((step.start, figures))
            machines = self._machines(question, steps[0].start)
            return Window(steps[0].start, question.now, steps[0].resolution_s, degraded, *machines), points

        return self._answer(self._scope(regime, model, stage, version, runtime, machine), answer)

    def left_out(
        self,
        regime: Regime,
        since: float,
        model: str | None = None,
        version: str = CURRENT,
        machine: str | None = None,
    ) -> list[tuple[str, str]]:
        """Return the pairs (model, version) whose runs are left out by the question's `version`.

        Only runs since the start of the day of `since` count.
        """
        scope = self._scope(regime, model, None, version, machine=machine)
        return sorted(
            {
                (run.model, run.version)
                for run in self._recorded(regime, since, model)
                if run.version
                and scope.machine in (None, run.machine)
                and not scope.admits(run.model, run.version, run.runtime)
            }
        )

    def runtimes(
        self,
        regime: Regime,
        since: float,
        model: str | None = None,
        version: str = CURRENT,
        machine: str | None = None,
    ) -> list[tuple[str, str]]:
        """Return the pairs (model, runtime) of the selected runs since the start of the day of `since`.

        The runtime of runs that an earlier release recorded is UNKNOWN_RUNTIME.
        """
        scope = self._scope(regime, model, None, version, machine=machine)
        return sorted(
            {
                (run.model, run.runtime or UNKNOWN_RUNTIME)
                for run in self._recorded(regime, since, model)
                if scope.admits_run(run)
            }
        )

    def versions(self, regime: Regime, since: float, model: str, machine: str | None = None) -> list[str]:
        """Return the versions of a model with runs since the start of the day of `since`.

        The served version is first. The others are in the order of their last runs on any machine, newest
        first.
        """
        scope = self._scope(regime, model, None, ALL, machine=machine)
        runs = self._recorded(regime, since, model)
        names = {run.version for run in runs if run.version and scope.admits_run(run)}
        last, served = self._last_runs(regime, since, model), self.served(model)
        return sorted(names, key=lambda version: (version != served, -last.get(version, 0), version))

    def served(self, model: str) -> str | None:
        """Return the version of the file from which a model is served, or None if the model is not served."""
        return self._current().get(model)

    def _last_runs(self, regime: Regime, since: float, model: str) -> dict[str, int]:
        """Return, by version, the start of the last bucket that has runs, in seconds since 1970."""
        start = self._day_of(since)
        key = (regime, start, model)
        with self._lock:
            last = dict(self._stored_last_runs.get(key, {}))
            if key not in self._stored_last_runs and self._recorder.store is not None:
                try:
                    with self._recorder.store.view() as view:
                        last = view.read_last_runs(regime, start, model)
                    self._stored_last_runs[key] = dict(last)
                except StorageUnavailable:
                    pass  # the window of the figures has the reason
            for part in self._recorder.memory():
                for series in part.distributions:
                    if (series.regime, series.model) == (regime, model) and series.version:
                        last[series.version] = max(last.get(series.version, 0), part.bucket.start)
        return last

    def _recorded(self, regime: Regime, since: float, model: str | None) -> set[Run]:
        """Return model, version, runtime and machine of the runs since the start of the day of `since`."""
        day, store = self._day_of(since), self._recorder.store
        with self._lock:
            if (regime, day, model) not in self._stored and store is not None:
                try:
                    with store.view() as view:
                        return self._runs(regime, day, model, view)
                except StorageUnavailable:
                    pass  # the window of the figures has the reason
            return self._runs(regime, day, model, None)

    def _runs(self, regime: Regime, day: int, model: str | None, view: StoreView | None) -> set[Run]:
        """Return the runs since `day`, the start of a day, from memory and the store.

        The runs in the store are cached for a few seconds. If they are not cached, they are read from `view`.
        If they are not cached and `view` is None, only the runs in memory are returned.
        """
        runs = {
            Run(series.model, series.version, series.runtime, self.machine)
            for part in self._recorder.memory()
            if part.bucket.end > day
            for series in part.distributions
            if series.regime == regime and model in (None, series.model)
        }
        stored = self._stored.get((regime, day, model))
        if stored is None and view is not None:
            stored = self._stored[regime, day, model] = view.read_recorded(regime, day, model)
        return runs | (stored or set())

    def _day_of(self, since: float) -> int:
        return bucket_of(DAY_S, max(since, self.now() - KEEP_DAYS_S)).start

    def _scope(
        self,
        regime: Regime,
        model: str | None,
        stage: Stage | None,
        version: str,
        runtime: str | None = None,
        machine: str | None = None,
    ) -> Scope:
        runtime = "" if runtime == UNKNOWN_RUNTIME else runtime
        machine = "" if machine == UNKNOWN_MACHINE else machine
        scope = Scope(regime, model, stage, runtime=runtime, machine=machine)
        if version == ALL:
            return scope
        if version != CURRENT:
            return scope._replace(versions=Versions(prefix=version))
        return scope._replace(versions=_current_versions(self._current(), model))

    def _window(self, question: Question, since: float, degraded: str | None) -> Window:
        begin = _begin(question, since)
        resolution_s = question.resolution_at(begin)
        start = bucket_of(resolution_s, begin).start
        return Window(start, question.now, resolution_s, degraded, *self._machines(question, start))

    def _machines(self, question: Question, since: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the machines of the runs that the scope selects, and the machines that it leaves out.

        Only runs since the start of the day of `since` count.
        """
        scope = question.scope
        runs = self._runs(scope.regime, self._day_of(since), scope.model, question.view)
        pooled = {run.machine for run in runs if scope.admits_run(run)}
        others = {run.machine for run in runs if scope._replace(machine=None).admits_run(run)} - pooled
        return _names(pooled), _names(others)

    def knows(self, model: str) -> bool:
        """Return whether memory or the store has any latency or error of this model.

        If the store cannot be read, only memory counts.
        """
        if any(model in part.models() for part in self._recorder.memory()):
            return True
        try:
            return self._recorder.store is not None and self._recorder.store.knows(model)
        except StorageUnavailable:
            return False

    def _answer(self, scope: Scope, answer: Callable[[Question, str | None], T]) -> T:
        with self._lock:
            self._forget_old_versions()
            try:
                with self._cache.ask(scope) as question:
                    return answer(question, None)
            except StorageUnavailable as error:
                if self._recorder.problem is None:  # otherwise the recorder has logged it
                    _log.warning("latencies cannot be read; answering from memory", reason=error.detail)
                return answer(self._cache.ask_memory(scope), self._recorder.problem or error.detail)

    def _forget_old_versions(self) -> None:
        """Drop what is cached for the current versions of earlier times, which no question selects again."""
        current = self._current()
        if current == self._cached_for:
            return
        self._cached_for = dict(current)

        def is_old(scope: Scope) -> bool:
            versions = scope.versions
            if versions is None or versions.prefix:
                return False
            return versions != _current_versions(current, scope.model)

        self._cache.drop(is_old)


def _current_versions(current: Mapping[str, str], model: str | None) -> Versions | None:
    """Return the versions that CURRENT selects for `model`, or for all models if it is None.

    `current`: the served version of each model. The result is None if the model is not served.
    """
    models = sorted(current) if model is None else sorted(current.keys() & {model})
    if not models:
        return None
    return Versions("", tuple(models), tuple(sorted({current[name] for name in models})))


def _names(machines: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(machine or UNKNOWN_MACHINE for machine in machines))


def _begin(question: Question, since: float) -> float:
    """Return `since`, but not earlier than the oldest kept data, and not later than now.

    `since` is in the future if the clock was set back after it was computed.
    """
    return min(max(since, question.now - KEEP_DAYS_S), question.now)


def _steps(question: Question, since: float, step_s: int | None) -> list[Bucket]:
    if step_s is None:
        # Whole minutes, because `since` was computed a moment ago.
        length_s = (question.now - since) // MINUTE_S * MINUTE_S
        step_s = MINUTE_S if length_s <= HOUR_S else HOUR_S if length_s <= 7 * DAY_S else DAY_S
    for kept_s in (MINUTE_S, HOUR_S, DAY_S):
        step_s = math.ceil(step_s / kept_s) * kept_s
        first = bucket_of(step_s, since)
        if question.resolution_at(first.start) <= kept_s:
            break
    count = math.floor((question.now - first.start) / step_s) + 1
    if count > MAX_STEPS:
        raise InvalidParameter(
            f"step {step_s} s: {count} steps (limit: {MAX_STEPS}; use a longer step or a later since)"
        )
    return [Bucket(step_s, first.start + at * step_s) for at in range(count)]
