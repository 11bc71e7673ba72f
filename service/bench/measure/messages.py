"""Messages to and from a worker process, as JSON lines: its configuration and its reports."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from models.zoo.frozen import Frozen
from service.bench.bundle import Block, Cold, Entry, Memory, RateTrial, Scenario, WarmUp


class WorkerEntry(Frozen):
    """An object tells a worker to run an entry, and in which folder the model is.

    `sha256` is the SHA-256 that the model file must have; an empty text allows any file. `extra_work` is how
    many dot products, each of 8192 numbers, every run computes in addition; benchmarks/instrument uses this
    to make some of several equal entries slower by a known amount.
    """

    entry: Entry
    folder: str
    sha256: str = ""
    extra_work: int = 0


class WorkerConfig(Frozen):
    """Configuration of one launch.

    The worker loads the models and warms them up. Then it runs them round by round, in the order that `order`
    has for each round. A block has at least `block_runs` runs and takes at least `block_s` seconds. If
    `purpose` is "memory", there is one entry; the worker loads it, runs it and reports its memory.
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
    """Report that the launch failed. The message contains no paths."""

    kind: Literal["failure"] = "failure"
    message: str


class Done(Frozen):
    """Report that the launch has ended. `cpu_s` is the CPU time of the process in seconds."""

    kind: Literal["done"] = "done"
    cpu_s: float


Report = Annotated[
    ColdReport | WarmUpReport | BlockReport | TrialReport | MemoryReport | Failure | Done,
    Field(discriminator="kind"),
]
REPORT: TypeAdapter[Report] = TypeAdapter(Report)
