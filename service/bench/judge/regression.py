"""Find regressions between two benchmarks of one machine, before and after a change.

The two benchmarks are not interleaved, so a change of the machine between them looks like a regression. Use
the same profile, and a threshold above the difference that two benchmarks of unchanged models show
(docs/instrument.md has figures).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.zoo.statistics import holm
from models.zoo.verdicts import (
    MIN_ROUNDS,
    RESAMPLES,
    Verdict,
    estimate_from,
    interquartile_mean,
    resampled_means,
    verdict,
)
from service.bench.bundle import Bundle, FlagKind
from service.bench.fingerprint import same_machine, same_software
from service.bench.judge.verdicts import round_medians
from service.errors import InvalidBundle, InvalidParameter

DEFAULT_THRESHOLD = 0.05
_NO_EVIDENCE: tuple[FlagKind, ...] = ("void", "partial")


@dataclass(frozen=True)
class Change:
    """An object says how one entry has changed between two benchmarks.

    `then_ns` and `now_ns` are the medians of the old and of the new benchmark. `ratio` is the new time
    divided by the old time, so above 1 is slower; `low` and `high` are the ends of its 95 % interval.
    `regressed` says that the entry is slower by the verdict rule and by more than the threshold. `other_file`
    says that the two benchmarks ran different model files.
    """

    entry: str
    then_ns: float
    now_ns: float
    ratio: float
    low: float
    high: float
    adjusted_p: float
    verdict: Verdict
    regressed: bool
    other_file: bool


@dataclass(frozen=True)
class Regression:
    """An object is the comparison of an old bundle with a new one.

    `only_then` and `only_now` are entries that only the old, or only the new bundle has. `labels` are caveats
    for the reader.
    """

    changes: tuple[Change, ...]
    only_then: tuple[str, ...]
    only_now: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def regressed(self) -> bool:
        """Whether any entry became slower by more than the threshold."""
        return any(change.regressed for change in self.changes)


def compare_bundles(
    then: Bundle, now: Bundle, *, threshold: float = DEFAULT_THRESHOLD, across_machines: bool = False
) -> Regression:
    """Compare the entries that both bundles have.

    An entry has regressed if the verdict rule calls it slower and its relative slowdown is above `threshold`
    (0.05 for 5 %). Raises InvalidParameter for a threshold outside of 0 to 10, and InvalidBundle if the
    bundles are not comparable: one is void or partial, they have no common entry, or their scenarios, inputs
    or machines differ. With `across_machines`, different machines add a label instead of an error.
    """
    if not 0 <= threshold <= 10:
        raise InvalidParameter(f"threshold {threshold:g}: out of range (allowed: 0 to 10, 0.05 for 5 %)")
    _refuse_no_evidence(then, "first")
    _refuse_no_evidence(now, "second")
    labels = []
    machine = same_machine(then.fingerprint, now.fingerprint)
    if machine:
        if not across_machines:
            raise InvalidBundle(f"bundles: from different machines ({'; '.join(machine)}), not comparable")
        labels.append(f"DIFFERENT MACHINES: {'; '.join(machine)}")
    software = same_software(then.fingerprint, now.fingerprint)
    labels += [f"other software: {difference}" for difference in software]
    for field in ("scenario", "inputs"):
        mine, theirs = getattr(then.configuration, field), getattr(now.configuration, field)
        if mine != theirs:
            raise InvalidBundle(f"bundles: different {field}, not comparable")
    if then.configuration.profile != now.configuration.profile:
        labels.append(f"profile {then.configuration.profile}, then {now.configuration.profile}")
    for field in ("launches", "rounds", "block_runs", "block_s"):
        mine, theirs = getattr(then.configuration, field), getattr(now.configuration, field)
        if mine != theirs and then.configuration.profile == now.configuration.profile:
            labels.append(f"{field} {mine}, then {theirs}")
    for which, bundle in (("first", then), ("second", now)):
        for kind in ("dirty", "contaminated", "drift", "unstable"):
            flags = [flag for flag in bundle.flags if flag.kind == kind]
            if flags:
                labels.append(f"the {which} is {kind} ({len(flags)}): {flags[0].reason}")
    return _compare(then, now, threshold, tuple(labels))


def _refuse_no_evidence(bundle: Bundle, which: str) -> None:
    for kind in _NO_EVIDENCE:
        for flag in bundle.flags_of(kind):
            raise InvalidBundle(f"{which} bundle: {kind}, not usable as evidence: {flag.reason}")


def _compare(then: Bundle, now: Bundle, threshold: float, labels: tuple[str, ...]) -> Regression:
    before = {entry.name: round_medians(then, entry.name) for entry in then.entries if not entry.control}
    after = {entry.name: round_medians(now, entry.name) for entry in now.entries if not entry.control}
    common = [name for name in before if before[name] and after.get(name)]
    if not common:
        mine, theirs = (", ".join(names) or "nothing" for names in (before, after))
        raise InvalidBundle(f"bundles: no common entries ({mine}; {theirs})")
    rounds = {name: min(len(before[name]), len(after[name])) for name in common}
    fewest = min(rounds.values())
    if fewest < MIN_ROUNDS:
        labels += (f"{fewest} rounds: too few for a verdict and an interval (needed: {MIN_ROUNDS} in each)",)
    estimates = {}
    for name in common:
        random = np.random.default_rng(0)
        old, new = _by_launch(before[name]), _by_launch(after[name])
        difference = resampled_means(new, RESAMPLES, random) - resampled_means(old, RESAMPLES, random)
        mean = float(interquartile_mean(np.concatenate(new)) - interquartile_mean(np.concatenate(old)))
        estimates[name] = estimate_from(mean, difference, rounds[name])
    adjusted = dict(zip(common, holm([estimates[name].p for name in common]), strict=True))
    changes = []
    for name in common:
        estimate = estimates[name]
        entry_verdict = verdict(estimate.mean, adjusted[name])
        ratio = math.exp(estimate.mean)
        changes.append(
            Change(
                entry=name,
                then_ns=float(np.median(list(before[name].values()))),
                now_ns=float(np.median(list(after[name].values()))),
                ratio=ratio,
                low=math.exp(estimate.low),
                high=math.exp(estimate.high),
                adjusted_p=adjusted[name],
                verdict=entry_verdict,
                regressed=entry_verdict == "slower" and ratio > 1 + threshold,
                other_file=then.model_of(then.entry(name)).sha256 != now.model_of(now.entry(name)).sha256,
            )
        )
    return Regression(
        changes=tuple(changes),
        only_then=tuple(sorted(before.keys() - after.keys())),
        only_now=tuple(sorted(after.keys() - before.keys())),
        labels=labels,
    )


def _by_launch(
    medians: dict[tuple[int, int], float],
) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    launches: dict[int, list[float]] = {}
    for (launch, _), median in sorted(medians.items()):
        launches.setdefault(launch, []).append(math.log(median))
    return [np.array(rounds) for rounds in launches.values()]
