"""GET /recommend: recommend a model for a budget, from benchmarks of machines of one kind."""

from typing import Annotated, Any, Literal

from fastapi import Query, Request
from pydantic import BaseModel, Field

from models.zoo.card import Task
from models.zoo.verdicts import MIN_ROUNDS
from service import errors
from service.api.benchmarks import BoundOut, LatencyOut
from service.api.body.request import app_part
from service.api.problems import documented
from service.api.routers import new_router
from service.bench.archive import BenchmarkArchive
from service.bench.recommend.accuracy import AccuracyEstimate
from service.bench.recommend.advice import Advice, advise_here, this_machine
from service.bench.recommend.evaluated import task_of
from service.bench.recommend.evidence import Measured
from service.bench.recommend.pareto import Candidate
from service.bench.recommend.recommend import Constraints
from service.evaluation.store import EvaluationStore
from service.inference.registry import Registry

router = new_router("benchmarks")


class ClaimOut(BaseModel):
    """Accuracy with its 95 % interval.

    An inherited accuracy is the fp32 model's accuracy minus the measured disagreement. An evaluated accuracy
    is the accuracy on one half of the user's pictures; models are ranked by their accuracy on the other half.
    """

    value: float
    low: float = Field(description="Lower end of the 95 % interval")
    high: float
    kind: Literal["measured", "reported", "inherited", "evaluated"]
    how: str
    ranked: float | None = Field(
        description="For kind `evaluated`: the accuracy on the half of the pictures that ranks the models"
    )

    @classmethod
    def of(cls, accuracy: AccuracyEstimate | None) -> "ClaimOut | None":
        """Return the accuracy for the response, or None if the accuracy is unknown."""
        return None if accuracy is None else cls(**vars(accuracy))


class FitOut(BaseModel):
    """A model that is within every bound."""

    model: str
    confidence: float | None = Field(
        description="Confidence that its latency is within the bounds, at least 0.99; null if there are none"
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
    """A measured model with the 95 % interval of its median latency."""

    p50_low_ms: float | None = Field(
        description=f"Lower end of the 95 % interval; null with fewer than {MIN_ROUNDS} rounds"
    )
    p50_high_ms: float | None
    parameters: int
    macs: int
    benchmark: str = Field(description="Id of the benchmark that the latency is from")


class DominatedOut(BaseModel):
    """A model that is dominated: another model is significantly more accurate and faster, and not larger."""

    model: str
    by: str
    reason: str


class RejectedOut(BaseModel):
    """A model that does not fit, with the reason."""

    model: str
    reason: str = Field(examples=["p99 12.3 ms > 10 ms", "not measured here: run `weighin bench ...`"])


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
    evaluate: str | None = Field(
        description="Command that evaluates the missing models on the pictures of `data`"
    )


class MachineOut(BaseModel):
    """The recommendation for machines of one kind."""

    machine: str = Field(
        description="Name of the kind: CPU and cores, and more if several kinds have the same CPU and cores",
        examples=["AMD EPYC 9R14, 2 cores"],
    )
    here: bool = Field(description="Whether the machine that answers is of this kind")
    benchmarks: int = Field(description="Number of stored measurements of this kind that were considered")
    recommended: str | None
    why: str

    @classmethod
    def of(cls, advice: Advice) -> "MachineOut":
        """Build the response."""
        return cls(
            machine=advice.name,
            here=advice.is_here,
            benchmarks=advice.benchmarks,
            recommended=advice.recommendation.recommended,
            why=advice.recommendation.why,
        )


class RecommendResponse(BaseModel):
    """The recommended model, other models that fit, and the reasons why the rest does not fit."""

    machine: str = Field(
        description="The kind of machine that the recommendation is for, as in `machines`",
        examples=["AMD EPYC 9R14, 2 cores"],
    )
    machines: list[MachineOut] = Field(
        description="The recommendation for `machine`, and for each other kind of machine with benchmarks"
    )
    recommended: str | None
    why: str
    accuracy_of: str = Field(
        description="The pictures to which the accuracies refer, and how to get accuracies on others",
        examples=["accuracy on imagenet-1k, which may differ on your pictures: run `weighin evaluate ...`"],
    )
    data: str | None = Field(description="Id of the evaluation that the accuracies are from")
    labels: str
    task: Task
    fits: list[FitOut] = Field(description="Most accurate first")
    measured: list[MeasuredOut] = Field(description="All models that the Pareto front is computed from")
    pareto: list[ParetoOut]
    dominated: list[DominatedOut]
    rejected: list[RejectedOut]
    evidence: EvidenceOut


@router.get(
    "/recommend",
    summary="Recommend a model",
    responses=documented(errors.UnknownEvaluation, errors.InvalidParameter, errors.StorageUnavailable),
)
def recommend(  # not async: reads the database and compares models
    request: Request,
    p99_ms: Annotated[float | None, Query(description="Maximum p99 in milliseconds")] = None,
    p90_ms: Annotated[float | None, Query(description="Maximum p90 in milliseconds")] = None,
    p50_ms: Annotated[float | None, Query(description="Maximum median in milliseconds")] = None,
    max_bytes: Annotated[int | None, Query(description="Maximum size of the model file in bytes")] = None,
    min_accuracy: Annotated[
        float | None, Query(description="Minimum top-1 accuracy (detectors: average precision), 0 to 1")
    ] = None,
    labels: Annotated[
        str | None,
        Query(description="Label set; by default that of `data`, or else of the task's default model"),
    ] = None,
    task: Annotated[
        Task | None,
        Query(description="Task of the models; by default that of `data`, or else image-classification"),
    ] = None,
    data: Annotated[
        str | None, Query(description="Id of an evaluation; its pictures rank the models by accuracy")
    ] = None,
    machine: Annotated[
        str | None,
        Query(
            max_length=500,
            description="Kind of machine to recommend for, as named in `machines`; by default the kind of "
            "the machine that answers. CPU and number of cores may be given instead of the full name, if "
            "only one kind has them, or if the machine that answers has them",
            examples=["AMD EPYC 9R14, 2 cores"],
        ),
    ] = None,
) -> RecommendResponse:
    """Recommend the most accurate model within the bounds.

    The bounds on latency are for inference on one thread. Only clean benchmarks on one kind of machine are
    used, and only if they ran with the version of ONNX Runtime and the model files that the service uses now.
    Benchmarks on different kinds of machines are never compared; `machines` has the recommendation for each
    kind.

    If `data` is given, accuracies are those on your pictures: one half of the pictures ranks the models,
    and the figures are from the other half. Otherwise, accuracies are those of the model cards, on other
    pictures.
    """
    evaluation = None if data is None else app_part(request, EvaluationStore).get(data)
    constraints = Constraints(
        p50_ms, p90_ms, p99_ms, max_bytes, min_accuracy, labels, task_of(evaluation, task)
    )
    bundles, unreadable = app_part(request, BenchmarkArchive).newest_bundles()
    registry = app_part(request, Registry)
    advice = advise_here(constraints, registry, bundles, unreadable, this_machine(), evaluation, machine)
    return answer(advice, data)


def answer(advice: Advice, data: str | None) -> RecommendResponse:
    """Build the response.

    `data`: id of the evaluation with the accuracies, or None if the accuracies are those of the cards.
    """
    recommendation, machine = advice.recommendation, advice.machine
    unused = [UnusedOut(benchmark=name, reason=reason) for name, reason in advice.evidence.unused.items()]
    return RecommendResponse(
        machine=advice.name,
        machines=[MachineOut.of(each) for each in (advice, *advice.others)],
        recommended=recommendation.recommended,
        why=recommendation.why,
        accuracy_of=recommendation.accuracy_of,
        data=data,
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
            evaluate=recommendation.evaluate,
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
        p50_low_ms=None if low is None else round(low / 1e6, 3),
        p50_high_ms=None if high is None else round(high / 1e6, 3),
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
