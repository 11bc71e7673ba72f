"""A report as data, from which its HTML, Markdown, CSV and JSON are made."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field

from models.zoo.card import Fraction, Name, Sha256, Task
from models.zoo.frozen import Finite
from models.zoo.verdicts import Verdict
from service.bench.bundle import BenchStage, EntryName, Inputs, Profile, Scenario
from service.bench.fingerprint import Fingerprint
from service.evaluation.result import DataKind, EvaluationId
from service.inference.runtimes.base import RuntimeName

Milliseconds = Annotated[float, Field(ge=0)]
AccuracyKind = Literal["measured", "reported", "inherited", "evaluated"]
CaveatKind = Literal[
    "void", "partial", "dirty", "contaminated", "unstable", "drift", "few-runs", "few-rounds", "untrained",
    "unknown-accuracy", "inherited-accuracy", "reported-accuracy", "not-evaluated", "few-classes", "data",
    "other-machine", "assumed", "other-file", "no-card", "synthetic-input", "no-front",
]  # fmt: skip


class AccuracyFigure(Finite):
    """Top-1 accuracy of a classifier, or average precision of a detector, with its 95 % interval."""

    value: Fraction
    low: Fraction
    high: Fraction
    kind: AccuracyKind = Field(
        description="measured: by this project; reported: by the publisher; inherited: that of the model "
        "that this one was made from, minus the measured disagreement; evaluated: on the pictures of "
        "`evaluation`"
    )
    how: str
    verdict: Literal["highest", "worse", "not distinguishable"] | None = Field(
        default=None,
        description="Only with kind `evaluated`. highest: no model of this report and label set has a higher "
        "accuracy (several may have the highest); other values: compared with `rival`; null: not compared",
    )
    rival: Name | None = Field(
        default=None,
        description="The most accurate model, with which `verdict` compares this model; if several are the "
        "most accurate, the first by name; null for `highest`",
    )


class BoundFigure(Finite):
    """A percentile: its estimate, and the upper bound that holds with 99 % confidence."""

    estimate_ms: Milliseconds
    bound_ms: Milliseconds


class LatencyFigures(Finite):
    """Latency of single images."""

    stage: BenchStage
    count: int = Field(ge=1, description="Runs")
    p50_ms: Milliseconds
    p50_low_ms: Milliseconds | None = Field(
        description="95 % interval of the median; null: too few rounds, or not computed"
    )
    p50_high_ms: Milliseconds | None
    p90: BoundFigure | None = Field(description="null: too few runs")
    p99: BoundFigure | None = Field(description="null: too few runs")


class SpeedUp(Finite):
    """Time of the baseline divided by that of the model, with its 95 % interval and the verdict."""

    value: float = Field(gt=0)
    low: float | None = Field(gt=0, description="null: too few rounds")
    high: float | None = Field(gt=0)
    verdict: Verdict


class ReportedModel(Finite):
    """One measured entry: a model with its runtime and number of threads."""

    entry: EntryName
    model: Name
    baseline: bool
    control: bool = Field(description="The second measurement of the baseline")
    task: Task
    labels: Name
    precision: Literal["fp32", "fp16", "int8"]
    height: int = Field(gt=0, description="Height of the network's input, in pixels")
    width: int = Field(gt=0, description="Width of the network's input, in pixels")
    runtime: RuntimeName
    threads: int = Field(ge=1)
    via: Literal["session", "http"]
    sha256: Sha256 = Field(description="SHA-256 of the ONNX file that ran")
    bytes: int = Field(gt=0, description="Size of the ONNX file")
    parameters: int = Field(gt=0)
    macs: int = Field(gt=0, description="Multiply-accumulate operations per image")
    accuracy: AccuracyFigure | None
    latency: LatencyFigures | None = Field(description="null in the scenarios offline and server")
    images_per_s: float | None
    queries_per_s: float | None = Field(
        description="Scenario server: highest rate with a p99 within `budget_ms`"
    )
    peak_memory_bytes: int | None = Field(description="Of a process that runs only this model")
    load_ms: Milliseconds | None = Field(description="From the file's bytes to a session, once per process")
    first_run_ms: Milliseconds | None
    speed_up: SpeedUp | None = Field(description="Over the baseline")


class FrontModel(Finite):
    """A model among those that one front compares."""

    entry: EntryName
    accuracy: AccuracyFigure | None
    p50_ms: Milliseconds
    p50_low_ms: Milliseconds | None = Field(description="95 % interval of the median; null: too few rounds")
    p50_high_ms: Milliseconds | None
    bytes: int = Field(gt=0)
    on_front: bool | None = Field(
        description="false: `dominated_by` is better; null: unknown, as the accuracy is unknown"
    )
    dominated_by: EntryName | None = None
    reason: str | None = None


class Front(Finite):
    """Models of one task and label set, compared in accuracy, median latency and bytes.

    A model is on the front unless another model is more accurate, faster and not larger. "More accurate"
    means that the 95 % intervals are apart. "Faster" follows the rule of the verdict, applied to this pair
    alone, without Holm's correction.
    """

    task: Task
    labels: Name
    models: tuple[FrontModel, ...] = Field(min_length=1)


class ControlFigures(Finite):
    """The baseline compared with its own second measurement, which shows what noise alone does."""

    entry: EntryName
    ratio: float = Field(gt=0, description="Time of the second measurement divided by that of the first")
    low: float | None = Field(gt=0, description="95 % interval; null: too few rounds")
    high: float | None = Field(gt=0)
    verdict: Verdict


class ReportedBenchmark(Finite):
    """The benchmark that the latencies are from."""

    name: str = Field(description="Id of the benchmark, or the name of its file")
    digest: Sha256 = Field(description="Digest of the bundle")
    started_at: AwareDatetime
    finished_at: AwareDatetime
    profile: Profile
    scenario: Scenario
    baseline: EntryName
    launches: int = Field(ge=1)
    rounds: int = Field(ge=1, description="Rounds per launch")
    block_runs: int = Field(ge=1, description="Minimum runs of an entry in a round")
    seed: int
    budget_ms: float | None
    inputs: Inputs
    control: ControlFigures | None


class ClassFigure(Finite):
    """Accuracy of a model on one class: share of its pictures, or average precision of its objects."""

    name: str
    n: int = Field(ge=0, description="Pictures, or annotated objects")
    value: Fraction | None
    low: Fraction | None = Field(description="95 % interval; null for average precision")
    high: Fraction | None


class EvaluatedModel(Finite):
    """Results of the evaluation for a measured model. Benchmark and evaluation ran the same ONNX file."""

    model: Name
    labels: Name
    n: int = Field(ge=1, description="Pictures")
    accuracy: AccuracyFigure
    top5: Fraction | None = Field(description="null for detectors, and for models with up to five classes")
    class_mean: Fraction | None = Field(description="Mean of the classes' accuracies; null for detectors")
    ece: Fraction | None = Field(description="Expected calibration error; null for detectors")
    ap50: Fraction | None = Field(description="Average precision at IoU 0.5; null for classifiers")
    corrupted: Fraction | None = Field(description="Mean accuracy on corrupted pictures")
    per_class: tuple[ClassFigure, ...]


class CoveredLabels(Finite):
    """How much of a label set the data covers."""

    labels: Name
    classes: int = Field(ge=1, description="Labels for which the data has a class")
    of: int = Field(ge=1, description="Labels")
    n: int = Field(ge=1, description="Distinct pictures of these classes")


class ReportedEvaluation(Finite):
    """The evaluation that the accuracies are from, and its results for the measured models."""

    id: EvaluationId
    name: str
    kind: DataKind
    task: Task
    sha256: Sha256 = Field(description="SHA-256 over every picture of the data set and its label")
    pictures: int = Field(ge=1, description="Listed files")
    n: int = Field(ge=1, description="Distinct pictures that are counted")
    finished_at: AwareDatetime
    label_sets: tuple[CoveredLabels, ...]
    models: tuple[EvaluatedModel, ...]


class Caveat(Finite):
    """A reason to read a figure with care. `serious`: the figures are not evidence."""

    kind: CaveatKind
    serious: bool = False
    subjects: tuple[str, ...] = Field(default=(), description="Entries or models; empty: the whole report")
    text: str


class Step(Finite):
    """A command that reproduces a part of the report."""

    what: str
    command: str


class Report(Finite):
    """Report of one benchmark and, if there is one, of an evaluation of the same models."""

    schema_version: Literal[1] = 1
    title: str
    question: str
    answers: tuple[str, ...] = Field(description="One sentence per front")
    benchmark: ReportedBenchmark
    fingerprint: Fingerprint
    models: tuple[ReportedModel, ...]
    fronts: tuple[Front, ...]
    evaluation: ReportedEvaluation | None
    caveats: tuple[Caveat, ...]
    reproduce: tuple[Step, ...]

    def front_model(self, entry: str) -> FrontModel | None:
        """Return an entry's model as the front has it, or None if no front contains the entry."""
        return next((each for front in self.fronts for each in front.models if each.entry == entry), None)


def to_json(report: Report) -> str:
    """Serialize a report."""
    return report.model_dump_json(indent=2) + "\n"


def json_schema() -> str:
    """Return the JSON Schema of a report, which is docs/report.schema.json."""
    schema = Report.model_json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json_schema())
