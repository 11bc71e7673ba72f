"""What /latency and /latency/history answer, field for field; milliseconds with microsecond resolution."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from service.latency.stages import Regime, Stage

_WINDOW: dict[str, JsonValue] = {
    "from": "2026-01-30T12:00:00Z",
    "to": "2026-01-31T12:00:00.250Z",
    "resolution_s": 60,
}
_ROW: dict[str, JsonValue] = {
    "model": "efficientnet-lite0-int8",
    "stage": "total",
    "regime": "live",
    "count": 412,
    "errors": {"queue-full": 3},
    "mean_ms": 2.904,
    "p50_ms": 2.741,
    "p90_ms": 3.335,
    "p95_ms": 3.971,
    "p99_ms": None,
    "max_ms": 19.207,
}


class LatencyWindow(BaseModel):
    """The time that the answer covers."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _WINDOW})

    from_: datetime = Field(
        alias="from",
        description="Where it begins: the moment asked for, rounded down to a whole bucket of what is kept",
    )
    to: datetime = Field(description="Now")
    resolution_s: int = Field(description="Seconds of the bucket it begins with; in a history, of a step")


class Latency(BaseModel):
    """One model and stage. Percentiles are null with too few samples behind them."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": _ROW})

    model: str
    stage: Stage
    regime: Regime
    count: int = Field(description="Recorded runs, exact")
    errors: dict[str, int] = Field(description="Failed requests by kind, in the row of `total`; else empty")
    mean_ms: float | None = Field(description="Exact; null without samples")
    p50_ms: float | None = Field(description="Within 0.1 %; null without samples")
    p90_ms: float | None = Field(description="Within 0.1 %; null below 64 samples")
    p95_ms: float | None = Field(description="Within 0.1 %; null below 130 samples")
    p99_ms: float | None = Field(description="Within 0.1 %; null below 662 samples")
    max_ms: float | None = Field(description="Exact; null without samples")


class LatencyPoint(Latency):
    """One model and stage in one step."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"at": _WINDOW["from"], **_ROW}})

    at: datetime = Field(description="First second of the step")


_DEGRADED = Field(
    description="Why only what is in this process's memory is in the answer; null when everything is",
    examples=[None],
)


class LatencyResponse(BaseModel):
    """What each model and stage has cost."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    latencies: list[Latency]
    errors_without_model: dict[str, int] = Field(
        description="Requests that failed before a model was known, by kind; empty when one is asked for",
        examples=[{"unknown-model": 1}],
    )
    degraded: str | None = _DEGRADED


class HistoryResponse(BaseModel):
    """What each model and stage has cost, step by step."""

    model_config = ConfigDict(extra="forbid")

    window: LatencyWindow
    points: list[LatencyPoint]
    degraded: str | None = _DEGRADED


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
    model: str
    stage: Stage
    regime: Regime
    count: int
    curve: list[CurvePoint] = Field(description="Percentiles that so many samples can carry, rising")
    histogram: list[BinOut] = Field(description="At most 60 bins without gaps, even in the logarithm")
    degraded: str | None = _DEGRADED
