"""Two measurements of one machine, before and after a change: has an entry become slower?

The runs were not interleaved with each other, so what the machine did in between cannot be told from the
change: use the same profile, and a threshold above what two runs of the same thing differ by
(docs/instrument.md says by how much they do).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from models.zoo.statistics import holm
from models.zoo.verdicts import (
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
    """One entry then and now. `ratio` is now over then (above 1: slower), with its 95 % interval.

    `regressed`: slower by the verdict rule and by more than the threshold. `other_file`: the model's file is
    another one.
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
    """What two bundles say together. `labels`: what a reader must know before believing it."""

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

    Raises InvalidParameter for a threshold that is not in 0 to 10, and InvalidBundle when the bundles cannot
    be compared: other machines (unless `across_machines`, which labels the result), other scenarios or
    inputs, nothing in common, or a run that is void or partial.
    """
    if not 0 <= threshold <= 10:
        raise InvalidParameter(f"threshold is {threshold:g}; it may be 0 to 10, as in 0.05 for 5 %")
    _refuse_no_evidence(then, "first")
    _refuse_no_evidence(now, "second")
    labels = []
    machine = same_machine(then.fingerprint, now.fingerprint)
    if machine:
        if not across_machines:
            raise InvalidBundle(
                f"The bundles are of different machines ({'; '.join(machine)}): "
                "a difference would say nothing of the change."
            )
        labels.append(f"DIFFERENT MACHINES: {'; '.join(machine)}")
    labels += [f"other software: {each}" for each in same_software(then.fingerprint, now.fingerprint)]
    for field in ("scenario", "inputs"):
        mine, theirs = getattr(then.configuration, field), getattr(now.configuration, field)
        if mine != theirs:
            raise InvalidBundle(f"The bundles have different {field}: they do not measure the same thing.")
    if then.configuration.profile != now.configuration.profile:
        labels.append(f"profile {then.configuration.profile}, then {now.configuration.profile}")
    for field in ("launches", "rounds", "block_runs", "block_s"):
        mine, theirs = getattr(then.configuration, field), getattr(now.configuration, field)
        if mine != theirs and then.configuration.profile == now.configuration.profile:
            labels.append(f"{field} {mine}, then {theirs}")
    for which, bundle in (("first", then), ("second", now)):
        for kind in ("dirty", "contaminated", "drift", "unstable"):
            found = [flag for flag in bundle.flags if flag.kind == kind]
            if found:
                labels.append(f"the {which} is {kind} ({len(found)}): {found[0].reason}")
    return _compare(then, now, threshold, tuple(labels))


def _refuse_no_evidence(bundle: Bundle, which: str) -> None:
    for kind in _NO_EVIDENCE:
        for flag in bundle.flags_of(kind):
            raise InvalidBundle(f"The {which} bundle is {kind}, which is no evidence: {flag.reason}.")


def _compare(then: Bundle, now: Bundle, threshold: float, labels: tuple[str, ...]) -> Regression:
    before = {entry.name: round_medians(then, entry.name) for entry in then.entries if not entry.control}
    after = {entry.name: round_medians(now, entry.name) for entry in now.entries if not entry.control}
    common = [name for name in before if before[name] and after.get(name)]
    if not common:
        mine, theirs = (", ".join(names) or "nothing" for names in (before, after))
        raise InvalidBundle(f"The bundles have nothing in common: {mine}; {theirs}.")
    estimates = {}
    for name in common:
        random = np.random.default_rng(0)
        one, other = _by_launch(before[name]), _by_launch(after[name])
        difference = resampled_means(other, RESAMPLES, random) - resampled_means(one, RESAMPLES, random)
        mean = float(interquartile_mean(np.concatenate(other)) - interquartile_mean(np.concatenate(one)))
        estimates[name] = estimate_from(mean, difference)
    adjusted = dict(zip(common, holm([estimates[name].p for name in common]), strict=True))
    changes = []
    for name in common:
        estimate = estimates[name]
        said = verdict(estimate.mean, adjusted[name])
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
                verdict=said,
                regressed=said == "slower" and ratio > 1 + threshold,
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
