"""/demo: run every model on bundled photographs, to see the dashboard with data."""

from __future__ import annotations

from fastapi import Depends, Request
from pydantic import BaseModel, Field

from service import errors
from service.api.body.request import app_part
from service.api.problems import documented
from service.api.routers import key_needed, new_router
from service.inference.demo import DURATION_S, RUNS_PER_MODEL, Demo, DemoState

router = new_router("latency")


class DemoOut(BaseModel):
    """State of the running or the last demo."""

    running: bool
    models: int = Field(description="Number of models that run; 0 before the first demo", examples=[6])
    runs: int = Field(description="Runs so far", examples=[120])
    planned: int = Field(description="Maximum number of runs", examples=[6 * RUNS_PER_MODEL])
    detail: str | None = Field(description="Why runs failed or the demo ended early")

    @classmethod
    def of(cls, state: DemoState) -> DemoOut:
        """Build the response."""
        return cls(
            running=state.running,
            models=state.models,
            runs=state.runs,
            planned=state.planned,
            detail=state.detail,
        )


@router.post(
    "/demo",
    summary="Start the demo",
    status_code=202,
    dependencies=[Depends(key_needed)],
    description="Run every loaded model on four bundled photographs, so that the dashboard has data. Each "
    f"model runs at most {RUNS_PER_MODEL} times, and the demo ends after at most {DURATION_S:.0f} seconds. "
    "The runs are recorded in the regime `demo`, apart from live requests. The answer is 503 while models "
    "are being loaded, or while another demo or a benchmark runs.",
    responses=documented(errors.Unauthorized, errors.CrossSiteRequest, errors.Busy, errors.NotReady),
)
async def start(request: Request) -> DemoOut:
    return DemoOut.of(app_part(request, Demo).start())


@router.get("/demo", summary="Get the demo's state")
async def state(request: Request) -> DemoOut:
    """Return whether a demo is running, and how many of its runs are done."""
    return DemoOut.of(app_part(request, Demo).state)
