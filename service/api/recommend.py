"""GET /recommend: which network fits, by what was measured on this machine."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

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
    """An accuracy that may be counted on: if inherited, the parent's minus the measured disagreement."""

    value: float
    low: float = Field(description="95 % interval")
    high: float
    kind: Literal["measured", "reported", "inherited"]
    how: str

    @classmethod
    def of(cls, accuracy: AccuracyEstimate | None) -> "ClaimOut | None":
        """None stays None: not known."""
        return None if accuracy is None else cls(**vars(accuracy))


class FitOut(BaseModel):
    """A model that keeps to every bound."""

    model: str
    confidence: float | None = Field(
        description="That its latency keeps to the bounds, at least 0.99; null where none was given"
    )
    accuracy: ClaimOut | None
    latency_ms: LatencyOut | None = Field(description="Inference on one thread; null where not measured")
    file_bytes: int
    parameters: int
    macs: int
    benchmark: str | None = Field(description="The measurement that this rests on")
    notes: list[str]


class ParetoOut(BaseModel):
    """A model that no other surely beats in accuracy, median latency and bytes together."""

    model: str
    accuracy: ClaimOut | None
    p50_ms: float
    file_bytes: int


class WeighedOut(ParetoOut):
    """A model that was measured here, with what its figures may be."""

    p50_low_ms: float = Field(description="95 % interval of the median")
    p50_high_ms: float
    parameters: int
    macs: int
    benchmark: str = Field(description="The measurement that this rests on")


class DominatedOut(BaseModel):
    """A model that another surely beats in all three."""

    model: str
    by: str
    reason: str


class RejectedOut(BaseModel):
    """A model that does not fit, and why."""

    model: str
    reason: str = Field(examples=["p99 12.3 ms > 10 ms", "quick runs give no p99: run `weighin bench ...`"])


class UnusedOut(BaseModel):
    """A measurement that counts for nothing here."""

    benchmark: str
    reason: str = Field(examples=["dirty: 3.1 % steal"])


class EvidenceOut(BaseModel):
    """What the answer rests on."""

    machine: str
    runtime: dict[str, str]
    benchmarks: list[str] = Field(description="Measurements that count")
    unused: list[UnusedOut]
    run: str | None = Field(description="The command that would measure what is missing")


class RecommendResponse(BaseModel):
    """The model to take, the others that fit, and why each other one is out."""

    recommended: str | None
    why: str
    labels: str
    fits: list[FitOut] = Field(description="Most accurate first")
    measured: list[WeighedOut] = Field(description="All that the front was taken from")
    pareto: list[ParetoOut]
    dominated: list[DominatedOut]
    rejected: list[RejectedOut]
    evidence: EvidenceOut


def recommend_router(registry: Registry, archive: BenchmarkArchive) -> APIRouter:
    """The route that recommends."""
    router = new_router("benchmarks")

    @router.get(
        "/recommend",
        summary="Recommend a model",
        responses=documented(errors.InvalidParameter, errors.StorageUnavailable),
    )
    def recommend(  # not async: reads the database, and compares models
        p99_ms: Annotated[float | None, Query(description="Most milliseconds at the 99th percentile")] = None,
        p90_ms: Annotated[float | None, Query(description="At the 90th")] = None,
        p50_ms: Annotated[float | None, Query(description="At the median")] = None,
        max_bytes: Annotated[int | None, Query(description="Most bytes of the model's file")] = None,
        min_accuracy: Annotated[float | None, Query(description="Least top-1 accuracy, 0 to 1")] = None,
        labels: Annotated[str | None, Query(description="Label set; by default the default model's")] = None,
    ) -> RecommendResponse:
        """Models held against the bounds, by the latency of inference on one thread measured here.

        Only clean measurements on this very machine, with this ONNX Runtime and these files, count.
        """
        constraints = Constraints(p50_ms, p90_ms, p99_ms, max_bytes, min_accuracy, labels)
        bundles, unreadable = archive.newest_bundles()
        return answer(advise_here(constraints, registry, bundles, unreadable, this_machine()))

    return router


def answer(advice: Advice) -> RecommendResponse:
    """The advice as JSON has it."""
    found, machine = advice.recommendation, advice.machine
    return RecommendResponse(
        recommended=found.recommended,
        why=found.why,
        labels=found.labels,
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
            for fit in found.fits
        ],
        measured=[_weighed(each) for each in found.measured],
        pareto=[ParetoOut(**_point(each)) for each in found.pareto],
        dominated=[DominatedOut(**vars(each)) for each in found.dominated],
        rejected=[RejectedOut(**vars(each)) for each in found.rejected],
        evidence=EvidenceOut(
            machine=machine.machine.cpu_model,
            runtime=machine.software.runtimes,
            benchmarks=advice.evidence.used,
            unused=[UnusedOut(benchmark=name, reason=why) for name, why in advice.evidence.unused.items()],
            run=found.run,
        ),
    )


def _point(candidate: Candidate) -> dict[str, Any]:
    return {
        "model": candidate.measured.name,
        "accuracy": ClaimOut.of(candidate.accuracy),
        "p50_ms": candidate.measured.p50_ms,
        "file_bytes": candidate.measured.facts.bytes,
    }


def _weighed(candidate: Candidate) -> WeighedOut:
    measured = candidate.measured
    low, high = measured.median_interval_ns
    return WeighedOut(
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
