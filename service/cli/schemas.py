"""Schemas of documents that commands write with `--json` and that no route returns.

docs/json.md lists all commands. `python -m service.cli.schemas` prints the JSON Schema, which is
docs/commands.schema.json. Import this module only when it is needed, because it imports the schemas of the
routes, which takes half a second.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from models.zoo.card import Card
from models.zoo.display import without_surrogates
from models.zoo.verdicts import Verdict
from service.api.body.image import ImageFacts
from service.api.inference.compare import ComparisonOut, comparison_out
from service.api.inference.detect import DetectionOut, DetectStages
from service.bench.doctor.diagnose import Report
from service.bench.doctor.findings import Slug
from service.bench.doctor.int8_gain import Verdict as Int8Verdict
from service.bench.doctor.operators import Arithmetic
from service.bench.doctor.running import RunSettings
from service.bench.fingerprint import Machine
from service.bench.judge.regression import Change, Regression
from service.cli.gate.result import GateResult
from service.inference.compare import Comparison

Number = float
"""Alias of `float` for classes that have a field named `float`."""


class PhotoFailure(BaseModel):
    """A photo that could not be used."""

    photo: str = Field(description="The file as given")
    reason: str


class PhotoComparison(ComparisonOut):
    """Results of all models on one photo, as `POST /compare` returns them."""

    photo: str = Field(description="The file as given")


class Comparisons(BaseModel):
    """`weighin compare --json FILE`."""

    comparisons: list[PhotoComparison]
    failed: list[PhotoFailure]

    @classmethod
    def of(cls, compared: Sequence[tuple[Path, Comparison]], failed: Mapping[Path, str]) -> Comparisons:
        """Build the document."""
        return cls(
            comparisons=[
                PhotoComparison(photo=_name(photo), **comparison_out(comparison))
                for photo, comparison in compared
            ],
            failed=[PhotoFailure(photo=_name(photo), reason=reason) for photo, reason in failed.items()],
        )


class DetectedPhoto(BaseModel):
    """A line of `weighin detect --json`: the objects in one photo."""

    photo: str = Field(description="The file as given")
    model: str
    image: ImageFacts
    detections: list[DetectionOut] = Field(description="Best score first; empty if nothing was found")
    timings_ms: DetectStages


class FindingOut(BaseModel):
    """A cause of slowness."""

    slug: Slug = Field(description="Stable name of the kind")
    title: str
    evidence: str
    remedy: str


class OperatorOut(BaseModel):
    """An operator of the optimized graph, over several runs of one image on one thread."""

    name: str
    op: str = Field(examples=["Conv"])
    arithmetic: Arithmetic
    typical_ms: float = Field(description="Interquartile mean of its time")
    share: float = Field(description="Share of the time of all operators, 0 to 1")
    macs: int = Field(description="Number of multiply-accumulate operations; 0 if it has none")
    gmacs_per_s: float | None = Field(description="null if it has no multiply-accumulate operations")
    of_ceiling: float | None = Field(description="`gmacs_per_s` divided by the ceiling of its arithmetic")


class Diagnosis(BaseModel):
    """Findings and costliest operators of one model."""

    model: str
    findings: list[FindingOut]
    operators: list[OperatorOut] = Field(description="The costliest first, at most 10")
    operators_in_all: int
    total_ms: float = Field(description="Time of all operators on one thread")

    @classmethod
    def of(cls, report: Report) -> Diagnosis:
        """Build the part of the document for one model."""
        return cls(
            model=report.model,
            findings=[FindingOut(**vars(finding)) for finding in report.findings],
            operators=[
                OperatorOut(
                    name=operator.name,
                    op=operator.op,
                    arithmetic=operator.arithmetic,
                    typical_ms=operator.typical_us / 1e3,
                    share=operator.share,
                    macs=operator.macs,
                    gmacs_per_s=operator.gmacs_per_s,
                    of_ceiling=report.of_ceiling(operator),
                )
                for operator in report.operators
            ],
            operators_in_all=report.operators_in_all,
            total_ms=report.total_us / 1e3,
        )


class ModelFailure(BaseModel):
    """A model that could not be diagnosed."""

    model: str
    reason: str


class Diagnoses(BaseModel):
    """`weighin doctor --json FILE`."""

    machine: Machine
    threads: int = Field(description="Threads per image in the deployment that was diagnosed")
    spinning: bool = Field(description="Whether idle threads spin in the deployment that was diagnosed")
    ceiling_gmacs_per_s: dict[Arithmetic, float] = Field(
        description="GMAC/s of one core on large 1x1 convolutions, for each arithmetic"
    )
    diagnoses: list[Diagnosis]
    failed: list[ModelFailure]

    @classmethod
    def of(
        cls,
        reports: Sequence[Report],
        failed: Mapping[str, str],
        machine: Machine,
        settings: RunSettings,
        ceiling: Mapping[Arithmetic, float],
    ) -> Diagnoses:
        """Build the document."""
        return cls(
            machine=machine,
            threads=settings.threads,
            spinning=settings.spinning,
            ceiling_gmacs_per_s=dict(ceiling),
            diagnoses=[Diagnosis.of(report) for report in reports],
            failed=[ModelFailure(model=_name(name), reason=reason) for name, reason in failed.items()],
        )


class ChangeOut(BaseModel):
    """Change of one entry between two bundles."""

    entry: str
    then_p50_ms: float
    now_p50_ms: float
    ratio: float = Field(description="New time divided by old time; above 1 means slower")
    low: float = Field(description="95 % interval of `ratio`")
    high: float
    adjusted_p: float = Field(description="p value after Holm's correction for the number of entries")
    verdict: Verdict
    regressed: bool = Field(description="Whether the verdict is slower, by more than the threshold")
    other_file: bool = Field(description="Whether the model's file differs between the bundles")

    @classmethod
    def of(cls, change: Change) -> ChangeOut:
        """Build the part of the document for one entry."""
        facts = {name: value for name, value in vars(change).items() if name not in ("then_ns", "now_ns")}
        return cls(then_p50_ms=change.then_ns / 1e6, now_p50_ms=change.now_ns / 1e6, **facts)


class BundleComparison(BaseModel):
    """`weighin bench compare A.json B.json --json FILE`."""

    then: str = Field(description="Name of the older file")
    now: str = Field(description="Name of the newer file")
    threshold: float = Field(description="A larger slowdown than this counts as a regression; 0.05 is 5 %")
    regressed: bool = Field(description="Whether any entry regressed")
    labels: list[str] = Field(description="Caveats, such as other software or a dirty benchmark")
    changes: list[ChangeOut]
    only_then: list[str] = Field(description="Entries that only the older file has")
    only_now: list[str] = Field(description="Entries that only the newer file has")

    @classmethod
    def of(cls, regression: Regression, then: Path, now: Path, threshold: float) -> BundleComparison:
        """Build the document."""
        return cls(
            then=_name(then.name),
            now=_name(now.name),
            threshold=threshold,
            regressed=regression.regressed,
            labels=list(regression.labels),
            changes=[ChangeOut.of(change) for change in regression.changes],
            only_then=list(regression.only_then),
            only_now=list(regression.only_now),
        )


class AddedModel(BaseModel):
    """`weighin add --json`."""

    name: str
    folder: str
    changes: list[str] = Field(description="How the served file differs from the given one")
    warnings: list[str] = Field(description="What is uncertain, such as assumed facts")
    assumed: list[str] = Field(description="Paths of the card's facts that were assumed")
    card: Card = Field(description="As in card.json")


class AccuracyChange(BaseModel):
    """Top-1 accuracy of a model and of its int8 variant on the same pictures."""

    float: Number
    int8: Number
    loss_points: Number = Field(description="Percentage points that int8 loses; negative if it gains")
    loss_low: Number = Field(description="95 % interval of `loss_points`")
    loss_high: Number
    p: Number = Field(description="Two-sided mid-p value of McNemar's test")


class Int8Out(BaseModel):
    """Whether int8 pays on this machine."""

    verdict: Int8Verdict
    sentence: str = Field(description="The verdict with its figures")
    speedup: Number = Field(description="Time of the float model divided by that of the int8 model")
    speedup_low: Number = Field(description="95 % interval of `speedup`")
    speedup_high: Number
    float_ms: Number = Field(description="Inference time of the float model for one image on one thread")
    int8_ms: Number
    float_bytes: int
    int8_bytes: int
    activations_in_float: dict[str, Number] = Field(
        description="Share of the int8 model's time for each kind of activation without an integer kernel"
    )
    conversions: Number = Field(description="Share of time spent on conversion between integers and floats")
    eaten_by: str | None = Field(description="What reduces the gain; null if nothing in particular does")


class QuantizedModel(BaseModel):
    """`weighin quantize --json`."""

    name: str
    folder: str
    parent: str
    in_float: list[str] = Field(description="Layers before the last pooling that stay in float")
    layers: int = Field(description="Number of all layers before the last pooling")
    divergence: Number = Field(
        description="Mean Kullback-Leibler divergence of the probabilities from the parent's, in nats"
    )
    divergence_all_int8: Number = Field(description="`divergence` if all layers were in int8")
    agreement: Number = Field(description="Share of pictures for which model and parent agree on the class")
    pictures: int = Field(description="Number of pictures on which the model was compared with its parent")
    accuracy: AccuracyChange | None = Field(description="null if the pictures have no labels")
    int8: Int8Out
    warnings: list[str]
    card: Card = Field(description="As in card.json")


DOCUMENTS: tuple[type[BaseModel], ...] = (
    Comparisons,
    DetectedPhoto,
    Diagnoses,
    BundleComparison,
    AddedModel,
    QuantizedModel,
    GateResult,
)
"""Schemas of the documents and lines that commands write."""


def json_schema() -> str:
    """Return the JSON Schema, which is docs/commands.schema.json. It has a definition for each document."""
    _, schema = models_json_schema([(document, "serialization") for document in DOCUMENTS])
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(schema, indent=2) + "\n"


def _name(file: Path | str) -> str:
    return without_surrogates(str(file))


if __name__ == "__main__":
    sys.stdout.write(json_schema())
