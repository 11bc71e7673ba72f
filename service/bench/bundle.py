"""One measurement: raw samples, configuration, fingerprint, what was measured, and reasons to doubt it."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, Field, StringConstraints

from models.zoo.card import Accuracy, Agreement, Card, Fraction, Name, Sha256
from models.zoo.frozen import Frozen
from service.bench.fingerprint import Fingerprint

SCHEMA_VERSION = 1

Profile = Literal["quick", "standard", "publish"]
Scenario = Literal["single-stream", "offline", "server"]
RuntimeName = Literal["onnxruntime", "openvino"]
BenchRegime = Literal["isolated", "load"]
BenchStage = Literal["queue", "decode", "preprocess", "inference", "postprocess", "total", "round_trip"]
"""Stages of a request, and `round_trip`: what a client of a running service waited."""
FlagKind = Literal["dirty", "unstable", "drift", "void", "partial", "contaminated"]
EntryName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.#@+-]{0,127}$")]
Nanoseconds = Annotated[int, Field(ge=0)]


class ModelFacts(Frozen):
    """The card's facts that tables and recommendations need, so that a bundle can be read without the zoo."""

    name: Name
    sha256: Sha256 = Field(description="Of the ONNX file that ran")
    bytes: int = Field(gt=0, description="Of the ONNX file")
    labels: Name
    classes: int = Field(gt=1)
    architecture: str
    block: str
    precision: Literal["fp32", "int8"]
    height: int = Field(gt=0, description="Of the network's input, in pixels")
    width: int = Field(gt=0)
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0, description="Multiply-accumulates of one image")
    accuracy: Accuracy | None
    agreement: Agreement | None
    derived_from: Name | None
    trained: bool = Field(description="False: random weights, whose latency may mislead")

    @classmethod
    def of(cls, card: Card) -> Self:
        """What `card` says."""
        return cls(
            name=card.name,
            sha256=card.file.sha256,
            bytes=card.file.bytes,
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
    """One thing that was measured: a model in a runtime with a number of threads.

    The baseline appears twice: its `control` is the same thing under another name, and should not differ.
    """

    name: EntryName = Field(description="Unique in the bundle, e.g. lite0, lite0@openvino, lite0@2-threads")
    model: Name
    runtime: RuntimeName
    threads: int = Field(ge=1)
    via: Literal["session", "http"] = Field(default="session", description="Called directly or over HTTP")
    control: bool = False


class Inputs(Frozen):
    """What the networks were fed with."""

    kind: Literal["photos", "synthetic"] = Field(description="synthetic: one fixed natural-looking picture")
    count: int = Field(ge=1)
    sha256: tuple[Sha256, ...] = Field(description="Of each photo's bytes, or of the picture's pixels")


class Configuration(Frozen):
    """What was asked for."""

    profile: Profile
    scenario: Scenario
    baseline: EntryName
    launches: int = Field(ge=1)
    rounds: int = Field(ge=1, description="Per launch")
    block_runs: int = Field(ge=1, description="Least runs of an entry in a round")
    block_s: float = Field(ge=0, description="Least seconds of an entry in a round")
    budget_ms: float | None = Field(default=None, gt=0, description="Server: the p99 that a rate must keep")
    seed: int = Field(description="Of the order of entries and of arrival times")
    inputs: Inputs
    http: bool = Field(default=False, description="Whether a running service was measured too")


class Block(Frozen):
    """The runs of one entry in one round, in the order in which they happened.

    Every list of `durations_ns` has one duration per run; a run processed `images` images.
    """

    launch: int = Field(ge=0)
    round: int = Field(ge=0)
    position: int = Field(ge=0, description="Place in the round's random order")
    entry: EntryName
    images: int = Field(default=1, ge=1)
    durations_ns: dict[BenchStage, tuple[Nanoseconds, ...]]


class RateTrial(Frozen):
    """Server: Poisson arrivals at one rate; each latency counts from the moment it was meant to be sent."""

    launch: int = Field(ge=0)
    entry: EntryName
    rate_per_s: float = Field(gt=0)
    latencies_ns: tuple[Nanoseconds, ...] = Field(description="From the intended send time to the answer")
    inference_ns: tuple[Nanoseconds, ...]
    abandoned: int = Field(default=0, ge=0, description="Queries given up: the backlog grew too long")


class WarmUp(Frozen):
    """The runs before the first that counted."""

    launch: int = Field(ge=0)
    entry: EntryName
    runs: int = Field(ge=0)
    window_p50_ns: tuple[Nanoseconds, ...]
    stable: bool


class Cold(Frozen):
    """What the first use costs, in a fresh process."""

    launch: int = Field(ge=0)
    entry: EntryName
    load_ns: Nanoseconds = Field(description="From the file's bytes to a session")
    first_run_ns: Nanoseconds


class Memory(Frozen):
    """Resident memory of a process that runs this entry alone."""

    entry: EntryName
    before_bytes: int = Field(ge=0, description="With the runtime imported and nothing loaded")
    peak_bytes: int = Field(ge=0, description="The most it ever held")


class GateReading(Frozen):
    """What the machine did beside the measurement for some time; null where it does not say."""

    when: Literal["before", "during", "after"]
    launch: int = Field(ge=0, description="The launch that it concerns")
    started_at: AwareDatetime
    seconds: float = Field(ge=0)
    steal_fraction: float | None = Field(description="Share of the CPUs' time that the hypervisor took")
    outside_load: float | None = Field(description="Busy cores of other processes, per core of this machine")
    throttled_periods: int | None = Field(description="Periods in which the cgroup's quota stopped us")
    clock_jump_s: float = Field(description="Wall clock against monotonic clock over the launch")


class Flag(Frozen):
    """A reason to doubt the measurement, or an entry of it."""

    kind: FlagKind
    entry: EntryName | None = Field(default=None, description="null: all of it")
    reason: str


class Bundle(Frozen):
    """One measurement. Whatever is computed from it can be computed again from here."""

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
    confidence: Fraction = Field(default=0.99, description="Of percentile bounds")

    def model_of(self, entry: Entry) -> ModelFacts:
        """The facts of the model that `entry` ran."""
        return next(model for model in self.models if model.name == entry.model)

    def entry(self, name: str) -> Entry:
        """The entry of that name; KeyError when there is none."""
        for entry in self.entries:
            if entry.name == name:
                return entry
        raise KeyError(name)

    def blocks_of(self, entry: str) -> tuple[Block, ...]:
        """The blocks of an entry, by launch and round."""
        return tuple(block for block in self.blocks if block.entry == entry)

    def stage_of(self, entry: str) -> BenchStage:
        """The stage that the entry's figures are about: the network's own time, unless that is not all.

        Through a service it is what the client waited, offline the time for all images of a block.
        """
        if self.entry(entry).via == "http":
            return "round_trip"
        return "total" if self.configuration.scenario == "offline" else "inference"

    def samples(self, entry: str, stage: BenchStage | None = None) -> tuple[int, ...]:
        """Every duration of the entry's stage (by default `stage_of`), in nanoseconds, in order."""
        stage = stage or self.stage_of(entry)
        return tuple(
            duration for block in self.blocks_of(entry) for duration in block.durations_ns.get(stage, ())
        )

    def flags_of(self, kind: FlagKind, entry: str | None = None) -> tuple[Flag, ...]:
        """Flags of that kind that concern everything or, where given, that entry."""
        return tuple(
            flag for flag in self.flags if flag.kind == kind and (flag.entry is None or flag.entry == entry)
        )

    def with_flag(self, flag: Flag) -> Self:
        """A copy with one more flag."""
        return self.model_copy(update={"flags": (*self.flags, flag)})
