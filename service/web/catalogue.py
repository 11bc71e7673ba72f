"""What the dashboard shows of each model besides latency: task, labels, size, accuracy and its origin."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
from cachetools import LRUCache

from models.zoo.card import Task
from models.zoo.display import counted
from service.bench.archive import BenchmarkArchive
from service.bench.bundle import ModelFacts
from service.bench.recommend.accuracy import AccuracyEstimate, estimate_accuracy
from service.bench.recommend.advice import this_machine
from service.bench.recommend.evidence import Measured, weigh_evidence
from service.bench.recommend.machines import kinds_of
from service.bench.recommend.pareto import Candidate, front
from service.bench.report.caveats import same_model
from service.errors import StorageUnavailable, UnknownEvaluation
from service.evaluation.result import Evaluation
from service.evaluation.store import EvaluationStore, EvaluationSummary
from service.inference.registry import Registry

_log = structlog.get_logger(__name__)

Labels = tuple[Task, str]
"""A task and a label set. Accuracies are compared only between models that have both in common."""

_MOST_MACHINES = 16
"""Number of kinds of machine whose judged benchmarks are kept."""

MOST_EVALUATIONS = 20
"""Number of newest evaluations in which a label set's accuracies are looked for."""


@dataclass(frozen=True, slots=True)
class _Judged:
    """State of judging the benchmarks of one kind of machine.

    `key`: the benchmarks and models from which `measured` is computed. `measured`: the newest usable
    benchmark of each model; None until the benchmarks are judged. `kind`: name of the kind of machine if
    other kinds have the same CPU and cores, else empty. `failed_at`: when judging failed; None if it did not
    fail.
    """

    key: object
    measured: Mapping[str, Measured] | None
    kind: str = ""
    failed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Accuracies:
    """Accuracies of the models of one task and label set.

    `of`: on what the accuracies were measured, in words. `by_model`: the accuracies by the models' names.
    `compared`: names of the models that can be compared. Models that were evaluated on other pictures are not
    among them.
    """

    of: str
    by_model: Mapping[str, AccuracyEstimate]
    compared: frozenset[str]


class Catalogue:
    """The served models, with accuracies of evaluations and cards, and benchmarks of this machine.

    Thread-safe. Benchmarks are read in the background, because they take seconds to judge.
    """

    def __init__(
        self,
        registry: Registry,
        archive: BenchmarkArchive,
        evaluations: EvaluationStore,
        *,
        retry_s: float = 30.0,
    ) -> None:
        """`retry_s`: seconds after which judging benchmarks is tried again if it has failed."""
        self._registry = registry
        self._archive = archive
        self._evaluations = evaluations
        self._retry_s = retry_s
        self._documents: dict[str, tuple[EvaluationSummary, Evaluation]] = {}
        self._unreadable: frozenset[str] = frozenset()
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()
        self._judged: LRUCache[str, _Judged] = LRUCache(_MOST_MACHINES)
        self._threads: list[threading.Thread] = []

    @property
    def defaults(self) -> tuple[str, ...]:
        """Names of the default model and, if there is one, of the default detector."""
        detector = self._registry.default_detector
        return (self._registry.default_model, *(() if detector is None else (detector,)))

    def facts(self) -> dict[str, ModelFacts]:
        """Return the facts of each model that has a card, by name.

        The accuracy in the facts is that of the runtime in use.
        """
        return {name: ModelFacts.of(card) for name, card in self._registry.served_cards().items()}

    def runs_in(self, name: str) -> str:
        """Return the runtime and the precision of a model's predictions, in words.

        The text is empty if the model is not served.
        """
        models = {model.name: model for model in self._registry.loaded}
        if name not in models:
            return ""
        predictor = models[name].predictor
        runtime = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}[predictor.runtime]
        return f"{runtime} in {predictor.precision}"

    def assumed(self) -> Mapping[str, tuple[str, ...]]:
        """Return the assumed facts on which predictions depend, for each model that has such facts."""
        return self._registry.doubtful()

    def accuracies(self, facts: Mapping[str, ModelFacts]) -> dict[Labels, Accuracies]:
        """Return the accuracies of each label set of these models.

        The accuracies of a label set are from the evaluation that has the most models of this label set. If
        several evaluations have equally many, the newest of them is used. A model that is not in the
        evaluation has the accuracy of its card.

        Models can only be compared if their accuracies are from the same source. Therefore, an evaluation
        with only one of the models is not used if the cards of at least two models give an accuracy.
        """
        groups: dict[Labels, list[ModelFacts]] = {}
        for each in facts.values():
            groups.setdefault((each.task, each.labels), []).append(each)
        evaluations = self._newest_evaluations()
        return {key: _accuracies(models, evaluations) for key, models in groups.items()}

    def measured(self, facts: Mapping[str, ModelFacts], machine: str = "") -> Mapping[str, Measured] | None:
        """Return the newest usable benchmark of each model on one kind of machine.

        `machine`: name of the kind of machine; empty for this machine. The result is None while benchmarks
        are judged. A call starts judging if benchmarks or models have changed since the last call, or if
        judging failed at least `retry_s` seconds ago.
        """
        newest = self._archive.newest()
        if not newest:
            return {}
        hashes = {name: each.sha256 for name, each in facts.items()}
        running = {(name, each.runtime, each.precision) for name, each in self._registry.servings().items()}
        key = (newest, frozenset(hashes.items()), frozenset(running))
        with self._lock:
            judged = self._judged.get(machine, _Judged(None, {}))
            failed_at = judged.failed_at
            is_due = failed_at is not None and time.monotonic() - failed_at >= self._retry_s
            if judged.key != key or is_due:
                judged = self._judged[machine] = _Judged(key, None)
                thread = threading.Thread(
                    target=self._judge, args=(key, dict(facts), machine), name="weighin-judge", daemon=True
                )
                self._threads = [*(each for each in self._threads if each.is_alive()), thread]
                thread.start()
            return judged.measured

    def kind(self, machine: str = "") -> str:
        """Return the kind of machine of the benchmarks that `measured` returns, in words.

        The text is the kind's name and what tells it apart from others. It is empty if no other kind with
        benchmarks has the same CPU and cores, or as long as `measured` returns None.
        """
        with self._lock:
            judged = self._judged.get(machine)
        return "" if judged is None else judged.kind

    def close(self) -> None:
        """Wait until no benchmark is being read."""
        for thread in self._threads:
            thread.join()

    def _judge(self, key: object, facts: Mapping[str, ModelFacts], machine: str) -> None:
        measured: Mapping[str, Measured] = {}
        kind, failed_at = "", None
        try:
            with self._one_at_a_time:
                measured, kind = self._usable(facts, machine)
        except StorageUnavailable as error:
            failed_at = time.monotonic()
            _log.warning("dashboard: benchmarks cannot be read", reason=error.detail)
        except Exception:
            failed_at = time.monotonic()
            _log.exception("dashboard: benchmarks cannot be judged")
        with self._lock:
            judged = self._judged.get(machine)
            if judged is not None and judged.key == key:
                self._judged[machine] = _Judged(key, measured, kind, failed_at)

    def _usable(self, facts: Mapping[str, ModelFacts], machine: str) -> tuple[dict[str, Measured], str]:
        """Return the newest usable benchmark of each model, and the kind of machine as `kind` returns it.

        The benchmarks are of a kind of machine with the name `machine`. If several kinds have this name, this
        machine's own kind is used if it is one of them, and otherwise the kind with the newest benchmark. If
        `machine` is empty, this machine's own kind is used. The method also makes the comparisons that
        `front` needs, because they take long and are cached.
        """
        hashes = {name: each.sha256 for name, each in facts.items()}
        bundles, _ = self._archive.newest_bundles()
        here = this_machine()
        kind = here.machine
        if machine not in ("", kind.name):
            of_kind = [each.bundle for each in bundles if each.bundle.fingerprint.machine.name == machine]
            if not of_kind:
                return {}, ""
            kind = max(of_kind, key=lambda bundle: bundle.started_at).fingerprint.machine
        (name_of_kind,) = (name for name, each in kinds_of(bundles, here.machine).items() if each == kind)
        is_here = kind == here.machine
        servings = self._registry.servings() if is_here else self._registry.servings_elsewhere()
        evidence = weigh_evidence(bundles, here, hashes, servings, kind)
        found = {name: evidence.best(name, 0.5) for name in evidence.usable}
        measured = {name: each for name, each in found.items() if each is not None and name in hashes}
        groups: dict[Labels, list[Candidate]] = {}
        for name, each in measured.items():
            _ = each.median_interval_ns  # takes long, so it is cached here, like the comparisons of `front`
            estimate = estimate_accuracy(facts[name])
            groups.setdefault((each.facts.task, each.facts.labels), []).append(Candidate(each, estimate))
        for candidates in groups.values():
            front(candidates)
        return measured, "" if name_of_kind == kind.name else name_of_kind

    def _newest_evaluations(self) -> list[Evaluation]:
        """Return the newest evaluations, newest first. Evaluations that cannot be read are left out."""
        try:
            listed = self._evaluations.summaries(MOST_EVALUATIONS)
        except StorageUnavailable:
            return []
        documents, unreadable = {}, set()
        for each in listed:
            known = self._documents.get(each.id)
            try:
                if known is None or known[0] != each:
                    known = (each, self._evaluations.get(each.id))
                documents[each.id] = known
            except (StorageUnavailable, UnknownEvaluation) as error:
                unreadable.add(each.id)
                if each.id not in self._unreadable:
                    _log.warning("dashboard: evaluation left out", id=each.id, reason=error.detail)
        self._documents, self._unreadable = documents, frozenset(unreadable)
        return [evaluation for _, evaluation in documents.values()]


def _accuracies(models: Sequence[ModelFacts], evaluations: Sequence[Evaluation]) -> Accuracies:
    cards = _of_cards(models)
    found = [(each, _evaluated(models, each)) for each in evaluations]
    most = max((len(evaluated) for _, evaluated in found), default=0)
    evaluation, evaluated = next((item for item in found if len(item[1]) == most), (None, {}))
    if evaluation is not None and (most > 1 or (most and len(cards) < 2)):
        of = f"your pictures '{evaluation.data.name}'"
        if most < len(models):
            of += ", otherwise the model's card"
        return Accuracies(of, cards | evaluated, frozenset(evaluated))
    datasets = list(dict.fromkeys(each.accuracy.dataset for each in models if each.accuracy is not None))
    of = f"the models' cards ({' and '.join(datasets)})" if cards else ""
    if evaluation is not None and evaluated:
        of += f", as only {next(iter(evaluated))} is evaluated on your pictures '{evaluation.data.name}'"
    return Accuracies(of, cards, frozenset(cards))


def _evaluated(models: Sequence[ModelFacts], evaluation: Evaluation) -> dict[str, AccuracyEstimate]:
    """Return the accuracies of those models whose file was evaluated, by name.

    A model of the same name whose file is another one is left out.
    """
    results = {each.name: same_model(evaluation, each) for each in models}
    return {
        name: AccuracyEstimate(
            result.accuracy.value,
            result.accuracy.low,
            result.accuracy.high,
            "evaluated",
            f"on {counted(result.n, 'picture', 'pictures')} of '{evaluation.data.name}'",
        )
        for name, result in results.items()
        if result is not None
    }


def _of_cards(models: Sequence[ModelFacts]) -> dict[str, AccuracyEstimate]:
    estimates = ((each.name, estimate_accuracy(each)) for each in models)
    return {name: estimate for name, estimate in estimates if estimate is not None}
