"""Bundle: one benchmark as data, with raw samples, configuration, fingerprint, models and flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints, model_validator

from models.zoo.card import Accuracy, Agreement, Card, Fraction, Name, Sha256, Task
from models.zoo.frozen import Frozen
from service.bench.fingerprint import Fingerprint
from service.inference.runtimes.base import RuntimeName

SCHEMA_VERSION = 1

Profile = Literal["quick", "standard", "publish"]
Scenario = Literal["single-stream", "offline", "server"]
BenchRegime = Literal["isolated", "load"]
BenchStage = Literal[
    "queue", "decode", "preprocess", "inference", "postprocess", "nms", "total", "round_trip"
]
"""Stages of a request, and `round_trip`: the latency that a client of a running service sees."""
FlagKind = Literal["dirty", "unstable", "drift", "void", "partial", "contaminated"]
EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.#@+-]{0,127}$")]
Nanoseconds = Annotated[int, Field(ge=0)]


class ModelFacts(Frozen):
    """Facts of a model's card, so that tables and recommendations need no zoo."""

    name: Name
    sha256: Sha256 = Field(description="SHA-256 of the ONNX file that ran")
    bytes: int = Field(gt=0, description="Size of the ONNX file")
    task: Task = "image-classification"
    labels: Name
    classes: int = Field(gt=0)
    architecture: str
    block: str
    precision: Literal["fp32", "fp16", "int8"]
    height: int = Field(gt=0, description="Height of the network's input, in pixels")
    width: int = Field(gt=0, description="Width of the network's input, in pixels")
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0, description="Multiply-accumulate operations per image")
    accuracy: Accuracy | None
    agreement: Agreement | None
    derived_from: Name | None
    trained: bool = Field(description="False for random weights, whose latency may mislead")

    @classmethod
    def of(cls, card: Card) -> Self:
        """Return the facts of `card`."""
        return cls(
            name=card.name,
            sha256=card.file.sha256,
            bytes=card.file.bytes,
            task=card.task,
            labels=card.labels,
            classes=card.classes,
            architecture=card.architecture,
            block=card.block,
            precision=card.precision,
            height=card.input.height,
            width=card.input.width,
            parameters=card.parameters,
            macs=card.macs,
            accuracy=card.accuracy,
            agreement=card.agreement,
            derived_from=card.derived_from,
            trained=not card.source.weights.startswith("random"),
        )


class Entry(Frozen):
    """A measured combination of model, runtime and number of threads.

    The baseline is measured twice: the entry with `control` repeats it under another name.
    """

    name: EntryName = Field(description="Unique in the bundle, e.g. lite0, lite0@openvino, lite0@2-threads")
    model: Name
    runtime: RuntimeName
    threads: int = Field(ge=1)
    via: Literal["session", "http"] = Field(default="session", description="Called directly or over HTTP")
    control: bool = False


class Inputs(Frozen):
    """Input images of the networks."""

    kind: Literal["photos", "synthetic"] = Field(description="synthetic: a fixed picture with 1/f spectrum")
    count: int = Field(ge=1)
    sha256: tuple[Sha256, ...] = Field(description="SHA-256 of each photo, or of the picture's pixels")


class Configuration(Frozen):
    """Configuration of a benchmark."""

    profile: Profile
    scenario: Scenario
    baseline: EntryName
    launches: int = Field(ge=1)
    rounds: int = Field(ge=1, description="Rounds per launch")
    block_runs: int = Field(ge=1, description="Minimum runs of an entry in a round")
    block_s: float = Field(ge=0, description="Minimum seconds of an entry in a round")
    budget_ms: float | None = Field(
        default=None, gt=0, description="Scenario server: highest allowed p99 in milliseconds"
    )
    seed: int = Field(description="Seed of the order of entries and of arrival times")
    inputs: Inputs
    http: bool = Field(default=False, description="Whether a running service was measured too")


class Block(Frozen):
    """Runs of one entry in one round, in order.

    Every list of `durations_ns` has one duration per run; each run processed `images` images.
    """

    launch: int = Field(ge=0)
    round: int = Field(ge=0)
    position: int = Field(ge=0, description="Position in the round's random order")
    entry: EntryName
    images: int = Field(default=1, ge=1)
    durations_ns: dict[BenchStage, tuple[Nanoseconds, ...]]


class RateTrial(Frozen):
    """Trial of the server scenario: queries arrive at random times (Poisson) at one average rate."""

    launch: int = Field(ge=0)
    entry: EntryName
    rate_per_s: float = Field(gt=0)
    latencies_ns: tuple[Nanoseconds, ...] = Field(description="From the intended send time to the response")
    inference_ns: tuple[Nanoseconds, ...]
    abandoned: int = Field(default=0, ge=0, description="Queries not sent because the backlog was too long")


class WarmUp(Frozen):
    """Warm-up runs of an entry, which are not counted."""

    launch: int = Field(ge=0)
    entry: EntryName
    runs: int = Field(ge=0)
    window_p50_ns: tuple[Nanoseconds, ...]
    stable: bool


class Cold(Frozen):
    """Cold start of an entry in a new process."""

    launch: int = Field(ge=0)
    entry: EntryName
    load_ns: Nanoseconds = Field(description="Time from the file's bytes to a session")
    first_run_ns: Nanoseconds
    precision: str | None = Field(
        default=None,
        description="Precision in which the network ran, such as bf16; null in bundles of earlier releases",
    )


class Memory(Frozen):
    """Resident memory of a process that runs only this entry."""

    entry: EntryName
    before_bytes: int = Field(ge=0, description="After importing the runtime, before loading the model")
    peak_bytes: int = Field(ge=0, description="Maximum until the model has run")


class GateReading(Frozen):
    """Disturbances by the rest of the machine in one interval; null: not reported by the system."""

    when: Literal["before", "during", "after"]
    launch: int = Field(ge=0, description="Launch of the interval")
    started_at: AwareDatetime
    seconds: float = Field(ge=0)
    steal_fraction: float | None = Field(description="Share of the CPUs' time that the hypervisor took")
    outside_load: float | None = Field(description="Busy cores of other processes, per core of this machine")
    throttled_periods: int | None = Field(description="Periods in which the cgroup's quota throttled the run")
    clock_jump_s: float = Field(description="Seconds by which the wall clock outran the monotonic clock")


class Flag(Frozen):
    """A reason to doubt a benchmark or one of its entries."""

    kind: FlagKind
    entry: EntryName | None = Field(default=None, description="null: the whole benchmark")
    reason: str


class Bundle(Frozen):
    """One benchmark with all raw samples, so that every figure can be recomputed from it."""

    schema_version: Literal[1] = 1
    started_at: AwareDatetime
    finished_at: AwareDatetime
    regime: BenchRegime
    configuration: Configuration
    fingerprint: Fingerprint
    models: tuple[ModelFacts, ...]
    entries: tuple[Entry, ...]
    gates: tuple[GateReading, ...]
    warm_ups: tuple[WarmUp, ...]
    cold: tuple[Cold, ...]
    memory: tuple[Memory, ...]
    blocks: tuple[Block, ...]
    trials: tuple[RateTrial, ...] = ()
    flags: tuple[Flag, ...]
    confidence: Fraction = Field(default=0.99, description="Confidence of percentile bounds")

    @model_validator(mode="after")
    def _refer_to_entries(self) -> Self:
        problem = next(self._problems(), None)
        if problem is not None:
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        """Yield a message for each problem of the bundle.

        Problems are names that are repeated or unknown, and lists of durations that are missing, empty or
        unequal in length.
        """
        models = Counter(model.name for model in self.models)
        entries = Counter(entry.name for entry in self.entries)
        for what, names in (("models", models), ("entries", entries)):
            yield from (f"{what}: '{name}' more than once" for name, count in names.items() if count > 1)
        baseline = self.configuration.baseline
        if baseline not in entries:
            yield f"baseline '{baseline}': not among the entries"
        for entry in self.entries:
            if entry.model not in models:
                yield f"entry '{entry.name}': its model '{entry.model}' is not among the models"
        for what in ("warm_ups", "cold", "memory", "blocks", "trials", "flags"):
            for part in getattr(self, what):
                if part.entry is not None and part.entry not in entries:
                    yield f"{what}: '{part.entry}' is not among the entries"
        for block in self.blocks:
            stage = self.stage_of(block.entry)
            lengths = {len(durations) for durations in block.durations_ns.values()}
            if stage not in block.durations_ns or len(lengths) > 1 or 0 in lengths:
                yield (
                    f"blocks: '{block.entry}' in launch {block.launch}, round {block.round}: no durations of "
                    f"{stage}, or not as many as of another stage"
                )
        for trial in self.trials:
            if len(trial.latencies_ns) != len(trial.inference_ns):
                yield f"trials: '{trial.entry}': latencies_ns and inference_ns differ in length"

    def model_of(self, entry: Entry) -> ModelFacts:
        """Return the facts of the entry's model."""
        return next(model for model in self.models if model.name == entry.model)

    def precision_of(self, entry: Entry) -> str | None:
        """Return the precision in which the entry ran, or None if it is unknown.

        If the bundle does not record the precision, an entry in ONNX Runtime ran in the precision of its
        model's card.
        """
        recorded = (cold.precision for cold in self.cold if cold.entry == entry.name)
        known = next((precision for precision in recorded if precision is not None), None)
        return self.model_of(entry).precision if known is None and entry.runtime == "onnxruntime" else known

    def entry(self, name: str) -> Entry:
        """Return the entry `name`. Raises KeyError."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def blocks_of(self, entry: str) -> tuple[Block, ...]:
        """Return the blocks of an entry, ordered by launch and round."""
        return tuple(block for block in self.blocks if block.entry == entry)

    def stage_of(self, entry: str) -> BenchStage:
        """Return the stage that the entry's figures refer to.

        It is `round_trip` for an entry over HTTP, `total` (the time of a whole block) in the offline
        scenario, and `inference` otherwise.
        """
        if self.entry(entry).via == "http":
            return "round_trip"
        return "total" if self.configuration.scenario == "offline" else "inference"

    def samples(self, entry: str, stage: BenchStage | None = None) -> tuple[int, ...]:
        """Return the durations of one stage of an entry in nanoseconds, in the order of the runs.

        By default, the stage is that of `stage_of`.
        """
        stage = stage or self.stage_of(entry)
        return tuple(
            duration for block in self.blocks_of(entry) for duration in block.durations_ns.get(stage, ())
        )

    def flags_of(self, kind: FlagKind, entry: str | None = None) -> tuple[Flag, ...]:
        """Return the flags of `kind` that apply to the whole benchmark or to `entry`."""
        return tuple(
            flag for flag in self.flags if flag.kind == kind and (flag.entry is None or flag.entry == entry)
        )

    def with_flag(self, flag: Flag) -> Self:
        """Return a copy with one more flag."""
        return self.model_copy(update={"flags": (*self.flags, flag)})
