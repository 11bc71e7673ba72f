"""GET /latency/distribution: how the runs of one model and stage are distributed."""

from collections.abc import Callable, Collection
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service import errors
from service.api.latency import RegimeName, Since, check_model, window_out
from service.api.latency_schemas import DistributionResponse
from service.api.periods import parse_since
from service.api.problems import documented
from service.latency.query import Latencies
from service.latency.shape import curve, histogram
from service.latency.stages import Stage


def distribution_router(latencies: Latencies, model_names: Callable[[], Collection[str]]) -> APIRouter:
    """The route that tells a distribution. `model_names`: of the models that are served."""
    router = APIRouter(tags=["latency"])

    @router.get(
        "/latency/distribution",
        summary="How are its latencies distributed?",
        responses=documented(errors.UnknownModel, errors.InvalidParameter),
    )
    def distribution(  # not async: reads the database, and merges
        response: Response,
        model: Annotated[str, Query(description="One model", examples=["efficientnet-lite0"])],
        stage: Annotated[Stage, Query(description="One stage")] = "total",
        regime: RegimeName = "live",
        since: Since = "24h",
    ) -> DistributionResponse:
        """The percentile curve and a histogram of one model and stage, from the moment asked for until now.

        The curve has the percentiles of `/latency` and others in between and beyond, as far as there are
        enough samples for them by the same rule.
        """
        check_model(latencies, model_names(), model)
        window, found = latencies.distribution(regime, parse_since(since, latencies.now()), model, stage)
        response.headers["Cache-Control"] = "no-store"
        return DistributionResponse.model_validate(
            {
                "window": window_out(window),
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
