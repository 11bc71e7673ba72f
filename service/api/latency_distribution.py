"""GET /latency/distribution: percentile curve and histogram of one model and stage."""

from typing import Annotated

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.api.body.request import app_part
from service.api.latency import (
    DEGRADED,
    RUNTIMES,
    VERSION,
    LatencyWindow,
    MachineName,
    ModelRuntime,
    RegimeName,
    RuntimeLabel,
    Since,
    VersionName,
    check_machine,
    check_model,
    runtimes_out,
    window_out,
)
from service.api.periods import parse_since
from service.api.problems import documented
from service.api.routers import new_router
from service.latency.query import CURRENT, Latencies
from service.latency.shape import curve, histogram
from service.latency.stages import Regime, Stage

router = new_router("latency")


class CurvePoint(BaseModel):
    """A point of the percentile curve."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"fraction": 0.99, "ms": 4.1}})

    fraction: float = Field(description="The percentile as a fraction: 0 (the minimum) to below 1")
    ms: float


class BinOut(BaseModel):
    """Number of runs with a latency in [`from_ms`, `to_ms`)."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"from_ms": 2.5, "to_ms": 2.6, "count": 31}}
    )

    from_ms: float
    to_ms: float
    count: int


class DistributionResponse(BaseModel):
    """Latency distribution of one model and stage."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    version: str = VERSION
    runtimes: list[ModelRuntime] = RUNTIMES
    model: str
    stage: Stage
    regime: Regime
    count: int
    curve: list[CurvePoint] = Field(description="Percentiles that the sample size supports, ascending")
    histogram: list[BinOut] = Field(description="At most 60 adjacent bins, equally wide on a log scale")
    degraded: str | None = DEGRADED


@router.get(
    "/latency/distribution",
    summary="Get latency distribution",
    responses=documented(errors.UnknownModel, errors.InvalidParameter),
)
def distribution(  # not async: reads the database and merges histograms
    request: Request,
    response: Response,
    model: Annotated[str, Query(description="Model name", examples=["efficientnet-lite0"])],
    stage: Annotated[Stage, Query(description="Stage")] = "total",
    regime: RegimeName = "live",
    since: Since = "24h",
    version: VersionName = CURRENT,
    runtime: RuntimeLabel = None,
    machine: MachineName = None,
) -> DistributionResponse:
    """Return the percentile curve and a histogram of one model and stage, from `since` until now.

    The curve has more percentiles than `/latency`, up to the highest percentile that the sample size
    supports.
    """
    check_model(request, model)
    check_machine(request, machine)
    latencies = app_part(request, Latencies)
    begin = parse_since(since, latencies.now())
    window, samples = latencies.distribution(regime, begin, model, stage, version, runtime, machine)
    response.headers["Cache-Control"] = "no-store"
    return DistributionResponse.model_validate(
        {
            "window": window_out(window),
            "version": version,
            "runtimes": runtimes_out(latencies, regime, begin, model, version, machine),
            "model": model,
            "stage": stage,
            "regime": regime,
            "count": samples.count,
            "curve": [{"fraction": fraction, "ms": ms} for fraction, ms in curve(samples)],
            "histogram": [
                {"from_ms": bin.from_ms, "to_ms": bin.to_ms, "count": bin.count} for bin in histogram(samples)
            ],
            "degraded": window.degraded,
        }
    )
