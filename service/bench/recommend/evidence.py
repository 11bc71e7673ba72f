"""Evidence of a recommendation: usable benchmarks per model, and why others are not usable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import PercentileBound, binomial_cdf, percentile_bound
from models.zoo.verdicts import MIN_ROUNDS
from service.bench.bundle import Bundle, Entry, FlagKind, ModelFacts
from service.bench.fingerprint import Fingerprint, Machine, same_machine, same_software
from service.inference.runtimes.choice import Serving

_NO_EVIDENCE: tuple[FlagKind, ...] = ("dirty", "void", "partial", "contaminated")
_CAVEATS: tuple[FlagKind, ...] = ("unstable", "drift")
_RESAMPLES = 1000


@dataclass(frozen=True)
class StoredBundle:
    """A bundle with its id, and two caches.

    A key of `compared` is a pair of entries. Its value says in words how much faster the first entry is than
    the second; it is None if the first entry is not significantly faster. `intervals` has the 95 % intervals
    of the medians in nanoseconds, by entry.
    """

    id: str
    bundle: Bundle
    compared: dict[tuple[str, str], str | None] = field(default_factory=dict, compare=False, repr=False)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Measured:
    """A benchmark of one model that can be used as evidence.

    It measured single-stream inference on one thread, in the service's runtime.
    """

    stored: StoredBundle
    entry: Entry

    @property
    def facts(self) -> ModelFacts:
        """Facts of the measured model."""
        return self.stored.bundle.model_of(self.entry)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.entry.model

    @cached_property
    def samples_ns(self) -> NDArray[np.int64]:
        """Durations of the runs in nanoseconds, int64 (runs,), in ascending order."""
        return np.sort(np.array(self.stored.bundle.samples(self.entry.name, "inference"), dtype=np.int64))

    @property
    def count(self) -> int:
        """Number of runs."""
        return len(self.samples_ns)

    @property
    def p50_ms(self) -> float:
        """Median in milliseconds, rounded to microseconds."""
        return round(float(np.median(self.samples_ns)) / 1e6, 3)

    def percentile(self, fraction: float) -> PercentileBound | None:
        """Return the percentile `fraction` with its 99 % bound, or None if there are too few runs for it."""
        return percentile_bound(self.samples_ns.tolist(), fraction)

    def confidence(self, fraction: float, limit_ns: float) -> float:
        """Return the confidence, 0 to 1, that the percentile is within the limit.

        Let k be one more than the number of runs that took longer than the limit. The confidence is the
        probability that, of as many runs, more than k take longer than the limit, if each run does so with
        the probability `1 - fraction`. Adding 1 makes the confidence conservative, and consistent with
        `percentile_bound`.
        """
        over = int(self.count - np.searchsorted(self.samples_ns, limit_ns, side="right"))
        return 1 - binomial_cdf(over + 1, self.count, 1 - fraction)

    @property
    def median_interval_ns(self) -> tuple[float, float] | tuple[None, None]:
        """The 95 % interval of the median, by a bootstrap over launches and the rounds within them.

        It is (None, None) for fewer than MIN_ROUNDS rounds, because the resamples would be too alike.
        """
        if len(self.stored.bundle.blocks_of(self.entry.name)) < MIN_ROUNDS:
            return None, None
        interval = self.stored.intervals.get(self.entry.name)
        if interval is None:
            interval = self.stored.intervals[self.entry.name] = self._resampled_median()
        return interval

    def _resampled_median(self) -> tuple[float, float]:
        blocks = self.stored.bundle.blocks_of(self.entry.name)
        launches: dict[int, list[float]] = {}
        for block in blocks:
            launches.setdefault(block.launch, []).append(float(np.median(block.durations_ns["inference"])))
        random = np.random.default_rng(0)
        values = [np.array(rounds) for rounds in launches.values()]
        count, length = len(values), len(values[0])
        medians: Sequence[float] | NDArray[np.float64]
        if all(len(rounds) == length for rounds in values):
            # All resamples at once, with the random numbers of the loop below: launches, then rounds
            bounds = np.tile(np.repeat([count, length], [count, count * length]), _RESAMPLES)
            drawn = random.integers(0, bounds).reshape(_RESAMPLES, count * (1 + length))
            rounds_of = drawn[:, count:].reshape(_RESAMPLES, count, length)
            resampled = np.stack(values)[drawn[:, :count, np.newaxis], rounds_of]
            medians = np.median(resampled.reshape(_RESAMPLES, count * length), axis=1)
        else:
            medians = [
                float(
                    np.median(
                        np.concatenate([random.choice(values[pick], len(values[pick])) for pick in picks])
                    )
                )
                for picks in (random.integers(0, count, count) for _ in range(_RESAMPLES))
            ]
        low, high = np.quantile(medians, [0.025, 0.975])
        return float(low), float(high)

    @property
    def caveats(self) -> list[str]:
        """Reasons to doubt the benchmark, in words. Despite them, the benchmark counts as evidence."""
        bundle = self.stored.bundle
        return [
            f"{flag.kind}: {flag.reason}"
            for kind in _CAVEATS
            for flag in bundle.flags_of(kind, self.entry.name)
        ] + ([] if self.facts.trained else ["untrained: the latency of random weights may mislead"])


@dataclass
class Evidence:
    """Evidence holds the benchmarks that can be used, and says why benchmarks cannot be used.

    `usable` has the usable benchmarks of each model, and `unusable` the reasons why benchmarks of a model are
    not usable; both are by name of the model, the newest first. `used` has the ids of the bundles that have a
    usable benchmark. `unused` says, by id, why a bundle has none.
    """

    usable: dict[str, list[Measured]] = field(default_factory=dict)
    unusable: dict[str, list[str]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)

    def best(self, model: str, fraction: float) -> Measured | None:
        """Return the model's newest benchmark that has enough runs for the percentile `fraction`.

        If no benchmark has enough runs, return the model's newest one. Return None if the model has no usable
        benchmark.
        """
        usable = self.usable.get(model, [])
        with_percentile = (measured for measured in usable if measured.percentile(fraction))
        return next(with_percentile, next(iter(usable), None))


def weigh_evidence(
    bundles: Iterable[StoredBundle],
    here: Fingerprint | None,
    hashes: Mapping[str, str],
    servings: Mapping[str, Serving] = MappingProxyType({}),
    machine: Machine | None = None,
) -> Evidence:
    """Find which benchmarks can be used as evidence, and why the others cannot.

    `here` is the fingerprint of this machine; it is None if the recommendation is for the machine of the
    bundles. `hashes` has the SHA-256 of the model files in the zoo, by name of the model. `servings` has the
    runtime and the precision in which the service runs each model; by default, this is ONNX Runtime, in the
    precision of the card. `machine` is the kind of machine that the recommendation is for; by default, it is
    the kind of this machine. For another kind, the precision in `servings` may be unknown. If it is unknown,
    a benchmark in any precision is usable. It was measured on a machine of the wanted kind, and on one
    machine `weighin bench` and the service use the same precision.
    """
    evidence, is_elsewhere = Evidence(), False
    if here is not None and machine is not None and machine != here.machine:
        here = here.model_copy(update={"machine": machine})
        is_elsewhere = True
    for stored in sorted(bundles, key=lambda stored: stored.bundle.started_at, reverse=True):
        bundle = stored.bundle
        problem = _problem(bundle, here)
        if problem is not None:
            evidence.unused[stored.id] = problem
        used = False
        for entry in bundle.entries:
            if entry.control:
                continue
            serving = servings.get(entry.model)
            reason = problem or _entry_problem(bundle, entry, hashes, serving, any_precision=is_elsewhere)
            if reason is None:
                evidence.usable.setdefault(entry.model, []).append(Measured(stored, entry))
                used = True
            else:
                evidence.unusable.setdefault(entry.model, []).append(f"{_when(bundle)}: {reason}")
        if used:
            evidence.used.append(stored.id)
        elif problem is None:
            evidence.unused[stored.id] = "no entry is run as in the service"
    return evidence


def _problem(bundle: Bundle, here: Fingerprint | None) -> str | None:
    """Return why no entry of the bundle can be used, or None if the bundle as a whole can be used."""
    if here is not None:
        machine = same_machine(here, bundle.fingerprint)
        if machine:
            return f"measured on another machine ({'; '.join(machine)})"
        software = same_software(here, bundle.fingerprint)
        if software:
            return f"stale: measured with other software ({'; '.join(software)})"
    for kind in _NO_EVIDENCE:
        flags = [flag for flag in bundle.flags if flag.kind == kind and flag.entry is None]
        if flags:
            return f"{kind}: {flags[0].reason}"
    if bundle.configuration.scenario != "single-stream":
        return f"scenario {bundle.configuration.scenario} has no latency of single images"
    return None


def _entry_problem(
    bundle: Bundle,
    entry: Entry,
    hashes: Mapping[str, str],
    serving: Serving | None,
    *,
    any_precision: bool,
) -> str | None:
    """Return why this entry of the bundle cannot be used, or None if it can.

    With `any_precision`, every precision is usable if the precision in the service is unknown.
    """
    facts = bundle.model_of(entry)
    serving = serving or Serving("onnxruntime", facts.precision)
    if entry.via != "session" or entry.runtime != serving.runtime or entry.threads != 1:
        return f"'{entry.name}' is not run as in the service (one thread in {serving.runtime})"
    if hashes.get(entry.model, facts.sha256) != facts.sha256:
        return "stale: the model file has changed"
    precision = bundle.precision_of(entry)
    if precision is None:
        return f"'{entry.name}': its precision in {entry.runtime} is not recorded"
    if serving.precision is None and not any_precision:
        return (
            f"'{entry.name}' is run in {precision}, the service may run it in another precision: not weighed"
        )
    if serving.precision is not None and precision != serving.precision:
        return f"'{entry.name}' is not run as in the service (in {serving.precision}, not {precision})"
    for kind in _NO_EVIDENCE:
        flags = [flag for flag in bundle.flags if flag.kind == kind and flag.entry == entry.name]
        if flags:
            return f"{kind}: {flags[0].reason}"
    if not bundle.samples(entry.name, "inference"):
        return "no runs"
    return None


def _when(bundle: Bundle) -> str:
    moment: datetime = bundle.started_at
    return f"{bundle.configuration.profile} run of {moment:%Y-%m-%d %H:%M}"
