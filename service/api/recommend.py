"""GET /recommend: recommend a model for a budget, from benchmarks of this machine."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from models.zoo.card import Task
from service import errors
from service.api.benchmarks import BoundOut, LatencyOut
from service.api.problems import documented
from service.api.routers import new_router
from service.bench.archive import BenchmarkArchive
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.advice import Advice, advise_here, this_machine
from service.bench.recommend.evidence import Measured
from service.bench.recommend.pareto import Candidate
from service.bench.recommend.recommend import Constraints
from service.inference.registry import Registry


class ClaimOut(BaseModel):
    """Accuracy with its 95 % interval; if inherited, the fp32 model's minus the measured disagreement."""

    value: float
    low: float = Field(description="95 % interval")
    high: float
    kind: Literal["measured", "reported", "inherited"]
    how: str

    @classmethod
    def of(cls, accuracy: AccuracyEstimate | None) -> "ClaimOut | None":
        """Build the response; None if the accuracy is unknown."""
        return None if accuracy is None else cls(**vars(accuracy))


class FitOut(BaseModel):
    """A model that is within every bound."""

    model: str
    confidence: float | None = Field(
        description="Confidence that its latency is within the bounds, at least 0.99; null without bounds"
    )
    accuracy: ClaimOut | None
    latency_ms: LatencyOut | None = Field(description="Inference on one thread; null if not measured")
    file_bytes: int
    parameters: int
    macs: int
    benchmark: str | None = Field(description="Id of the benchmark that the latency is from")
    notes: list[str]


class ParetoOut(BaseModel):
    """A model on the Pareto front of accuracy, median latency and file size."""

    model: str
    accuracy: ClaimOut | None
    p50_ms: float
    file_bytes: int


class MeasuredOut(ParetoOut):
    """A measured model with the 95 % interval of its median."""

    p50_low_ms: float = Field(description="95 % interval of the median")
    p50_high_ms: float
    parameters: int
    macs: int
    benchmark: str = Field(description="Id of the benchmark that the latency is from")


class DominatedOut(BaseModel):
    """A model that another one dominates: significantly better in all three."""

    model: str
    by: str
    reason: str


class RejectedOut(BaseModel):
    """A model that does not fit, with the reason."""

    model: str
    reason: str = Field(examples=["p99 12.3 ms > 10 ms", "quick runs give no p99: run `weighin bench ...`"])


class UnusedOut(BaseModel):
    """A benchmark that is not used, with the reason."""

    benchmark: str
    reason: str = Field(examples=["dirty: 3.1 % steal"])


class EvidenceOut(BaseModel):
    """Benchmarks that the recommendation is based on."""

    machine: str
    runtime: dict[str, str]
    benchmarks: list[str] = Field(description="Ids of the benchmarks that are used")
    unused: list[UnusedOut]
    run: str | None = Field(description="Command that measures the missing models")


class RecommendResponse(BaseModel):
    """The recommended model, others that fit, and the reasons against the rest."""

    recommended: str | None
    why: str
    labels: str
    task: Task
    fits: list[FitOut] = Field(description="Most accurate first")
    measured: list[MeasuredOut] = Field(description="All models that the Pareto front is computed from")
    pareto: list[ParetoOut]
    dominated: list[DominatedOut]
    rejected: list[RejectedOut]
    evidence: EvidenceOut


def recommend_router(registry: Registry, archive: BenchmarkArchive) -> APIRouter:
    """Return the route `GET /recommend`."""
    router = new_router("benchmarks")

    @router.get(
        "/recommend",
        summary="Recommend a model",
        responses=documented(errors.InvalidParameter, errors.StorageUnavailable),
    )
    def recommend(  # not async: reads the database and compares models
        p99_ms: Annotated[float | None, Query(description="Maximum p99 in milliseconds")] = None,
        p90_ms: Annotated[float | None, Query(description="Maximum p90 in milliseconds")] = None,
        p50_ms: Annotated[float | None, Query(description="Maximum median in milliseconds")] = None,
        max_bytes: Annotated[int | None, Query(description="Maximum size of the model file in bytes")] = None,
        min_accuracy: Annotated[float | None, Query(description="Minimum top-1 accuracy, 0 to 1")] = None,
        labels: Annotated[
            str | None, Query(description="Label set; by default that of the task's default model")
        ] = None,
        task: Annotated[Task, Query(description="Only models of this task")] = "image-classification",
    ) -> RecommendResponse:
        """Recommend the most accurate model within the bounds, by inference latency on one thread.

        Uses clean benchmarks of this machine, with this version of ONNX Runtime and these model files.
        """
        constraints = Constraints(p50_ms, p90_ms, p99_ms, max_bytes, min_accuracy, labels, task)
        bundles, unreadable = archive.newest_bundles()
        return answer(advise_here(constraints, registry, bundles, unreadable, this_machine()))

    return router


def answer(advice: Advice) -> RecommendResponse:
    """Build the response."""
    recommendation, machine = advice.recommendation, advice.machine
    unused = [UnusedOut(benchmark=name, reason=reason) for name, reason in advice.evidence.unused.items()]
    return RecommendResponse(
        recommended=recommendation.recommended,
        why=recommendation.why,
        labels=recommendation.labels,
        task=recommendation.task,
        fits=[
            FitOut(
                model=fit.facts.name,
                confidence=None if fit.confidence is None else round(fit.confidence, 6),
                accuracy=ClaimOut.of(fit.accuracy),
                latency_ms=None if fit.measured is None else _latency(fit.measured),
                file_bytes=fit.facts.bytes,
                parameters=fit.facts.parameters,
                macs=fit.facts.macs,
                benchmark=None if fit.measured is None else fit.measured.stored.id,
                notes=list(fit.notes),
            )
            for fit in recommendation.fits
        ],
        measured=[_measured(candidate) for candidate in recommendation.measured],
        pareto=[ParetoOut(**_point(candidate)) for candidate in recommendation.pareto],
        dominated=[DominatedOut(**vars(dominated)) for dominated in recommendation.dominated],
        rejected=[RejectedOut(**vars(rejected)) for rejected in recommendation.rejected],
        evidence=EvidenceOut(
            machine=machine.machine.cpu_model,
            runtime=machine.software.runtimes,
            benchmarks=advice.evidence.used,
            unused=unused,
            run=recommendation.run,
        ),
    )


def _point(candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.measured.name,
        "accuracy": ClaimOut.of(candidate.accuracy),
        "p50_ms": candidate.measured.p50_ms,
        "file_bytes": candidate.measured.facts.bytes,
    }


def _measured(candidate: Candidate) -> MeasuredOut:
    measured = candidate.measured
    low, high = measured.median_interval_ns
    return MeasuredOut(
        **_point(candidate),
        p50_low_ms=round(low / 1e6, 3),
        p50_high_ms=round(high / 1e6, 3),
        parameters=measured.facts.parameters,
        macs=measured.facts.macs,
        benchmark=measured.stored.id,
    )


def _latency(measured: Measured) -> LatencyOut:
    return LatencyOut(
        count=measured.count,
        p50=measured.p50_ms,
        p90=BoundOut.of(measured.percentile(0.90)),
        p95=BoundOut.of(measured.percentile(0.95)),
        p99=BoundOut.of(measured.percentile(0.99)),
    )
