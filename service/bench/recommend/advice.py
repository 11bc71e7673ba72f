"""Recommend a model for this machine, or for the machine of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from models.zoo.card import Task
from service.bench.bundle import ModelFacts
from service.bench.fingerprint import Fingerprint, same_machine, take_fingerprint
from service.bench.recommend.evidence import Evidence, StoredBundle, weigh_evidence
from service.bench.recommend.recommend import Constraints, Recommendation, recommend
from service.errors import InvalidBundle
from service.evaluation.result import Evaluation
from service.inference.loading import LOADING
from service.inference.registry import Registry
from service.inference.runtimes.base import RUNTIMES, RuntimeName
from service.inference.runtimes.opening import is_installed, runtime_version, session_options


@dataclass(frozen=True)
class Advice:
    """A recommendation with its evidence. `machine`: the machine that it is for."""

    recommendation: Recommendation
    evidence: Evidence
    machine: Fingerprint


def this_machine() -> Fingerprint:
    """Return the fingerprint that usable benchmarks have on this machine."""
    installed: list[RuntimeName] = [name for name in RUNTIMES if is_installed(name)]
    return take_fingerprint(
        {name: runtime_version(name) for name in installed},
        {key: value for name in installed for key, value in session_options(name).items()},
    )


def _unknown_accuracies(registry: Registry) -> dict[str, str]:
    """Return why the accuracy of what is served is unknown although the card has one, by model."""
    servings = registry.servings()
    return {
        entry.name: reason
        for entry in registry.entries
        if entry.card is not None
        and entry.name in servings
        and (reason := servings[entry.name].unknown_accuracy(entry.card)) is not None
    }


def advise_here(
    constraints: Constraints,
    registry: Registry,
    bundles: Sequence[StoredBundle],
    unreadable: dict[str, str],
    here: Fingerprint,
    evaluation: Evaluation | None = None,
) -> Advice:
    """Recommend a model of the zoo for this machine, from benchmarks of this machine.

    `evaluation`: rank by the accuracy on its pictures.
    """
    facts = [ModelFacts.of(card) for card in registry.served_cards().values()]
    running = registry.servings()
    broken = {
        entry.name: entry.reason
        for entry in registry.entries
        if entry.model is None and entry.reason is not None and entry.reason != LOADING
    }
    hashes = {each.name: each.sha256 for each in facts}
    evidence = weigh_evidence(bundles, here, hashes, running)
    evidence.unused |= unreadable
    usable = [each for each in facts if each.name not in broken]
    return Advice(
        recommend(
            constraints,
            usable,
            evidence,
            _default_labels(registry, constraints.task),
            broken,
            evaluation,
            servings=running,
            unknown_accuracies=_unknown_accuracies(registry),
        ),
        evidence,
        machine=here,
    )


def advise_from(
    constraints: Constraints,
    bundles: Sequence[StoredBundle],
    registry: Registry,
    evaluation: Evaluation | None = None,
) -> Advice:
    """Recommend a model of the bundles for the machine that they were measured on.

    `evaluation`: rank by the accuracy on its pictures. Raises InvalidBundle if the bundles are from several
    machines. Models whose file in the zoo differs are rejected as stale.
    """
    first = bundles[0]
    for other in bundles[1:]:
        differences = same_machine(first.bundle.fingerprint, other.bundle.fingerprint)
        if differences:
            raise InvalidBundle(
                f"{first.id} and {other.id}: from different machines ({'; '.join(differences)})"
            )
    facts = {each.name: each for stored in reversed(bundles) for each in stored.bundle.models}
    hashes = {
        entry.name: entry.card.file.sha256
        for entry in registry.entries
        if entry.card is not None and entry.name in facts
    }
    evidence = weigh_evidence(bundles, None, hashes)
    sets = {each.labels for each in facts.values() if each.task == constraints.task}
    labels = sets.pop() if len(sets) == 1 else _default_labels(registry, constraints.task)
    recommendation = recommend(constraints, list(facts.values()), evidence, labels, evaluation=evaluation)
    return Advice(recommendation, evidence, machine=first.bundle.fingerprint)


def _default_labels(registry: Registry, task: Task) -> str:
    """Return the label set of the task's default model; empty if that model does not exist."""
    name = registry.default_detector if task == "object-detection" else registry.default_model
    for entry in registry.entries:
        if entry.name == name and entry.card is not None:
            return entry.card.labels
    return ""
