"""GET /latency/distribution: how the runs of one model and stage are distributed."""

from collections.abc import Callable, Collection
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from service import errors
from service.api.latency import (
    DEGRADED,
    VERSION,
    LatencyWindow,
    RegimeName,
    Since,
    VersionName,
    check_model,
    window_out,
)
from service.api.periods import parse_since
from service.api.problems import documented
from service.api.routers import new_router
from service.latency.query import CURRENT, Latencies
from service.latency.shape import curve, histogram
from service.latency.stages import Regime, Stage


class CurvePoint(BaseModel):
    """One percentile."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"fraction": 0.99, "ms": 4.1}})

    fraction: float = Field(description="0 to below 1; 0 is the fastest run")
    ms: float


class BinOut(BaseModel):
    """How many runs took from `from_ms` to before `to_ms`."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"example": {"from_ms": 2.5, "to_ms": 2.6, "count": 31}}
    )

    from_ms: float
    to_ms: float
    count: int


class DistributionResponse(BaseModel):
    """How the runs of one model and stage are distributed."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    version: str = VERSION
    model: str
    stage: Stage
    regime: Regime
    count: int
    curve: list[CurvePoint] = Field(description="Percentiles that the sample size supports, ascending")
    histogram: list[BinOut] = Field(description="At most 60 bins without gaps, even in the logarithm")
    degraded: str | None = DEGRADED


def distribution_router(latencies: Latencies, model_names: Callable[[], Collection[str]]) -> APIRouter:
    """The route that tells a distribution. `model_names`: of the models that are served."""
    router = new_router("latency")

    @router.get(
        "/latency/distribution",
        summary="Get latency distribution",
        responses=documented(errors.UnknownModel, errors.InvalidParameter),
    )
    def distribution(  # not async: reads the database, and merges
        response: Response,
        model: Annotated[str, Query(description="One model", examples=["efficientnet-lite0"])],
        stage: Annotated[Stage, Query(description="One stage")] = "total",
        regime: RegimeName = "live",
        since: Since = "24h",
        version: VersionName = CURRENT,
    ) -> DistributionResponse:
        """The percentile curve and a histogram of one model and stage, from the moment asked for until now.

        The curve has the percentiles of `/latency` and others in between and beyond, as far as there are
        enough samples for them by the same rule.
        """
        check_model(latencies, model_names(), model)
        begin = parse_since(since, latencies.now())
        window, found = latencies.distribution(regime, begin, model, stage, version)
        response.headers["Cache-Control"] = "no-store"
        return DistributionResponse.model_validate(
            {
                "window": window_out(window),
                "version": version,
                "model": model,
                "stage": stage,
                "regime": regime,
                "count": found.count,
                "curve": [{"fraction": fraction, "ms": ms} for fraction, ms in curve(found)],
                "histogram": [
                    {"from_ms": each.from_ms, "to_ms": each.to_ms, "count": each.count}
                    for each in histogram(found)
                ],
                "degraded": window.degraded,
            }
        )

    return router
