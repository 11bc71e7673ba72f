"""Plan a benchmark: validate the request and decide what runs, before anything runs."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from models.zoo.card import Card
from models.zoo.display import encodable, shown
from service.bench.bundle import Configuration, Entry, ModelFacts, Profile, Scenario
from service.bench.measure.inputs import describe_inputs
from service.bench.measure.messages import WorkerEntry
from service.errors import InvalidParameter, ModelUnavailable
from service.inference.cpu import core_budget
from service.inference.registry import Registry
from service.inference.runtimes.base import RuntimeName
from service.inference.runtimes.opening import check_runtime
from service.text.urls import service_url

MAX_THREADS = 256

S = TypeVar("S", bound=str)
T = TypeVar("T", int, str)


@dataclass(frozen=True)
class Repetitions:
    """An object says how often a benchmark repeats its measurements; each profile has one.

    The fields mean what the fields of the same names in Configuration mean. `server_launches` is the number
    of launches in the server scenario, and `trial_queries` the number of queries at each rate in this
    scenario.
    """

    launches: int
    rounds: int
    block_runs: int
    block_s: float
    server_launches: int
    trial_queries: int


PROFILES: dict[Profile, Repetitions] = {
    # 3 x 6 x 32 = 576 runs, too few for a p99
    "quick": Repetitions(3, 6, 32, 0.0, 1, 700),
    "standard": Repetitions(5, 10, 32, 0.1, 2, 1000),
    # 200 blocks of 0.3 s: a minute per model
    "publish": Repetitions(10, 20, 32, 0.3, 3, 2000),
}


@dataclass(frozen=True)
class Request:
    """Request for a benchmark.

    If `models` is None, all models that have the default model's label set are measured. `launches`, `rounds`
    (per launch) and `runs` (per entry and round) override the profile's repetitions.
    """

    models: tuple[str, ...] | None = None
    profile: str = "quick"
    scenario: str = "single-stream"
    baseline: str | None = None
    threads: tuple[int, ...] = (1,)
    runtimes: tuple[str, ...] = ("onnxruntime",)
    photos: tuple[Path, ...] = ()
    url: str | None = None
    budget_ms: float | None = None
    seed: int | None = None
    launches: int | None = None
    rounds: int | None = None
    runs: int | None = None

    def repetitions(self, profile: Profile) -> Repetitions:
        """Return the profile's repetitions, changed by the overrides of this request."""
        changes: dict[str, float | None] = {
            "launches": self.launches,
            "server_launches": self.launches,
            "rounds": self.rounds,
            "block_runs": self.runs,
            "block_s": None if self.runs is None else 0.0,
        }
        overrides = {name: value for name, value in changes.items() if value is not None}
        return replace(PROFILES[profile], **overrides)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Plan:
    """A plan is a benchmark whose request was validated.

    `worker_entries` contains the baseline twice: once as the control. `orders[launch][round]` has the names
    of all entries in random order.
    """

    configuration: Configuration
    worker_entries: tuple[WorkerEntry, ...]
    models: tuple[ModelFacts, ...]
    orders: tuple[tuple[tuple[str, ...], ...], ...]
    cores: int
    photos: tuple[str, ...]
    stages: bool
    url: str | None
    trial_queries: int
    warm_up_s: float = 1.0

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The measured entries, including the control."""
        return tuple(worker_entry.entry for worker_entry in self.worker_entries)


def make_plan(registry: Registry, request: Request, *, repetitions: Repetitions | None = None) -> Plan:
    """Validate a request and plan its benchmark.

    If `repetitions` is given, it is used instead of the repetitions of the profile. Raises UnknownModel,
    ModelUnavailable and InvalidParameter.
    """
    profile = _one_of("profile", request.profile, tuple(PROFILES))
    scenario: Scenario = _one_of("scenario", request.scenario, ("single-stream", "offline", "server"))
    runtimes: list[RuntimeName] = [
        _one_of("runtime", name, ("onnxruntime", "openvino")) for name in _unique("runtime", request.runtimes)
    ]
    for runtime in runtimes:
        check_runtime(runtime)
    cores = core_budget()
    threads = _unique("threads", request.threads)
    for number in threads:
        if not 1 <= number <= MAX_THREADS:
            raise InvalidParameter(f"threads {number}: out of range (allowed: 1 to {MAX_THREADS})")
    _check_budget(scenario, request.budget_ms)
    url = None if request.url is None else _service_url(request.url)
    cards = _cards(registry, request.models)
    baseline = _baseline(registry, request.baseline, [card.name for card, _ in cards])

    worker_entries = [
        WorkerEntry(entry=entry, folder=str(folder), sha256=card.file.sha256)
        for card, folder in cards
        for entry in _entries(card.name, runtimes, threads, url is not None)
    ]
    first = next(worker_entry for worker_entry in worker_entries if worker_entry.entry.model == baseline)
    control = first.entry.model_copy(update={"name": f"{first.entry.name}#again", "control": True})
    worker_entries.insert(worker_entries.index(first) + 1, first.model_copy(update={"entry": control}))

    repeat = repetitions or request.repetitions(profile)
    launches = repeat.server_launches if scenario == "server" else repeat.launches
    rounds = 1 if scenario == "server" else repeat.rounds
    seed = request.seed if request.seed is not None else random.SystemRandom().randrange(2**31)
    _check_paths([*request.photos, *(folder for _, folder in cards)])
    inputs = describe_inputs(request.photos)
    return Plan(
        configuration=Configuration(
            profile=profile,
            scenario=scenario,
            baseline=first.entry.name,
            launches=launches,
            rounds=rounds,
            block_runs=repeat.block_runs,
            block_s=repeat.block_s,
            budget_ms=request.budget_ms if scenario == "server" else None,
            seed=seed,
            inputs=inputs,
            http=url is not None,
        ),
        worker_entries=tuple(worker_entries),
        models=tuple(ModelFacts.of(card) for card, _ in cards),
        orders=_orders([worker_entry.entry.name for worker_entry in worker_entries], launches, rounds, seed),
        cores=cores,
        photos=tuple(str(photo.resolve()) for photo in request.photos),
        # a service decodes and preprocesses, so the session to compare it with does so, too
        stages=bool(request.photos) or url is not None,
        url=url,
        trial_queries=repeat.trial_queries,
    )


def _entries(
    model: str, runtimes: Sequence[RuntimeName], threads: Sequence[int], through_service: bool
) -> list[Entry]:
    entries = []
    for runtime in runtimes:
        for number in threads:
            name = model
            if runtime != "onnxruntime":
                name += f"@{runtime}"
            if number != 1:
                name += f"@{number}-threads"
            entries.append(Entry(name=name, model=model, runtime=runtime, threads=number))
    if through_service:
        entries.append(Entry(name=f"{model}@http", model=model, runtime="onnxruntime", threads=1, via="http"))
    return entries


def _orders(
    names: Sequence[str], launches: int, rounds: int, seed: int
) -> tuple[tuple[tuple[str, ...], ...], ...]:
    shuffle = random.Random(seed)
    return tuple(
        tuple(tuple(shuffle.sample(names, len(names))) for _ in range(rounds)) for _ in range(launches)
    )


def _cards(registry: Registry, names: Sequence[str] | None) -> list[tuple[Card, Path]]:
    if names is None:
        labels = registry.default_labels
        cards = []
        for entry in registry.entries:
            if entry.card is None or entry.card.labels != labels or entry.broken:
                continue
            try:
                cards.append((registry.content(entry.name)[0], entry.folder))
            except ModelUnavailable:
                continue  # an unusable model is an error only if it was named
        if not cards:
            registry.content(registry.default_model)  # raises with the reason
            raise ModelUnavailable(f"labels '{labels}': no model can be served")
        return cards
    return [(registry.content(name)[0], registry.entry(name).folder) for name in _unique("models", names)]


def _baseline(registry: Registry, baseline: str | None, names: Sequence[str]) -> str:
    if baseline is None:
        return registry.default_model if registry.default_model in names else names[0]
    if baseline not in names:
        registry.entry(baseline)
        raise InvalidParameter(f"baseline '{baseline}': not measured (allowed: {', '.join(names)})")
    return baseline


def _check_budget(scenario: Scenario, budget_ms: float | None) -> None:
    if budget_ms is None:
        if scenario == "server":
            raise InvalidParameter("budget_ms: missing (needed by scenario server: the highest p99)")
    elif not 0 < budget_ms < 60_000:
        raise InvalidParameter(f"budget_ms {budget_ms:g}: out of range (allowed: above 0, below 60000)")


def _check_paths(paths: Sequence[Path]) -> None:
    """Raise InvalidParameter for a path that is not UTF-8, because JSON cannot carry it to the worker."""
    for path in paths:
        if not encodable(str(path.resolve())):
            raise InvalidParameter(f"'{shown(path)}': path is not UTF-8 (allowed: rename or link it)")


def _service_url(text: str) -> str:
    try:
        return service_url(text)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None


def _unique(name: str, values: Sequence[T]) -> list[T]:
    if not values:
        raise InvalidParameter(f"{name}: empty (allowed: one or more)")
    repeated = [str(value) for value, count in Counter(values).items() if count > 1]
    if repeated:
        raise InvalidParameter(f"{name}: {', '.join(repeated)} more than once")
    return list(values)


def _one_of(name: str, value: str, allowed: Sequence[S]) -> S:
    for choice in allowed:
        if choice == value:
            return choice
    raise InvalidParameter(f"{name} '{value[:100]}': unknown (allowed: {', '.join(allowed)})")
