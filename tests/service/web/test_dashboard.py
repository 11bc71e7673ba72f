"""The dashboard page: recorded figures, shareable URLs, and no injected or external code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import html
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from models.zoo.statistics import MIN_SAMPLES
from service.api import problems
from service.api.middleware.context import RequestContext
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.latency.stages import Durations
from service.state import open_state
from service.web.chart_data import PARTS
from service.web.dashboard import dashboard_router
from service.web.figures import FIRST_VIEWS, SHARED_FOR_S, DashboardCache, Figures
from service.web.site import HERE, Site
from service.web.table import errors_text, milliseconds_text
from service.web.view import WINDOWS, DashboardPage, Span, View, span_for
from tests.helpers.http_client import http_client
from tests.helpers.pages import Code, names_in

NOON = 1_772_366_400.0  # 2026-03-01 12:00 UTC
RUN: Durations = {"queue": 20_000, "decode": 600_000, "inference": 1_900_000, "total": 2_600_000}
EVIL = "\"'><script>alert(1)</script>&amp;"


class Instrument:
    """A recorder on a real database with a settable clock, and the dashboard on a real socket."""

    def __init__(self, folder: Path) -> None:
        self.at = NOON
        self.degraded: str | None = None
        self.benchmark: str | None = None
        self.detectors: tuple[str, ...] = ()
        self.state = open_state(folder, None)
        self.recorder = Recorder(self.state.latencies, Metrics({}), clock=lambda: self.at)
        self.recorder.flush()
        app = FastAPI()
        problems.install(app)
        names = ("tiny", "tiny-b")
        site, latencies = Site(), Latencies(self.recorder)
        self.cache = DashboardCache(
            site,
            latencies,
            lambda: names,
            "tiny",
            lambda: self.degraded,
            lambda: self.benchmark,
            detectors=lambda: self.detectors,
        )
        app.include_router(site.router())
        app.include_router(dashboard_router(site, self.cache, latencies, lambda: names))
        app.add_middleware(RequestContext, allowed_origins=(), log_requests=False)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]})
        self.thread.start()
        self.client = http_client(f"http://127.0.0.1:{self.listener.getsockname()[1]}")

    def close(self) -> None:
        self.client.close()
        self.server.should_exit = True
        self.thread.join()
        self.listener.close()
        self.cache.close()
        self.recorder.close()
        self.state.close()

    def record(self, count: int, model: str = "tiny", durations: Durations = RUN) -> None:
        for _ in range(count):
            self.recorder.record(model, "live", durations)

    def page(self, **query: str) -> str:
        response = self.client.get("/dashboard", params=query)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return response.text


@pytest.fixture
def instrument(tmp_path: Path) -> Iterator[Instrument]:
    one = Instrument(tmp_path / "data")
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instrument]:
    """An instrument without recorded runs, for tests that only read."""
    one = Instrument(tmp_path_factory.mktemp("idle"))
    try:
        yield one
    finally:
        one.close()


def rows(page: str) -> list[list[str]]:
    """Return the cell texts of each row of the table body."""
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell))
            for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row, re.S)
        ]
        for row in body.split("</tr>")
        if "<td" in row
    ]


def charts(page: str) -> dict[str, Any]:
    """Return the chart data of a page."""
    (found,) = re.findall(r'data-charts="([^"]*)"', page)
    drawn: dict[str, Any] = json.loads(html.unescape(found))
    return drawn


@pytest.mark.parametrize(
    ("template", "content"), [("dashboard.html", DashboardPage), ("figures.html", Figures)]
)
def test_template_variables_equal_the_dataclass_fields(template: str, content: type) -> None:
    assert names_in(template) == {field.name for field in dataclasses.fields(content)}
    for field in dataclasses.fields(content):
        assert len(field.metadata["help"]) > 8, field.name


def test_detectors_have_a_heading(instrument: Instrument) -> None:
    instrument.detectors = ("tiny",)
    instrument.record(3)
    assert "Detectors" not in instrument.page(), "it is the only model"
    instrument.record(2, "tiny-b")
    page = instrument.page(stage="total")
    assert [row[0] for row in rows(page)] == ["tiny-b", "tiny"]
    headings = re.findall(r'scope="(rowgroup|colgroup)"[^>]*>([\w-]+)<', page)
    assert headings == [("rowgroup", "tiny-b"), ("colgroup", "Detectors"), ("rowgroup", "tiny")]
    assert "Detectors" not in instrument.page(model="tiny")


def test_every_stage_has_a_colour() -> None:
    styles = (HERE / "static" / "weighin.css").read_text()
    assert [stage for stage in PARTS if f"  --{stage}: light-dark(" not in styles] == []


def test_empty_window_shows_a_curl_example(idle: Instrument) -> None:
    page = idle.page()
    assert f"curl -F image=@photo.jpg {idle.client.base_url}".rstrip("/") + "/classify" in page
    assert "<table" not in page
    assert "<polyline" not in page


def test_percentiles_are_withheld_with_too_few_runs(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.90])
    instrument.record(1, "tiny-b")
    instrument.recorder.record_error("tiny", "live", "queue-full")
    instrument.recorder.record_error(None, "live", "unknown-model")
    few = ["–"] * 3
    page = instrument.page(stage="all")
    assert rows(page) == [
        ["tiny", "queue", "64", "0.020", "0.020", *few[1:], "1 queue-full"],
        ["decode", "64", "0.600", "0.600", *few[1:]],
        ["inference", "64", "1.900", "1.900", *few[1:]],
        ["total", "64", "2.600", "2.600", *few[1:]],
        ["tiny-b", "queue", "1", "0.020", *few, ""],
        ["decode", "1", "0.600", *few],
        ["inference", "1", "1.900", *few],
        ["total", "1", "2.600", *few],
        ["(no model)", "", "0", "", "", "", "", "1 unknown-model"],
    ]
    reasons = [f"too few runs (needs {needed})" for needed in (64, 130, 662)]
    assert re.findall(r'class="withheld" title="([^"]*)">–</td>', page) == reasons[1:] * 4 + reasons * 4
    assert "– means too few runs: p50 needs 1, p90 needs 64, p95 needs 130, p99 needs 662." in page


def test_no_percentile_is_withheld_with_enough_runs(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.99], durations={"total": 12_345_000})
    assert rows(instrument.page()) == [["tiny", "total", "662", "12.35", "12.35", "12.35", "12.35", ""]]


def test_form_and_url_hold_the_view(instrument: Instrument) -> None:
    instrument.record(3)
    instrument.record(2, "tiny-b")
    instrument.recorder.record("tiny", "compare", {"inference": 5_000_000})
    page = instrument.page(regime="live", model="tiny-b", stage="decode", since="1h")
    assert [row[:3] for row in rows(page)] == [["tiny-b", "decode", "2"]]
    assert set(re.findall(r'<option value="([^"]*)" selected>', page)) == {
        "live",
        "tiny-b",
        "decode",
        "1h",
        "current",
    }
    assert (charts(page)["model"], charts(page)["stage"]) == ("tiny-b", "decode")
    assert 'href="/latency?model=tiny-b&amp;stage=decode&amp;regime=live&amp;since=1h"' in page
    compared = instrument.page(regime="compare")
    assert rows(compared) == [], "a comparison has no total, and no other stage is shown for it"
    assert 'href="?stage=inference&amp;regime=compare&amp;since=24h"' in compared
    inference = instrument.page(regime="compare", stage="inference")
    assert [row[:3] for row in rows(inference)] == [["tiny", "inference", "1"]]
    assert 'href="/latency?stage=total&amp;regime=compare&amp;since=24h"' in compared
    assert 'href="/latency?regime=live&amp;since=24h"' in instrument.page(stage="all")


def test_only_the_window_is_shown(instrument: Instrument) -> None:
    instrument.record(3)
    instrument.at += 2 * 3600
    instrument.record(4)
    assert [row[2] for row in rows(instrument.page(since="1h", stage="total"))] == ["4"]
    assert [row[2] for row in rows(instrument.page(since="6h", stage="total"))] == ["7"]


def test_charts_have_every_step_and_gaps(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.95])
    instrument.at += 60
    instrument.record(30, durations={"total": 5_200_000})
    instrument.recorder.record_error("tiny", "live", "queue-full")
    instrument.at += 600
    instrument.record(5)
    instrument.record(15, "tiny-b")
    instrument.recorder.record_error(None, "live", "unknown-model")
    instrument.at += 20
    drawn = charts(instrument.page(since="1h"))
    steps, stages, traffic = drawn["over_time"], drawn["parts"], drawn["traffic"]
    assert (drawn["model"], drawn["stage"], drawn["window"]) == ("tiny", "total", "1 hour")
    assert steps["at"] == stages["at"] == traffic["at"] == [int(NOON) + 60 * step for step in range(12)]
    gap = [None] * 9
    assert steps["percentiles"]["p50"] == [2.6, 5.2, *gap, 2.6]
    assert steps["percentiles"]["p95"] == [2.6, None, *gap, None]
    assert stages["means"] == {
        "queue": [0.02, None, *gap, 0.02],
        "decode": [0.6, None, *gap, 0.6],
        "inference": [1.9, None, *gap, 1.9],
    }
    assert stages["queue"]["p50"] == [0.02, None, *gap, 0.02]
    # 130 runs in a minute, and 5 in the 20 seconds that the last one has lasted
    assert traffic["per_second"]["tiny"] == [round(130 / 60, 4), 0.5, *[0] * 9, 0.25]
    assert traffic["per_second"]["tiny-b"] == [0] * 11 + [0.75]
    assert traffic["errors"] == {"queue-full": [0, 1, *[0] * 10], "unknown-model": [0] * 11 + [1]}
    assert drawn["shape"]["count"] == 165
    assert dict(drawn["shape"]["curve"])[0.5] == 2.601, "the slot's upper end"
    assert sum(count for *_, count in drawn["shape"]["bins"]) == 165

    of_one = charts(instrument.page(since="1h", model="tiny-b", stage="decode"))
    assert (of_one["model"], of_one["stage"]) == ("tiny-b", "decode")
    assert list(of_one["traffic"]["per_second"]) == ["tiny-b"]
    assert of_one["traffic"]["errors"] == {}
    assert of_one["over_time"]["percentiles"]["p50"][-1] == 0.6


def test_young_service_has_fine_steps_in_every_window(instrument: Instrument) -> None:
    instrument.record(2)
    for since in WINDOWS:
        assert charts(instrument.page(since=since))["over_time"]["at"] == [int(NOON)], since
    instrument.at += 5 * 3600
    instrument.record(2)
    assert charts(instrument.page(since="24h"))["over_time"]["step_s"] == 300
    assert charts(instrument.page(since="1h"))["over_time"]["step_s"] == 60


def test_steps_of_the_shortest_sufficient_window() -> None:
    day, hour = WINDOWS["24h"], WINDOWS["1h"]
    assert span_for(10, day) == WINDOWS["15m"]
    assert span_for(901, day) == hour
    assert span_for(86_401, day) == day
    assert span_for(7 * 3600, Span("odd", 3, 1, 1)) == Span("odd", 3, 1, 1)


def test_every_model_has_a_sparkline(instrument: Instrument) -> None:
    for _ in range(3):
        instrument.record(2)
        instrument.record(1, "tiny-b")
        instrument.at += 60
    page = instrument.page(since="1h")
    assert len(re.findall('<polyline points="[^"]+"', page)) == 2


def test_rows_show_only_the_selected_stage(instrument: Instrument) -> None:
    search = {"queue": 20_000, "inference": 1_900_000, "search": 300_000}
    instrument.recorder.record("tiny", "live", search)  # type: ignore[arg-type]
    instrument.recorder.record_error("tiny", "live", "queue-full")
    page = instrument.page(stage="total")
    assert [row[:3] for row in rows(page)] == [["tiny", "", "0"]], "its errors"
    assert "<polyline" not in page
    links = re.findall(r'<a href="([?][^"]*)">(\w+)</a>', page)
    assert [name for _, name in links] == ["queue", "inference", "search", "all"]
    for url, name in links:
        shown = rows(instrument.client.get("/dashboard" + url.replace("&amp;", "&")).text)
        stages = [row[1 if number == 0 else 0] for number, row in enumerate(shown)]
        assert stages == (["queue", "inference", "search"] if name == "all" else [name])
    instrument.record(1, "tiny-b")
    assert [row[:3] for row in rows(instrument.page())] == [["tiny", "", "0"], ["tiny-b", "total", "1"]]
    assert "No runs of this stage" in instrument.page(model="tiny")
    assert "No runs of this stage" not in instrument.page(model="tiny", stage="all")


def test_comparisons_are_charted_by_inference(instrument: Instrument) -> None:
    for _ in range(4):
        instrument.recorder.record("tiny-b", "compare", {"inference": 5_000_000, "preprocess": 1_000_000})
    drawn = charts(instrument.page(regime="compare"))
    assert (drawn["model"], drawn["stage"]) == ("tiny-b", "inference"), "the default model has nothing"
    assert drawn["over_time"]["percentiles"]["p50"] == [5.0]
    assert drawn["parts"]["means"] == {"preprocess": [1.0], "inference": [5.0]}


def test_refreshes_share_cached_figures(instrument: Instrument) -> None:
    def refreshed() -> str:
        response = instrument.client.get("/dashboard/figures", params={"since": "1h"})
        assert response.status_code == 200
        assert "<html" not in response.text
        return response.text

    begun = time.monotonic()
    instrument.record(1)
    first = refreshed()
    instrument.record(1)
    again, whole = refreshed(), instrument.page(since="1h")
    if time.monotonic() - begun < SHARED_FOR_S:
        assert again == first
    assert rows(whole)[-1][1:3] == ["total", "2"], "who opens the page sees all of it at once"
    assert rows(refreshed()) == rows(whole)
    other = instrument.client.get("/dashboard/figures", params={"since": "1h", "model": "tiny-b"})
    assert rows(other.text) == []


def test_warm_up_renders_the_first_views(instrument: Instrument) -> None:
    instrument.record(1)
    begun = time.monotonic()
    concurrent.futures.wait(instrument.cache.warm_up())
    instrument.record(1)
    known = instrument.cache.rendered(FIRST_VIEWS[-1], "", max_age_s=time.monotonic() - begun)
    assert rows(asyncio.run(known).html)[-1][1:3] == ["total", "1"], "rendered before the second run"
    assert FIRST_VIEWS[0] == View("live", "", "total", "24h"), "what /dashboard without a query shows"


def test_request_during_the_warm_up(instrument: Instrument) -> None:
    instrument.record(1)
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go_on.wait(30)

    cache = DashboardCache(
        Site(), Latencies(instrument.recorder), lambda: ("tiny",), "tiny", hold, lambda: None
    )
    ahead = cache.warm_up()
    assert begun.wait(30)

    async def ask() -> str:
        asked = asyncio.create_task(cache.rendered(View("live", "", "total", "1h"), ""))
        await asyncio.sleep(0)  # until it waits for the rendering under way
        go_on.set()
        return (await asked).html

    assert rows(asyncio.run(ask()))[-1][1:3] == ["total", "1"]
    cache.close()
    assert [rendering.cancelled() for rendering in ahead] == [False, True, True]


def test_chart_data_name_the_newest_benchmark(instrument: Instrument) -> None:
    assert charts(instrument.page())["benchmark"] is None
    instrument.benchmark = "b1"
    assert charts(instrument.page())["benchmark"] == "b1"


def test_removed_model_is_still_shown(instrument: Instrument) -> None:
    instrument.record(2, "gone")
    assert [row[:3] for row in rows(instrument.page(model="gone", stage="total"))] == [["gone", "total", "2"]]
    assert '<option value="gone">' in instrument.page()


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ({"model": "resnet"}, 404, "tiny, tiny-b"),
        ({"regime": "dead"}, 422, "live"),
        ({"stage": "lunch"}, 422, "decode"),
        ({"since": "1 fortnight"}, 422, "24h"),
    ],
)
def test_invalid_view_is_refused(idle: Instrument, query: dict[str, str], status: int, word: str) -> None:
    response = idle.client.get("/dashboard", params=query)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert word in response.json()["detail"]


def test_degraded_storage_is_shown(instrument: Instrument) -> None:
    instrument.degraded = f"the disk is full {EVIL}"
    page = instrument.page()
    assert (
        f"the disk is full {html.escape(EVIL)}".replace("&#x27;", "&#39;").replace("&quot;", "&#34;") in page
    )


@pytest.mark.parametrize("recorded", [False, True])
def test_page_has_no_inline_or_external_resources(instrument: Instrument, recorded: bool) -> None:
    if recorded:
        instrument.record(200, EVIL)
        instrument.recorder.record_error(EVIL, "live", "queue-full")
    response = instrument.client.get("/dashboard", params={"model": EVIL} if recorded else {})
    assert response.headers["content-security-policy"].split("; ")[0] == "default-src 'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    code = Code()
    code.feed(response.text)
    assert code.found == []
    assert "<script>" not in response.text
    assert len(code.links) >= 5
    assert [link for link in code.links if not re.match(r"#\w|/(?!/)", link)] == []
    for link in code.links:
        if link.startswith("/static/"):
            assert instrument.client.get(link).status_code == 200, link


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.000"), (0.0412, "0.041"), (9.9994, "9.999"), (12.3456, "12.35"), (1234.56, "1234.6")],
)
def test_milliseconds_have_about_four_digits(value: float, text: str) -> None:
    assert milliseconds_text(value) == text


def test_errors_are_sorted_by_count() -> None:
    assert errors_text({"busy": 2, "queue-full": 11, "a": 2}) == "11 queue-full, 2 a, 2 busy"
    assert errors_text({}) == ""


def test_page_counts_a_request_at_once(serve: Callable[..., httpx.Client], cat_jpeg: bytes) -> None:
    """End to end: the page counts an image that was just classified."""
    client = serve()
    assert client.post("/classify", content=cat_jpeg).status_code == 200
    page = client.get("/dashboard", params={"stage": "total"}).text
    assert [row[:3] for row in rows(page)] == [["tiny", "total", "1"]]
    assert client.get("/dashboard", params={"model": "tinny"}).status_code == 404
    assert client.get("/dashboard", params={"utm_source": "mail"}).status_code == 200
