"""What a worker process is told to do in one launch, and what it reports; both travel as JSON lines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from models.zoo.frozen import Frozen
from service.bench.bundle import Block, Cold, Entry, Memory, RateTrial, Scenario, WarmUp


class WorkerEntry(Frozen):
    """An entry with where its model lies. `extra_work` makes every run longer by that many dot products of
    8 192 numbers: how the proof of the instrument makes a copy slower by a known amount."""

    entry: Entry
    folder: str
    extra_work: int = 0


class WorkerConfig(Frozen):
    """One launch: load the entries' models, warm them up, then run them in the `order` given, round by round.

    A block has at least `block_runs` runs and `block_s` seconds. `memory`: load and run the only entry, and
    report what memory that took, nothing else.
    """

    launch: int
    purpose: Literal["measure", "memory"] = "measure"
    scenario: Scenario
    entries: tuple[WorkerEntry, ...]
    order: tuple[tuple[str, ...], ...]
    block_runs: int = Field(ge=1)
    block_s: float = Field(ge=0)
    warm_up_s: float = Field(ge=0)
    cores: int = Field(ge=1)
    photos: tuple[str, ...] = ()
    stages: bool = Field(default=False, description="Whether decode and preprocess are part of a run")
    url: str | None = None
    budget_ms: float | None = None
    trial_queries: int = 0
    seed: int = 0


class ColdReport(Frozen):
    kind: Literal["cold"] = "cold"
    cold: Cold


class WarmUpReport(Frozen):
    kind: Literal["warm_up"] = "warm_up"
    warm_up: WarmUp


class BlockReport(Frozen):
    kind: Literal["block"] = "block"
    block: Block


class TrialReport(Frozen):
    kind: Literal["trial"] = "trial"
    trial: RateTrial


class MemoryReport(Frozen):
    kind: Literal["memory"] = "memory"
    memory: Memory


class Failure(Frozen):
    """The launch cannot go on; the message is for people, without paths."""

    kind: Literal["failure"] = "failure"
    message: str


class Done(Frozen):
    """The launch is over; `cpu_s` is what it took of the cores."""

    kind: Literal["done"] = "done"
    cpu_s: float


Report = Annotated[
    ColdReport | WarmUpReport | BlockReport | TrialReport | MemoryReport | Failure | Done,
    Field(discriminator="kind"),
]
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
