"""Recommend a model for this machine, for another kind of machine, or for the machine of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from models.zoo.card import Card, Task
from service.bench.bundle import ModelFacts
from service.bench.fingerprint import Fingerprint, Machine, same_machine, take_fingerprint
from service.bench.recommend.evidence import Evidence, StoredBundle, weigh_evidence
from service.bench.recommend.machines import chosen, kinds_of
from service.bench.recommend.recommend import Constraints, Recommendation, recommend
from service.errors import InvalidBundle
from service.evaluation.result import Evaluation
from service.inference.loading import LOADING
from service.inference.registry import Registry
from service.inference.runtimes.base import RUNTIMES, RuntimeName
from service.inference.runtimes.choice import Serving
from service.inference.runtimes.opening import is_installed, runtime_version, session_options


@dataclass(frozen=True)
class Advice:
    """A recommendation with its evidence, for machines of one kind.

    `name` is the name of the kind. `machine` is a machine of the kind. `is_here` says whether the machine of
    this process is of the kind. `benchmarks` is the number of benchmarks on machines of the kind. `others`
    has the advice for each other kind that has benchmarks. The evidence of such an advice is from benchmarks
    of its own kind only, and its own `others` is empty.
    """

    recommendation: Recommendation
    evidence: Evidence
    name: str
    machine: Fingerprint
    is_here: bool
    benchmarks: int
    others: tuple[Advice, ...] = ()


def this_machine() -> Fingerprint:
    """Return the fingerprint of this machine now, with which the fingerprints of benchmarks are compared.

    It has the versions and options of all installed runtimes.
    """
    installed: list[RuntimeName] = [name for name in RUNTIMES if is_installed(name)]
    return take_fingerprint(
        {name: runtime_version(name) for name in installed},
        {key: value for name in installed for key, value in session_options(name).items()},
    )


def _unknown_accuracies(cards: Mapping[str, Card], servings: Mapping[str, Serving]) -> dict[str, str]:
    """Return why the accuracy on a model's card may not hold in the service, by name of the model.

    Models whose card states no accuracy are left out.
    """
    return {
        name: reason
        for name, card in cards.items()
        if name in servings and (reason := servings[name].unknown_accuracy(card)) is not None
    }


def advise_here(
    constraints: Constraints,
    registry: Registry,
    bundles: Sequence[StoredBundle],
    unreadable: dict[str, str],
    here: Fingerprint,
    evaluation: Evaluation | None = None,
    machine: str | None = None,
) -> Advice:
    """Recommend a model of the zoo for machines of one kind, from benchmarks of such machines.

    `machine` is the name of the kind; None means the kind of this machine. If several kinds have this name
    and this machine is of one of them, this one is meant. With an `evaluation`, models are ranked by their
    accuracy on its pictures. Raises InvalidParameter if no kind has the name, or if several kinds have it and
    this machine is of none of them.
    """
    kinds = kinds_of(bundles, here.machine)
    wanted = here.machine if machine is None else chosen(kinds, machine, here.machine)
    broken = {
        entry.name: entry.reason
        for entry in registry.entries
        if entry.model is None and entry.reason is not None and entry.reason != LOADING
    }

    def advise(name: str, kind: Machine) -> Advice:
        is_here = kind == here.machine
        running = registry.servings() if is_here else registry.servings_elsewhere()
        cards = {entry.name: entry.card for entry in registry.entries if entry.card is not None}
        facts = [ModelFacts.of(running[name].card(card)) for name, card in cards.items() if name in running]
        measured = [stored for stored in bundles if stored.bundle.fingerprint.machine == kind]
        evidence = weigh_evidence(
            bundles if kind == wanted else measured,  # nothing shows the unused benchmarks of `others`
            here,
            {each.name: each.sha256 for each in facts},
            running,
            kind,
        )
        recommendation = recommend(
            constraints,
            [each for each in facts if each.name not in broken],
            evidence,
            _default_labels(registry, constraints.task),
            broken,
            evaluation,
            servings=running,
            unknown_accuracies=_unknown_accuracies(cards, running),
            machine=None if is_here else name,
        )
        machine = here.model_copy(update={"machine": kind})
        return Advice(recommendation, evidence, name, machine, is_here, len(measured))

    advice = [advise(name, kind) for name, kind in kinds.items()]
    (asked,) = (each for each in advice if each.machine.machine == wanted)
    asked.evidence.unused |= unreadable
    return replace(asked, others=tuple(each for each in advice if each is not asked and each.benchmarks))


def advise_from(
    constraints: Constraints,
    bundles: Sequence[StoredBundle],
    registry: Registry,
    evaluation: Evaluation | None = None,
    machine: str | None = None,
) -> Advice:
    """Recommend a model of the bundles for the machine on which they were measured.

    `machine` is the name of a kind of machine; it is needed if the bundles are from several kinds. With an
    `evaluation`, models are ranked by their accuracy on its pictures. Raises InvalidBundle if the bundles are
    from several kinds of machines and `machine` is None, and InvalidParameter if no kind has the name, or if
    several kinds have it. A model whose file in the zoo differs from the measured one is rejected as stale.
    """
    kinds = kinds_of(bundles)
    if machine is not None:
        kind = chosen(kinds, machine)
        bundles = [stored for stored in bundles if stored.bundle.fingerprint.machine == kind]
    first = bundles[0]
    for other in bundles[1:]:
        differences = same_machine(first.bundle.fingerprint, other.bundle.fingerprint)
        if differences:
            raise InvalidBundle(
                f"{first.id} and {other.id}: from different machines ({'; '.join(differences)}); choose one "
                f"with --machine (allowed: {'; '.join(kinds)})"
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
    fingerprint = first.bundle.fingerprint
    (name,) = (name for name, kind in kinds.items() if kind == fingerprint.machine)
    return Advice(recommendation, evidence, name, fingerprint, is_here=False, benchmarks=len(bundles))


def _default_labels(registry: Registry, task: Task) -> str:
    """Return the label set of the task's default model, or an empty text if that model does not exist."""
    name = registry.default_detector if task == "object-detection" else registry.default_model
    for entry in registry.entries:
        if entry.name == name and entry.card is not None:
            return entry.card.labels
    return ""
