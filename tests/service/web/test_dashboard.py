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
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from models.zoo.card import Accuracy, read_card, write_card
from models.zoo.statistics import MIN_SAMPLES
from service.api import problems
from service.api.body.request import Bounds, add_parts
from service.api.middleware.context import RequestContext
from service.api.routers import ApiKey, add_routes
from service.bench.archive import BenchmarkArchive
from service.bench.recommend.advice import this_machine
from service.errors import ClientGone, DeadlineExceeded
from service.inference.pool import Deadline
from service.inference.registry import Registry
from service.latency.prometheus import Metrics
from service.latency.query import Latencies
from service.latency.recorder import Recorder
from service.latency.stages import Durations, Regime
from service.latency.store import LatencyStore
from service.state import open_state
from service.storage.database import open_database
from service.web import dashboard
from service.web.cache import FIRST_VIEWS, DashboardCache, Rendered
from service.web.catalogue import Catalogue
from service.web.figures import Figures
from service.web.marks import Axis
from service.web.site import HERE, Site
from service.web.table import PARTS, errors_text, three_digits
from service.web.view import WINDOWS, DashboardPage, Span, View, span_for
from tests.conftest import make_tiny_model
from tests.helpers.http_client import http_client
from tests.helpers.pages import Code, names_in
from tests.helpers.until import until
from tests.service.bench import bundles
from tests.service.conftest import NewTables
from tests.service.web.test_fronts import steady_benchmark

NOON = 1_772_366_400.0  # 2026-03-01 12:00 UTC
RUN: Durations = {"queue": 20_000, "decode": 600_000, "inference": 1_900_000, "total": 2_600_000}
EVIL = "\"'><script>alert(1)</script>&amp;"


class Instrument:
    """A recorder on a real database with a settable clock, and the dashboard on a real socket."""

    def __init__(self, folder: Path, models: Path, new_tables: NewTables) -> None:
        self.at = NOON
        self.degraded: str | None = None
        new_tables(folder)
        self.state = open_state(folder, None)
        self.recorder = Recorder(self.state.latencies, Metrics({}), clock=lambda: self.at)
        self.recorder.flush()
        app = FastAPI()
        problems.install(app)
        self.registry = Registry([models], "tiny")
        self.archive = BenchmarkArchive(self.state.benchmarks)
        self.catalogue = Catalogue(self.registry, self.archive, self.state.evaluations)
        site, self.latencies = Site(), Latencies(self.recorder, self.registry.versions)
        self.cache = DashboardCache(site, self.latencies, self.catalogue, lambda: self.degraded)
        add_parts(app, [ApiKey(None), Bounds(1, 30), self.registry, self.latencies, site, self.cache])
        app.router.routes.extend(site.mounts)
        add_routes(app, [dashboard.router])
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

    def record(
        self, count: int, model: str = "tiny", durations: Durations = RUN, regime: Regime = "live"
    ) -> None:
        for _ in range(count):
            self.recorder.record(model, regime, durations)

    def page(self, **query: str) -> str:
        response = self.client.get("/dashboard", params=query)
        assert response.status_code == 200, response.text
        assert response.headers["content-type"] == "text/html; charset=utf-8"
        return response.text


@pytest.fixture
def instrument(tmp_path: Path, tiny_models_dir: Path, new_tables: NewTables) -> Iterator[Instrument]:
    one = Instrument(tmp_path / "data", tiny_models_dir, new_tables)
    try:
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def idle(
    tmp_path_factory: pytest.TempPathFactory, tiny_models_dir: Path, new_tables: NewTables
) -> Iterator[Instrument]:
    """An instrument without recorded runs, for tests that only read."""
    one = Instrument(tmp_path_factory.mktemp("idle"), tiny_models_dir, new_tables)
    try:
        yield one
    finally:
        one.close()


def rows(page: str) -> list[list[str]]:
    """Return the cell texts of each model's row: name, chart, p50, p90, p99, runs, accuracy, MB, speed-up,
    front, and errors if there are any.
    """
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row, re.S)
        ]
        for row in re.findall(r"<tr data-model=.*?</tr>", page, re.S)
    ]


def lines(page: str, label: str) -> list[list[str]]:
    """Return the cell texts of a table of the detail: stage or version, runs, p50, p90, p95, p99."""
    body = page.partition(f'aria-label="{label}')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<t[hd][^>]*>.*?</t[hd]>", row, re.S)]
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


def test_every_stage_has_a_colour() -> None:
    styles = (HERE / "static" / "weighin.css").read_text()
    assert [stage for stage in PARTS if f"  --{stage}: light-dark(" not in styles] == []


def test_empty_window_shows_a_curl_example(idle: Instrument) -> None:
    page = idle.page()
    assert f"curl -F image=@photo.jpg {idle.client.base_url}".rstrip("/") + "/classify" in page
    assert "<table" not in page


def test_percentiles_are_withheld_with_too_few_runs(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.90])
    instrument.record(1, "tiny-b")
    instrument.recorder.record_error("tiny", "live", "queue-full")
    instrument.recorder.record_error(None, "live", "unknown-model")
    page = instrument.page()
    size = three_digits(instrument.catalogue.facts()["tiny"].bytes / 1e6)
    assert rows(page) == [
        ["tiny baseline fastest", "", "2.60", "2.60", "–", "64", "–", size, "1.00", "–", "1 queue-full"],
        ["tiny-b fastest", "", "2.60", "–", "–", "1", "–", size, "1.00", "–", ""],
    ]
    assert "Errors of requests that named no model: 1 unknown-model" in page
    reasons = re.findall(r'<td class=" withheld" title="too few runs [(]needs (\d+)[)]">–</td>', page)
    assert reasons == ["662", "64", "662"]
    assert "–: too few runs (p90 needs 64, p99 needs 662)." in page
    detail = instrument.page(model="tiny")
    assert lines(detail, "Stages of tiny") == [
        ["queue", "64", "0.0200", "0.0200", "–", "–"],
        ["decode", "64", "0.600", "0.600", "–", "–"],
        ["inference", "64", "1.90", "1.90", "–", "–"],
        ["total", "64", "2.60", "2.60", "–", "–"],
    ]


def test_no_percentile_is_withheld_with_enough_runs(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.99], durations={"total": 12_345_000})
    assert [row[2:6] for row in rows(instrument.page())] == [["12.3", "12.3", "12.3", "662"]]
    assert "too few runs" not in instrument.page(), "there is no dash that it would explain"


def test_regime_with_most_runs_is_shown(instrument: Instrument) -> None:
    instrument.record(3)
    instrument.record(5, "tiny-b", {"inference": 5_000_000}, "compare")
    instrument.record(9, "tiny", regime="demo")
    page = instrument.page()
    assert [row[0].split()[0] for row in rows(page)] == ["tiny-b"]
    assert "<b>compare (5 runs, the regime with most)</b>, stage <b>inference</b>" in page
    offered = re.search(r'<select name="regime">(.*?)</select>', page)
    assert offered is not None
    assert re.findall(r'<option value="([^"]*)"', offered[1]) == ["", "live", "compare", "demo"]
    assert ">most runs (compare)<" in offered[1]
    assert '<a href="./dashboard?regime=live">live (3 runs)</a>' in page
    assert '<a href="./dashboard?regime=demo">demo (9 runs)</a>' in page
    assert "<b>live (3 runs)</b>, stage <b>total</b>" in instrument.page(regime="live")


def test_demo_data_are_marked(instrument: Instrument) -> None:
    instrument.record(2, regime="demo")
    assert "Demo data: the bundled photographs" in instrument.page(), "there is nothing else"
    instrument.record(1)
    assert "Demo data" not in instrument.page(), "live runs come first, however few"


def test_window_has_both_ends(instrument: Instrument) -> None:
    instrument.record(1)
    assert "last 1 hour (from 2026-03-01 11:00 to 12:00 UTC)" in instrument.page(since="1h")
    assert "last 24 hours (from 2026-02-28 12:00 to 2026-03-01 12:00 UTC)" in instrument.page()


def test_detail_explains_its_dashes(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.99])
    instrument.record(1, durations={"nms": 1_000_000})
    assert "too few runs (p90" not in instrument.page(), "no row has a dash"
    assert "–: too few runs (p90" in instrument.page(model="tiny"), "the stage nms has too few runs"


def test_live_errors_come_before_demo_data(instrument: Instrument) -> None:
    instrument.record(2, regime="demo")
    for _ in range(40):
        instrument.recorder.record_error("tiny", "live", "queue-full")
    page = instrument.page()
    assert "Demo data" not in page
    assert "<b>live (40 errors)</b>" in page
    assert [(row[0], row[10]) for row in rows(page)] == [("tiny", "40 queue-full")]
    assert '<a href="./dashboard?regime=demo">demo (2 runs)</a>' in page
    demo = instrument.page(regime="demo")
    assert '<a href="./dashboard?regime=live">live (40 errors)</a>' in demo
    instrument.record(3, "tiny", {"inference": 5_000_000}, "compare")
    assert '<a href="./dashboard?regime=live">live (40 errors)</a>' in instrument.page()


def test_errors_without_a_model_come_before_demo_data(instrument: Instrument) -> None:
    instrument.record(2, regime="demo")
    instrument.recorder.record_error(None, "live", "queue-full")
    page = instrument.page()
    assert "Errors of requests that named no model: 1 queue-full" in page
    assert "Only errors recorded in this window" in page


def test_form_and_url_hold_the_view(instrument: Instrument) -> None:
    instrument.record(3)
    instrument.record(2, "tiny-b")
    view = {"regime": "live", "model": "tiny-b", "stage": "decode", "since": "1h", "baseline": "tiny"}
    page = instrument.page(**view, sort="-runs")
    assert set(re.findall(r'<option value="([^"]*)" selected>', page)) == {*view.values(), "current", ""}
    assert '<input type="hidden" name="sort" value="-runs">' in page
    assert [row[0] for row in rows(page)] == ["tiny baseline fastest", "tiny-b fastest"]
    assert (charts(page)["model"], charts(page)["stage"]) == ("tiny-b", "decode")
    assert 'href="/latency?model=tiny-b&amp;stage=decode&amp;regime=live&amp;since=1h"' in page
    back = 'href="./dashboard?stage=decode&amp;since=1h&amp;sort=-runs&amp;baseline=tiny"'
    assert back in page.replace("regime=live&amp;", "")


def test_urls_of_earlier_releases(instrument: Instrument) -> None:
    instrument.record(3)
    for query in (
        {"regime": "live", "model": "tiny", "stage": "total", "since": "24h", "version": "current"},
        {"regime": "live", "stage": "all", "since": "30d", "version": "all"},
        {"model": "tiny", "stage": "all"},
    ):
        assert [row[0] for row in rows(instrument.page(**query))] == ["tiny baseline"], query
    instrument.record(2, "tiny", {"inference": 5_000_000}, "compare")
    compared = instrument.page(regime="compare", stage="total")
    assert [row[5] for row in rows(compared)] == ["2"], "a comparison has no total: its inference is shown"


def test_rows_are_sorted_by_any_column(instrument: Instrument) -> None:
    instrument.record(MIN_SAMPLES[0.99], "tiny", {"total": 9_000_000})
    instrument.record(2, "tiny-b", {"total": 4_000_000})
    instrument.record(1, "gone", {"total": 1_000_000})
    slow_first, fast_first = ["tiny", "tiny-b", "gone"], ["tiny-b", "tiny", "gone"]
    for sort, expected in (
        ("p50", fast_first),
        ("-p50", slow_first),
        ("p90", slow_first),
        ("-p99", slow_first),
        ("runs", fast_first),
        ("-model", fast_first),
        ("speedup", slow_first),
        ("-speedup", fast_first),
        ("accuracy", slow_first),
    ):
        page = instrument.page(sort=sort)
        assert [row[0].split()[0] for row in rows(page)] == expected, sort
        order = "descending" if sort.startswith("-") else "ascending"
        assert re.findall(r'class="(?:text )?(\w+)" scope="col" aria-sort="(\w+cending)"', page) == [
            (sort.removeprefix("-"), order)
        ]
    assert 'href="./dashboard?sort=-p50"' in instrument.page(), "a second click sorts the other way"
    assert 'href="./dashboard?sort=-runs"' in instrument.page(), "most runs first"


def test_label_sets_are_groups(tmp_path: Path, new_tables: NewTables) -> None:
    zoo = tmp_path / "zoo"
    make_tiny_model(zoo, "tiny")
    make_tiny_model(zoo, "other", seed=1, labels="others")
    one = Instrument(tmp_path / "data", zoo, new_tables)
    try:
        one.record(3)
        one.record(2, "other")
        one.record(1, "gone")
        page = one.page()
        titles = re.findall(r'scope="colgroup"[^>]*>([^<]*?) <', page)
        assert titles == ["tiny-10: 1 classifier", "others: 1 classifier", "no longer served"]
        assert [row[0] for row in rows(page)] == ["tiny baseline", "other baseline", "gone"]
    finally:
        one.close()


@pytest.fixture
def judged(tmp_path: Path, new_tables: NewTables) -> Iterator[Instrument]:
    """Two label sets with known accuracies: `b` a little worse than `a`, `d` surely."""
    zoo = tmp_path / "zoo"
    for seed, (name, labels, accuracy) in enumerate(
        (
            ("set-a", "ten", 0.8),
            ("set-b", "ten", 0.79),
            ("set-c", "ten", 0.9),
            ("set-d", "ten", 0.2),
            ("other-a", "others", 0.6),
            ("other-b", "others", 0.5),
        )
    ):
        folder = make_tiny_model(zoo, name, seed=seed, labels=labels)
        known = Accuracy(value=accuracy, kind="reported", dataset=f"{labels} of mine", n=1000, how="test")
        write_card(folder, read_card(folder).model_copy(update={"accuracy": known}))
    one = Instrument(tmp_path / "data", zoo, new_tables)
    for name, ms in (("a", 2), ("b", 3), ("c", 4), ("d", 5)):
        one.record(MIN_SAMPLES[0.99], f"set-{name}", {"total": ms * 1_000_000})
    for name, ms in (("a", 6), ("b", 7)):
        one.record(100, f"other-{name}", {"total": ms * 1_000_000})
    try:
        yield one
    finally:
        one.close()


def test_worse_models_are_said_to_be_behind_or_dominated(judged: Instrument) -> None:
    page = judged.page()
    places = {row[0].split()[0]: row[9] for row in rows(page)}
    assert places == {
        "set-a": "front",
        "set-b": "behind a?",
        "set-c": "front",
        "set-d": "dominated by a",
        "other-a": "front",
        "other-b": "dominated by a",
    }
    assert (
        "by the estimates, &#39;set-a&#39; is more accurate (80.0% against 79.0%), faster (median 2 ms"
        in page
    )
    assert re.findall(r'<tr data-model="([^"]+)" class="behind">', page) == ["set-b"], "marked at its name"
    assert (
        page.count("<b>dominated by X</b>: X surely is.") == page.count("<b>behind X?</b>: X is better") == 1
    )
    assert [row[0].split()[0] for row in rows(judged.page(sort="front"))] == [
        *("other-a", "other-b"),
        *("set-a", "set-c", "set-b", "set-d"),
    ]


def test_each_label_set_has_its_answers(judged: Instrument) -> None:
    page = judged.page(baseline="set-a")
    sections = re.findall(r'<section aria-label="([^"]*)">(.*?)</section>', page, re.S)
    answers = {
        title: dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", re.sub(r"</?(b|span)>", "", body)))
        for title, body in sections
    }
    assert list(answers) == ["others: 2 classifiers", "ten: 4 classifiers"]
    others, ten = answers.values()
    assert ten["Fastest"] == "set-a p50 2.00 ms"
    assert re.fullmatch(r"set-c 90.0% \[8\d.\d–9\d.\d\]", ten["Most accurate"])
    assert ten["Dominated"] == "set-d; behind another: b"
    assert ten["Baseline"] == "set-a p99 2.00 ms"
    assert others["Fastest"] == "other-a p50 6.00 ms"
    assert others["Dominated"] == "other-b "
    assert others["Baseline"].endswith("no p99 yet, needs 662 runs")
    assert page.count("live, not a controlled benchmark.") == 1, "said once, for all answers"
    assert "accuracy: the models&#39; cards (ten of mine)" in page
    assert "card<" not in page, "the group's heading says it, so the rows need not"
    assert "<section aria-label" not in judged.page(model="set-a")


def test_stages_are_stacked_on_demand(instrument: Instrument) -> None:
    instrument.record(4)
    instrument.record(4, "tiny-b", {"queue": 20_000, "inference": 900_000, "total": 920_000})
    assert 'href="./dashboard?stage=all">show stages</a>' in instrument.page()
    page = instrument.page(stage="all")
    assert 'href="./dashboard">show percentiles</a>' in page
    axis = Axis.over([2.52, 0.92], stacked=True)
    bars = re.findall(r'class="part (\w+)" x="([\d.]+)%" y="4" width="([\d.]+)%"', page)
    widths = [(stage, float(x), float(width)) for stage, x, width in bars]
    assert widths == [
        ("queue", 0.0, axis.x(0.02)),
        ("inference", axis.x(0.02), pytest.approx(axis.x(0.92) - axis.x(0.02))),
        ("queue", 0.0, axis.x(0.02)),
        ("decode", axis.x(0.02), pytest.approx(axis.x(0.62) - axis.x(0.02))),
        ("inference", axis.x(0.62), pytest.approx(axis.x(2.52) - axis.x(0.62), abs=0.002)),
    ]
    assert '<rect class="p50"' not in page


def test_stacked_stages_add_up_to_the_mean_of_all_runs(instrument: Instrument) -> None:
    instrument.record(3, durations={"inference": 2_000_000, "total": 2_000_000})
    instrument.record(1, durations={"inference": 2_000_000, "search": 8_000_000})
    page = instrument.page(stage="all")
    axis = Axis.over([4.0], stacked=True)
    bars = re.findall(r'class="part (\w+)" x="([\d.]+)%" y="4" width="([\d.]+)%"[^>]*><title>(.*?)</', page)
    assert bars == [
        ("inference", "0.0", str(axis.x(2.0)), "inference: mean 2 ms"),
        ("search", str(axis.x(2.0)), str(axis.x(2.0)), "search: mean 2 ms over all runs; 1 of 4 have it"),
    ]
    told = "inference: mean 2 ms, search: mean 2 ms over all runs; 1 of 4 have it"
    assert f'</svg><span class="hidden-text">{told}</span>' in page, "for screen readers"


def test_versions_of_a_model_on_request(instrument: Instrument) -> None:
    current = instrument.registry.versions()["tiny"]
    for version, count in ((current, 3), ("ab" * 32, 5)):
        for _ in range(count):
            instrument.recorder.record("tiny", "live", RUN, version)
    assert [row[5] for row in rows(instrument.page())] == ["3"]
    assert "Not shown: runs of other versions" in instrument.page()
    detail = instrument.page(model="tiny")
    versions = [line[:3] for line in lines(detail, "Versions of tiny")]
    assert versions == [[f"{current[:12]} served", "3", "2.60"], ["ab" * 6, "5", "2.60"]]
    other = instrument.page(model="tiny", version="ab" * 6)
    assert [row[5] for row in rows(other)] == ["5"]


def rated_zoo(folder: Path) -> Path:
    """Return a folder with the models `tiny` and `tiny-b`, whose cards state accuracies of 90 and 60 %."""
    for seed, (name, value) in enumerate((("tiny", 0.9), ("tiny-b", 0.6))):
        made = make_tiny_model(folder, name, seed=seed)
        known = Accuracy(value=value, kind="reported", dataset="things", n=5000, how="test")
        write_card(made, read_card(made).model_copy(update={"accuracy": known}))
    return folder


@pytest.fixture
def rated(tmp_path: Path, new_tables: NewTables) -> Iterator[Instrument]:
    one = Instrument(tmp_path / "data", rated_zoo(tmp_path / "zoo"), new_tables)
    try:
        yield one
    finally:
        one.close()


def test_facts_of_the_served_file_are_not_shown_beside_runs_of_another(rated: Instrument) -> None:
    served, other = rated.registry.versions(), "ab" * 32
    for _ in range(MIN_SAMPLES[0.90]):
        rated.recorder.record("tiny", "live", {"total": 9_000_000}, served["tiny"])
        rated.recorder.record("tiny", "live", {"total": 1_000_000}, other)
        rated.recorder.record("tiny-b", "live", {"total": 3_000_000}, served["tiny-b"])
    current = rated.page()
    assert [row[0] for row in rows(current)] == ["tiny-b fastest", "tiny baseline most accurate"]
    assert "90.0%" in rows(current)[1][6]
    assert "pooled" not in current
    old = rated.page(version=other[:12])
    ((name, _, p50, *_, accuracy, size, _, place),) = rows(old)
    assert p50.startswith("1.00")
    assert (name, accuracy, size, place) == ("tiny baseline", "–", "–", "–")
    assert "Accuracy, size and front of tiny are not shown" in old
    pooled = rated.page(version="all")
    by_name = {row[0].split()[0]: row for row in rows(pooled)}
    assert [by_name["tiny"][0], *by_name["tiny"][6:8], by_name["tiny"][9]] == ["tiny baseline", "–", "–", "–"]
    assert by_name["tiny-b"][0] == "tiny-b", "no one is called fastest beside runs of another file"
    assert "60.0%" in by_name["tiny-b"][6]
    assert "All versions of a model are pooled. Accuracy, size and front of tiny are not shown:" in pooled
    facts_text = "input 32 × 32 pixels"
    assert facts_text in rated.page(model="tiny")
    assert "; runs in" not in rated.page(model="tiny"), "this registry has loaded no model"
    assert facts_text not in rated.page(model="tiny", version=other[:12])
    same = rated.page(version=served["tiny"])
    assert "90.0%" in rows(same)[0][6]
    assert "are not shown" not in same


FAST, SLOW = "Fast CPU, 8 cores", "Slow CPU, 2 cores"


@contextmanager
def on_machine(instrument: Instrument, folder: Path, machine: str) -> Iterator[Recorder]:
    """Yield the recorder of a process on another machine that shares the instrument's database."""
    engine = open_database(None, folder / "data")
    replica = Recorder(LatencyStore(engine, machine=machine), Metrics({}), clock=lambda: instrument.at)
    yield replica
    replica.flush()
    engine.dispose()
    instrument.at += 60


def machine_words(page: str) -> str:
    """Return what the page says about machines, without markup."""
    found = re.findall(r'<p class="(?:warn|quiet)">([^<]*machine.*?|Only runs of.*?)</p>', page)
    return html.unescape(re.sub(r"<[^>]+>", "", found[0])) if found else ""


def offered(page: str) -> list[str]:
    """Return the machines that can be chosen; empty if the choice is hidden."""
    hidden, options = re.findall(r"<label( hidden)?>Machine <select[^>]*>(.*?)</select>", page)[0]
    return [] if hidden else re.findall(r"<option value=\"([^\"]*)\"", options)


def test_pooled_machines_are_named_and_one_can_be_chosen(instrument: Instrument, tmp_path: Path) -> None:
    for machine, runs, ms in ((FAST, 3, 1), (SLOW, 4, 9)):
        with on_machine(instrument, tmp_path, machine) as replica:
            for _ in range(runs):
                replica.record("tiny", "live", {"inference": ms * 900_000, "total": ms * 1_000_000})
    warning = f"Pooled runs of 2 machines, which may differ in speed; show one: {FAST}; {SLOW}."
    latencies = Latencies(instrument.recorder)  # with nothing cached
    cache = DashboardCache(Site(), latencies, instrument.catalogue, lambda: None)
    for view in (View(), View(model="tiny")):
        assert machine_words(asyncio.run(rendered(cache, view)).html) == warning
    cache.close()
    pooled = instrument.page()
    assert offered(pooled) == ["", FAST, SLOW]
    assert [row[5] for row in rows(pooled)] == ["7"]
    (link,) = re.findall(rf'<a href="([^"]*)">{SLOW}</a>', pooled)
    assert link == f"./dashboard?{urlencode({'machine': SLOW})}"
    for model in ("", "tiny"):
        page = instrument.page(model=model, machine=SLOW)
        assert machine_words(page) == f"Only runs of {SLOW}; show instead: all, pooled; {FAST}."
        assert f'<option value="{SLOW}" selected>' in page
        assert [(row[2], row[5]) for row in rows(page)] == [("9.00", "4")]
        assert sum(charts(page)["traffic"]["per_second"]["tiny"]) > 0
        assert charts(page)["machines"] == [FAST, SLOW]
        (json_link, *_) = re.findall(r'href="(/latency\?[^"]*)"', page)
        assert urlencode({"machine": SLOW}) in html.unescape(json_link)
    detail = instrument.page(model="tiny", machine=FAST)
    assert charts(detail)["shape"]["count"] == 3
    assert [line[:2] for line in lines(detail, "Stages of tiny")] == [["inference", "3"], ["total", "3"]]


def test_one_machine_is_no_choice(instrument: Instrument) -> None:
    instrument.record(1)
    assert (machine_words(instrument.page()), offered(instrument.page())) == ("", [])


def test_front_of_a_machine_is_of_its_benchmarks(rated: Instrument, tmp_path: Path) -> None:
    here = this_machine()
    other = bundles.fingerprint("Slow CPU").model_copy(update={"software": here.software})
    facts = rated.catalogue.facts()
    rated.archive.save(steady_benchmark(facts, {"tiny": 3.0, "tiny-b": 1.0}))
    rated.archive.save(steady_benchmark(facts, {"tiny": 20.0, "tiny-b": 90.0}, other))
    for machine in (FAST, SLOW):
        with on_machine(rated, tmp_path, machine) as replica:
            for name in ("tiny", "tiny-b"):
                replica.record(name, "live", RUN)
    for machine in ("", FAST, SLOW):
        rated.catalogue.measured(facts, machine)
    rated.catalogue.close()
    pooled = rated.page()
    assert "by controlled benchmarks of inference on this machine" in pooled
    assert "(live, not a controlled benchmark, pooled over 2 machines" in pooled.replace("; ", " (")
    slow = rated.page(machine=SLOW)
    assert f"by controlled benchmarks of inference on {SLOW}" in slow
    drawn = re.findall(r"<title>(\S+): .*?, ([0-9.]+) ms", slow)
    assert {name: round(float(ms), -1) for name, ms in drawn} == {"tiny": 20, "tiny-b": 90}
    assert "pooled over" not in slow
    fast = rated.page(machine=FAST)
    assert "live, not a controlled benchmark: its intervals" in fast, "it has no benchmarks"


def test_front_names_its_kind_if_several_have_the_name_of_the_machine(
    rated: Instrument, tmp_path: Path
) -> None:
    here = this_machine()
    facts = rated.catalogue.facts()
    for number, cpus in enumerate((2, 8)):  # the newer ones are of machines with 8 CPUs
        kind = bundles.fingerprint("Slow CPU").machine.model_copy(update={"cpus": cpus})
        made = steady_benchmark(
            facts, {"tiny": 3.0, "tiny-b": 1.0}, here.model_copy(update={"machine": kind})
        )
        later = made.started_at + timedelta(hours=number)
        rated.archive.save(made.model_copy(update={"started_at": later}))
    with on_machine(rated, tmp_path, SLOW) as replica:
        replica.record("tiny", "live", RUN)
    rated.catalogue.measured(facts, SLOW)
    rated.catalogue.close()
    assert f"by controlled benchmarks of inference on {SLOW} (cpus: 8)" in rated.page(machine=SLOW)


def test_one_unknown_machine_is_no_second_one(instrument: Instrument, tmp_path: Path) -> None:
    for machine in ("", FAST):
        with on_machine(instrument, tmp_path, machine) as replica:
            replica.record("tiny", "live", RUN)
    page = instrument.page()
    assert machine_words(page) == f"The machine of earlier runs is unknown; show one: {FAST}; unknown."
    assert "Pooled runs" not in page
    assert "Only runs of unknown machines; show instead: " in instrument.page(machine="unknown")


def test_detail_has_the_newest_versions(instrument: Instrument) -> None:
    current = instrument.registry.versions()["tiny"]
    for number in (*range(3, 14), 2, 1):
        instrument.recorder.record("tiny", "live", RUN, f"{number:02x}" * 32)
        instrument.recorder.flush()
        instrument.at += 3600
        if number == 13:
            instrument.recorder.record("tiny", "live", RUN, current)
    detail = instrument.page(model="tiny")
    newest = [f"{number:02x}" * 6 for number in (1, 2, 13, 12, 11, 10, 9, 8, 7)]
    assert [line[0] for line in lines(detail, "Versions of tiny")] == [f"{current[:12]} served", *newest]
    assert "The 10 with the newest runs, the served one first; 4 more have runs in this window." in detail
    assert re.findall(r'aria-current="true">([0-9a-f]{12})</a>', detail) == [current[:12]]


def test_many_models_share_the_chart_of_requests(instrument: Instrument) -> None:
    for number in range(9):
        instrument.record(1 + number, f"model-{number}")
    per_second = charts(instrument.page(since="1h"))["traffic"]["per_second"]
    assert list(per_second) == [*(f"model-{number}" for number in (8, 7, 6, 5, 4)), "4 others"]
    assert per_second["4 others"] == [1 + 2 + 3 + 4]


def test_only_the_window_is_shown(instrument: Instrument) -> None:
    instrument.record(3)
    instrument.at += 2 * 3600
    instrument.record(4)
    assert [row[5] for row in rows(instrument.page(since="1h"))] == ["4"]
    assert [row[5] for row in rows(instrument.page(since="6h"))] == ["7"]


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
    assert "over_time" not in charts(instrument.page(since="1h")), "the overview has no charts of one model"
    overall = charts(instrument.page(since="1h"))["traffic"]
    drawn = charts(instrument.page(since="1h", model="tiny"))
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
    assert overall["per_second"]["tiny-b"] == [0] * 11 + [0.75]
    assert overall["errors"] == {"queue-full": [0, 1, *[0] * 10], "unknown-model": [0] * 11 + [1]}
    assert traffic["errors"] == {"queue-full": [0, 1, *[0] * 10]}
    assert drawn["shape"]["count"] == 165
    assert dict(drawn["shape"]["curve"])[0.5] == 2.601, "the slot's upper end"
    assert sum(count for *_, count in drawn["shape"]["bins"]) == 165

    of_one = charts(instrument.page(since="1h", model="tiny-b", stage="decode"))
    assert (of_one["model"], of_one["stage"]) == ("tiny-b", "decode")
    assert list(of_one["traffic"]["per_second"]) == ["tiny-b"]
    assert of_one["traffic"]["errors"] == {}
    assert of_one["over_time"]["percentiles"]["p50"][-1] == 0.6


@pytest.mark.slow
def test_young_service_has_fine_steps_in_every_window(instrument: Instrument) -> None:
    instrument.record(2)
    for since in WINDOWS:
        assert charts(instrument.page(since=since, model="tiny"))["over_time"]["at"] == [int(NOON)], since
    instrument.at += 5 * 3600
    instrument.record(2)
    assert charts(instrument.page(since="24h", model="tiny"))["over_time"]["step_s"] == 300
    assert charts(instrument.page(since="1h", model="tiny"))["over_time"]["step_s"] == 60


def test_steps_of_the_shortest_sufficient_window() -> None:
    day, hour = WINDOWS["24h"], WINDOWS["1h"]
    assert span_for(10, day) == WINDOWS["15m"]
    assert span_for(901, day) == hour
    assert span_for(86_401, day) == day
    assert span_for(7 * 3600, Span("odd", 3, 1, 1)) == Span("odd", 3, 1, 1)


def test_comparisons_are_charted_by_inference(instrument: Instrument) -> None:
    for _ in range(4):
        instrument.recorder.record("tiny-b", "compare", {"inference": 5_000_000, "preprocess": 1_000_000})
    drawn = charts(instrument.page(regime="compare", model="tiny-b"))
    assert drawn["stage"] == "inference"
    assert drawn["over_time"]["percentiles"]["p50"] == [5.0]
    assert drawn["parts"]["means"] == {"preprocess": [1.0], "inference": [5.0]}


def test_model_without_a_total_is_shown_by_its_inference(instrument: Instrument) -> None:
    searched: Durations = {"queue": 1_000, "inference": 1_900_000, "search": 100_000}
    instrument.record(3)
    instrument.record(5, "tiny-b", searched)
    page = instrument.page()
    by_name = {row[0]: row for row in rows(page)}
    assert set(by_name) == {"tiny baseline", "tiny-b inference only"}
    row = by_name["tiny-b inference only"]
    assert (row[2][:3], row[5], row[8]) == ("1.9", "5", "–"), "an inference is not compared with a total"
    assert '<a href="/latency?regime=live&amp;since=24h">the table</a>' in page
    detail = instrument.page(model="tiny-b")
    assert "No runs of stage" not in detail
    assert [(row[0], row[5]) for row in rows(detail) if row[0].startswith("tiny-b")] == [
        ("tiny-b fastest", "5")
    ]
    assert charts(detail)["stage"] == "inference"


def test_front_is_of_totals_and_inference_and_names_its_source(rated: Instrument) -> None:
    for name in ("tiny", "tiny-b"):
        rated.record(3, name)
        rated.record(2, name, {"inference": 900_000, "total": 1_000_000}, "isolated")
    fronts = 'class="chart front"'
    live, isolated = rated.page(), rated.page(regime="isolated")
    assert fronts in live
    assert fronts in isolated
    assert "live, not a controlled benchmark: its intervals" in live
    assert "runs of benchmarks (isolated), pooled: its intervals" in isolated
    assert "live, not" not in isolated
    assert fronts in rated.page(stage="inference")
    queue = rated.page(stage="queue")
    assert fronts not in queue
    assert 'title="not compared: total and inference are compared only"' in queue


def test_benchmarked_models_are_on_the_front_without_runs(rated: Instrument) -> None:
    facts = rated.catalogue.facts()
    rated.archive.save(steady_benchmark(facts, {"tiny": 3.0, "tiny-b": 1.0}))
    until(lambda: bool(rated.catalogue.measured(facts)), "benchmarks to be judged")
    rated.record(1, "tiny")
    page = rated.page()
    assert [row[0] for row in rows(page)] == ["tiny baseline"]
    assert "by controlled benchmarks of inference on this machine" in page
    drawn = re.findall(r'<g class="(?:best|beaten)"><title>(\S+)', page)
    assert [name.rstrip(":,") for name in drawn] == ["tiny", "tiny-b"]


def test_hint_to_evaluate_only_if_accuracies_are_missing(rated: Instrument) -> None:
    rated.record(3, "tiny")
    rated.record(3, "tiny-b", {"inference": 1_000_000})
    page = rated.page()
    assert "Fewer than two of these models can be compared." in page
    assert "Not compared: tiny-b: no runs of this stage." in page
    assert "weighin evaluate" not in page, "both have accuracies; one has no total"


def test_hint_to_evaluate(instrument: Instrument) -> None:
    instrument.record(3, "tiny")
    instrument.record(3, "tiny-b")
    assert "weighin evaluate" in instrument.page()


def test_refreshes_share_cached_figures(instrument: Instrument) -> None:
    def refreshed() -> str:
        response = instrument.client.get("/dashboard/figures", params={"since": "1h"})
        assert response.status_code == 200
        assert "<html" not in response.text
        return response.text

    base_url = str(instrument.client.base_url).rstrip("/")
    instrument.record(1)
    first = refreshed()
    instrument.record(1)
    again = asyncio.run(rendered(instrument.cache, View(since="1h"), base_url, max_age_s=60)).html
    assert (again, rows(again)[-1][5]) == (first, "1"), "rendered before the second run"
    whole = instrument.page(since="1h")
    assert rows(whole)[-1][5] == "2", "who opens the page sees all of it at once"
    assert rows(refreshed()) == rows(whole)
    other = instrument.client.get("/dashboard/figures", params={"since": "1h", "model": "tiny-b"})
    assert rows(other.text) == []


def test_warm_up_renders_the_first_views(instrument: Instrument) -> None:
    instrument.record(1)
    begun = time.monotonic()
    concurrent.futures.wait(instrument.cache.warm_up())
    instrument.record(1)
    known = rendered(instrument.cache, FIRST_VIEWS[-1], max_age_s=time.monotonic() - begun)
    assert rows(asyncio.run(known).html)[-1][5] == "1", "rendered before the second run"
    assert FIRST_VIEWS[0] == View(), "what /dashboard without a query shows"


def test_request_during_the_warm_up(instrument: Instrument) -> None:
    instrument.record(1)
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go_on.wait(30)

    cache = DashboardCache(Site(), instrument.latencies, instrument.catalogue, hold)
    ahead = cache.warm_up()
    assert begun.wait(30)

    async def ask() -> str:
        asked = asyncio.create_task(rendered(cache, View(since="1h")))
        await asyncio.sleep(0)  # until it waits for the rendering under way
        go_on.set()
        return (await asked).html

    assert rows(asyncio.run(ask()))[-1][5] == "1"
    cache.close()
    assert [rendering.cancelled() for rendering in ahead] == [False, True, True]


def test_each_refresh_of_a_view_is_rendered(instrument: Instrument, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those whose query is not validated again."""
    monkeypatch.setattr(dashboard, "SHARED_FOR_S", 0.0)
    for count in ("1", "2", "3"):
        instrument.record(1)
        response = instrument.client.get("/dashboard/figures", params={"since": "1h"})
        assert rows(response.text)[-1][5] == count


def test_a_rendering_that_nobody_waits_for_is_dropped(instrument: Instrument) -> None:
    begun, go_on = threading.Event(), threading.Event()
    renderings = []

    def hold() -> None:
        renderings.append(1)
        begun.set()
        assert go_on.wait(30)

    async def gone() -> None:
        """The client has disconnected."""

    cache = DashboardCache(Site(), instrument.latencies, instrument.catalogue, hold)

    async def ask() -> None:
        first = asyncio.create_task(rendered(cache, View(since="1h")))
        await asyncio.to_thread(begun.wait, 30)
        with pytest.raises(DeadlineExceeded, match=r"no result within 0.01 s"):
            await cache.rendered(View(since="24h"), "", Deadline.after(0.01))
        with pytest.raises(ClientGone):
            await cache.rendered(View(since="7d"), "", Deadline.after(30, gone))
        await asyncio.sleep(0)  # until the dropped renderings are cancelled
        go_on.set()
        await first

    asyncio.run(ask())
    cache.close()
    assert renderings == [1]


async def rendered(
    cache: DashboardCache, view: View, base_url: str = "", *, max_age_s: float = 0
) -> Rendered:
    return await cache.rendered(view, base_url, Deadline.after(30), max_age_s=max_age_s)


def test_removed_model_is_still_shown(instrument: Instrument) -> None:
    instrument.record(2, "gone")
    assert [(row[0], row[5]) for row in rows(instrument.page(model="gone"))] == [("gone", "2")]
    assert '<option value="gone">' in instrument.page()


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [
        ({"model": "resnet"}, 404, "tiny, tiny-b"),
        ({"regime": "dead"}, 422, "live"),
        ({"stage": "lunch"}, 422, "decode"),
        ({"since": "1 fortnight"}, 422, "24h"),
        ({"sort": "beauty"}, 422, "p50"),
        ({"baseline": "resnet"}, 404, "tiny, tiny-b"),
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
    assert [link for link in code.links if not re.match(r"#\w|[.]?/(?!/)", link)] == []
    for link in code.links:
        if link.startswith("/static/"):
            assert instrument.client.get(link).status_code == 200, link


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.0412, "0.0412"),
        (0.31, "0.310"),
        (1, "1.00"),
        (9.9994, "10.0"),
        (99.96, "100"),
        (118.7, "119"),
        (999.7, "1000"),
        (1234.56, "1235"),
    ],
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert three_digits(value) == text


def test_errors_are_sorted_by_count() -> None:
    assert errors_text({"busy": 2, "queue-full": 11, "a": 2}) == "11 queue-full, 2 a, 2 busy"
    assert errors_text({}) == ""


def test_page_counts_a_request_at_once(serve: Callable[..., httpx.Client], cat_jpeg: bytes) -> None:
    """End to end: the page counts an image that was just classified."""
    client = serve()
    assert client.post("/classify", content=cat_jpeg).status_code == 200
    page = client.get("/dashboard").text
    assert [(row[0], row[5]) for row in rows(page)] == [("tiny baseline", "1")]
    assert client.get("/dashboard", params={"model": "tinny"}).status_code == 404
    assert client.get("/dashboard", params={"utm_source": "mail"}).status_code == 200
