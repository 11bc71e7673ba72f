"""What measurements say of each model here, and why some of them say nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.zoo.statistics import PercentileBound, binomial_cdf, percentile_bound
from service.bench.bundle import Bundle, Entry, FlagKind, ModelFacts
from service.bench.fingerprint import Fingerprint, same_machine, same_software

_NO_EVIDENCE: tuple[FlagKind, ...] = ("dirty", "void", "partial", "contaminated")
_CAVEATS: tuple[FlagKind, ...] = ("unstable", "drift")
_RESAMPLES = 1000


@dataclass(frozen=True)
class StoredBundle:
    """A bundle under the name by which it can be found again. `compared`: pairs of its entries that were
    compared before, and by how much the first is faster, in words. `intervals`: of medians, by entry."""

    id: str
    bundle: Bundle
    compared: dict[tuple[str, str], str | None] = field(default_factory=dict, compare=False, repr=False)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Measured:
    """One model's usable measurement: inference of one image on one thread in ONNX Runtime, run after run."""

    stored: StoredBundle
    entry: Entry

    @property
    def facts(self) -> ModelFacts:
        """What was measured."""
        return self.stored.bundle.model_of(self.entry)

    @property
    def name(self) -> str:
        """The model's name."""
        return self.entry.model

    @property
    def quick(self) -> bool:
        """Whether it was a quick run, which says nothing of a p99."""
        return self.stored.bundle.configuration.profile == "quick"

    @cached_property
    def samples_ns(self) -> NDArray[np.int64]:
        """Every duration, sorted."""
        return np.sort(np.array(self.stored.bundle.samples(self.entry.name, "inference"), dtype=np.int64))

    @property
    def count(self) -> int:
        """How many runs there are."""
        return len(self.samples_ns)

    @property
    def p50_ms(self) -> float:
        """The median, with microsecond resolution."""
        return round(float(np.median(self.samples_ns)) / 1e6, 3)

    def percentile(self, fraction: float) -> PercentileBound | None:
        """The percentile with its 99 % bound; None where too few runs (or quick ones) stand behind it."""
        if self.quick and fraction >= 0.99:
            return None
        return percentile_bound(self.samples_ns.tolist(), fraction)

    def confidence(self, fraction: float, limit_ns: float) -> float:
        """How sure it is that the percentile does not exceed the limit, 0 to 1.

        The complement of the chance that so few runs exceed it although more than `1 - fraction` of all do,
        one run more counted than seen: the same conservative rule as the bound's.
        """
        over = int(self.count - np.searchsorted(self.samples_ns, limit_ns, side="right"))
        return 1 - binomial_cdf(over + 1, self.count, 1 - fraction)

    @property
    def median_interval_ns(self) -> tuple[float, float]:
        """The 95 % interval of the median, launches resampled first and rounds within them."""
        known = self.stored.intervals.get(self.entry.name)
        if known is None:
            known = self.stored.intervals[self.entry.name] = self._resampled_median()
        return known

    def _resampled_median(self) -> tuple[float, float]:
        blocks = self.stored.bundle.blocks_of(self.entry.name)
        launches: dict[int, list[float]] = {}
        for block in blocks:
            launches.setdefault(block.launch, []).append(float(np.median(block.durations_ns["inference"])))
        random = np.random.default_rng(0)
        values = [np.array(rounds) for rounds in launches.values()]
        medians = [
            np.median(
                np.concatenate(
                    [
                        random.choice(values[pick], len(values[pick]))
                        for pick in random.integers(0, len(values), len(values))
                    ]
                )
            )
            for _ in range(_RESAMPLES)
        ]
        low, high = np.quantile(medians, [0.025, 0.975])
        return float(low), float(high)

    @property
    def caveats(self) -> list[str]:
        """Flags that do not void it, in words."""
        bundle = self.stored.bundle
        return [
            f"{flag.kind}: {flag.reason}"
            for kind in _CAVEATS
            for flag in bundle.flags_of(kind, self.entry.name)
        ] + ([] if self.facts.trained else ["untrained: the latency of random weights may mislead"])


@dataclass
class Evidence:
    """The usable measurements by model, newest first; per model why others are unusable, newest first."""

    usable: dict[str, list[Measured]] = field(default_factory=dict)
    unusable: dict[str, list[str]] = field(default_factory=dict)
    used: list[str] = field(default_factory=list)
    unused: dict[str, str] = field(default_factory=dict)

    def best(self, model: str, fraction: float) -> Measured | None:
        """The newest measurement of the model that carries that percentile, else the newest."""
        found = self.usable.get(model, [])
        return next((each for each in found if each.percentile(fraction)), next(iter(found), None))


def weigh_evidence(
    bundles: Iterable[StoredBundle], here: Fingerprint | None, hashes: Mapping[str, str]
) -> Evidence:
    """Sort measurements into what counts and what does not, and why.

    `here`: what this machine is; None when the bundles are the machine, carried from elsewhere. `hashes`: the
    SHA-256 of each model's file as it is now, where it is known.
    """
    evidence = Evidence()
    for each in sorted(bundles, key=lambda one: one.bundle.started_at, reverse=True):
        bundle = each.bundle
        problem = _problem(bundle, here)
        if problem is not None:
            evidence.unused[each.id] = problem
        used = False
        for entry in bundle.entries:
            if entry.control:
                continue
            reason = problem or _entry_problem(bundle, entry, hashes)
            if reason is None:
                evidence.usable.setdefault(entry.model, []).append(Measured(each, entry))
                used = True
            else:
                evidence.unusable.setdefault(entry.model, []).append(f"{_when(bundle)}: {reason}")
        if used:
            evidence.used.append(each.id)
        elif problem is None:
            evidence.unused[each.id] = "nothing in it is what a service would run"
    return evidence


def _problem(bundle: Bundle, here: Fingerprint | None) -> str | None:
    """Why nothing in the bundle counts; None when it may."""
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
        return f"scenario {bundle.configuration.scenario} says nothing of a single image's latency"
    return None


def _entry_problem(bundle: Bundle, entry: Entry, hashes: Mapping[str, str]) -> str | None:
    facts = bundle.model_of(entry)
    if entry.via != "session" or entry.runtime != "onnxruntime" or entry.threads != 1:
        return f"'{entry.name}' is not run as the service does: one thread in onnxruntime"
    if hashes.get(entry.model, facts.sha256) != facts.sha256:
        return "stale: the model's file is another now"
    for kind in _NO_EVIDENCE:
        flags = [flag for flag in bundle.flags if flag.kind == kind and flag.entry == entry.name]
        if flags:
            return f"{kind}: {flags[0].reason}"
    if not bundle.samples(entry.name, "inference"):
        return "it holds no runs of it"
    return None


def _when(bundle: Bundle) -> str:
    moment: datetime = bundle.started_at
    return f"{bundle.configuration.profile} run of {moment:%Y-%m-%d %H:%M}"
