"""The dashboard in a browser: the figures of the API, kept current, shared by its URL, safe and usable."""

from __future__ import annotations

import math
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import Page, expect

from models.zoo.card import Accuracy, read_card, write_card
from service.bench.archive import BenchmarkArchive
from service.bench.bundle import ModelFacts
from service.bench.recommend.advice import this_machine
from service.bench.store import BenchmarkStore
from service.latency.prometheus import Metrics
from service.latency.recorder import Recorder
from service.latency.store import LatencyStore
from service.state import open_state
from service.storage.database import open_database
from tests.conftest import make_tiny_model
from tests.helpers.process import ServiceProcess, service_process
from tests.service.bench import bundles
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]
SOON_MS = 20_000  # a page refreshes itself every five seconds
CHARTS = ("over-time", "curve", "bins", "stages", "rates", "refusals")
"""Charts of a model's detail; the last two are also in the view of all models."""
EVIL = "<img src=x onerror='window.injected=1'><b>evil</b>"


class Served:
    """A service with two tiny models that has answered 70 requests to each, and some that failed."""

    def __init__(self, client: httpx.Client, image: bytes) -> None:
        self.client = client
        self.url = str(client.base_url).rstrip("/")
        self.image = image
        for model in ("tiny", "tiny-b"):
            self.post(70, model)
        for _ in range(3):
            client.post("/classify?model=tiny", content=b"no image")

    def post(self, count: int, model: str) -> None:
        for _ in range(count):
            assert self.client.post(f"/classify?model={model}", content=self.image).status_code == 200


@pytest.fixture(scope="module")
def served(
    tiny_models_dir: Path, cat_jpeg: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    data_dir = tmp_path_factory.mktemp("dashboard")
    with service_process(tiny_models_dir, data_dir) as process, process.client() as client:
        yield Served(client, cat_jpeg)


def cells(page: Page, model: str) -> list[str]:
    """The texts of a model's row after the chart: p50, p90, p99, runs, accuracy, MB, speed-up, front."""
    found: list[str] = page.evaluate(
        """(model) => {
          for (const row of document.querySelectorAll("#figures tr[data-model]")) {
            if (row.dataset.model === model) {
              return [...row.querySelectorAll("td:not(.chart)")].map((cell) => cell.textContent);
            }
          }
          return [];
        }""",
        model,
    )
    return found


def names(page: Page) -> list[str]:
    """The models in the order of their rows."""
    found: list[str] = page.evaluate(
        "[...document.querySelectorAll('#figures tr[data-model]')].map((row) => row.dataset.model)"
    )
    return found


MARKS = """() => {
  const { low, high, log } = document.querySelector("table.models").dataset;
  const charts = {};
  for (const row of document.querySelectorAll("#figures tr[data-model]")) {
    const box = row.querySelector(".marks").getBoundingClientRect();
    const bounds = (part) => part.getBoundingClientRect();
    const middle = (part) => part === null ? null : (bounds(part).left + bounds(part).right) / 2;
    const end = (part) => part === null ? null : bounds(part).right;
    charts[row.dataset.model] = {
      left: box.left, width: box.width,
      p50: middle(row.querySelector(".marks .p50")),
      p90: middle(row.querySelector(".marks .p90")),
      to_p90: end(row.querySelector(".marks .to-p90")),
      grid: [bounds(row.querySelector(".marks .grid")).left, bounds(row.querySelector(".marks .grid")).right],
      p99: middle(row.querySelector(".marks .p99")),
      base: middle(row.querySelector(".marks .base")),
      parts: [...row.querySelectorAll(".marks .part")].map((part) => [part.classList[1], bounds(part).width]),
    };
  }
  const ticks = [...document.querySelectorAll(".ticks text")].map((tick) => Number(tick.textContent));
  return { low: Number(low), high: Number(high), log: log === "yes", ticks, charts };
}"""


def position(axis: dict[str, Any], chart: dict[str, Any], ms: float) -> float:
    """Where `ms` is on the screen, in pixels."""
    low, high = axis["low"], axis["high"]
    share = math.log(ms / low) / math.log(high / low) if axis["log"] else ms / high
    return float(chart["left"] + share * chart["width"])


def drawn(page: Page) -> None:
    """Wait until every chart is drawn."""
    page.wait_for_selector("body[data-drawn]")


@pytest.mark.parametrize("width", [360, 1280])
def test_marks_and_figures_equal_the_api(visit: Visit, served: Served, width: int) -> None:
    served.post(600, "tiny")  # enough for a p99
    page = visit(f"{served.url}/dashboard", width=width).page
    rows = {row["model"]: row for row in served.client.get("/latency?stage=total").json()["latencies"]}
    assert set(names(page)) == set(rows) == {"tiny", "tiny-b"}
    axis = page.evaluate(MARKS)
    withheld = 0
    for name, row in rows.items():
        shown, chart = cells(page, name), axis["charts"][name]
        for index, percentile in enumerate(("p50", "p90", "p99")):
            ms = row[f"{percentile}_ms"]
            if ms is None:
                assert (shown[index], chart[percentile]) == ("–", None)
                withheld += 1
            else:
                assert float(shown[index]) == pytest.approx(ms, rel=5e-3), "three digits"
                assert chart[percentile] == pytest.approx(position(axis, chart, ms), abs=1), percentile
        assert chart["to_p90"] == pytest.approx(chart["p90"], abs=1)
        ends = (
            [position(axis, chart, ms) for ms in (axis["ticks"][0], axis["ticks"][-1])]
            if axis["log"]
            else [
                chart["left"],
                position(axis, chart, axis["ticks"][-1]),
            ]
        )
        assert chart["grid"] == pytest.approx(ends, abs=1), "lines at the ticks"
        assert int(shown[3]) == row["count"]
        assert chart["base"] == pytest.approx(position(axis, chart, rows["tiny"]["p50_ms"]), abs=1)
        speedup = rows["tiny"]["p50_ms"] / row["p50_ms"]
        assert float(shown[6]) == pytest.approx(speedup, rel=5e-3)
    assert withheld == 1, "the p99 of the second model"
    assert f"p99 {cells(page, 'tiny')[2]} ms" in page.locator(".answers").inner_text(), (
        "the p99 of the baseline"
    )
    assert page.get_by_role("cell", name="3 unknown-image-type").is_visible()


def test_stacked_stages_equal_the_api(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_role("link", name="show stages").click()
    page.wait_for_selector(".marks .part", state="attached")
    axis = page.evaluate(MARKS)
    assert not axis["log"]
    means: dict[str, dict[str, float]] = {}
    for row in served.client.get("/latency").json()["latencies"]:
        if row["stage"] != "total":
            means.setdefault(row["model"], {})[row["stage"]] = row["mean_ms"]
    for name, of_stage in means.items():
        chart = axis["charts"][name]
        assert dict(chart["parts"]).keys() == {stage for stage, ms in of_stage.items() if ms}
        for stage, pixels in chart["parts"]:
            assert pixels == pytest.approx(of_stage[stage] / axis["high"] * chart["width"], abs=1), stage
    page.get_by_role("link", name="show percentiles").click()
    page.wait_for_selector(".marks .p50", state="attached")


def test_sort_by_click_and_keyboard(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    by_p50 = names(page)
    page.get_by_role("columnheader", name="p50").get_by_role("link").click()
    expect(page.get_by_role("columnheader", name="p50")).to_have_attribute("aria-sort", "descending")
    assert names(page) == by_p50[::-1]
    page.get_by_role("columnheader", name="model").get_by_role("link").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="model")).to_have_attribute("aria-sort", "ascending")
    assert names(page) == ["tiny", "tiny-b"]
    assert dict(httpx.URL(page.url).params) == {"sort": "model"}
    page.reload()
    assert names(page) == ["tiny", "tiny-b"]
    page.go_back()
    expect(page.get_by_role("columnheader", name="p50")).to_have_attribute("aria-sort", "descending")


def test_baseline_of_choice(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_role("combobox", name="Baseline").select_option("tiny-b")
    expect(page.locator("tr[data-model=tiny-b]")).to_contain_text("baseline")
    assert cells(page, "tiny-b")[6] == "1.00"
    axis = page.evaluate(MARKS)
    chart = axis["charts"]["tiny"]
    p50 = float(cells(page, "tiny-b")[0])
    assert chart["base"] == pytest.approx(position(axis, chart, p50), abs=1)


def test_detail_is_one_click_away(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?since=1h").page
    drawn(page)
    assert page.locator("#over-time").is_hidden()
    page.get_by_role("link", name="tiny-b").first.click()
    page.get_by_role("heading", name="tiny-b").wait_for()
    expect(page.locator("#over-time")).to_be_visible()
    assert dict(httpx.URL(page.url).params) == {"since": "1h", "model": "tiny-b"}
    stages = page.get_by_role("region", name="Stages of tiny-b")
    rows = {row["stage"]: row for row in served.client.get("/latency?model=tiny-b").json()["latencies"]}
    for row in stages.locator("tbody tr").all():
        stage, count, p50, p90 = row.locator("th, td").all_text_contents()[:4]
        assert int(count) == rows[stage]["count"]
        assert float(p50) == pytest.approx(rows[stage]["p50_ms"], rel=5e-3)
        assert float(p90) == pytest.approx(rows[stage]["p90_ms"], rel=5e-3)
    page.get_by_role("link", name="all models").click()
    expect(page.locator("#over-time")).to_be_hidden()
    assert set(names(page)) == {"tiny", "tiny-b"}


def test_demo_from_the_empty_page(visit: Visit, tiny_models_dir: Path, tmp_path: Path) -> None:
    with service_process(tiny_models_dir, tmp_path / "data") as process, process.client() as client:
        one = visit(f"{str(client.base_url).rstrip('/')}/dashboard")
        one.page.get_by_text("Nothing recorded in this window").wait_for()
        one.page.get_by_role("button", name="Run the demo").click()
        expect(one.page.locator("#demo-state")).to_have_text("128 of 128 runs")
        one.page.get_by_text("Demo data").wait_for(timeout=SOON_MS)
        expect(one.page.locator("tr[data-model=tiny-b] td").nth(4)).to_have_text("64", timeout=SOON_MS)
        assert client.get("/latency").json()["latencies"] == [], "live figures stay as they were"
        assert one.violations() == []


def test_charts_zoom_by_keyboard_and_mouse(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?since=1h&model=tiny").page
    drawn(page)
    for chart in CHARTS:
        assert page.locator(f"#{chart} .main-svg .trace, #{chart} .main-svg .points").count() > 0, chart
    span = (
        "(() => { const [a, b] = document.getElementById('bins')._fullLayout.xaxis.range; return b - a; })()"
    )
    whole = page.evaluate(span)
    page.locator("#bins").focus()
    page.keyboard.press("+")
    assert page.evaluate(span) == pytest.approx(whole / 2)
    page.keyboard.press("ArrowRight")
    assert page.evaluate(span) == pytest.approx(whole / 2)
    page.evaluate("document.getElementById('refresh').textContent = ''")
    expect(page.locator("#refresh")).to_contain_text("last at", timeout=SOON_MS)
    assert page.evaluate(span) == pytest.approx(whole / 2), "a refresh leaves the reader's zoom alone"
    page.keyboard.press("0")
    assert page.evaluate(span) == pytest.approx(whole)
    page.locator("#bins").scroll_into_view_if_needed()
    box = page.locator("#bins .nsewdrag").first.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert page.evaluate(span) == pytest.approx(whole / 2, rel=0.1)


@pytest.mark.parametrize("query", ["since=1h", "since=1h&model=tiny"])
def test_charts_have_room_for_labels_and_legend(visit: Visit, served: Served, query: str) -> None:
    page = visit(f"{served.url}/dashboard?{query}").page
    drawn(page)
    room = page.evaluate(
        """async () => {
          const room = [];
          function measure(box) {
            const { _size: size, margin } = box._fullLayout;
            room.push([box.id, ...["l", "t", "b"].map((side) => size[side] - margin[side])]);
          }
          for (const box of [...document.querySelectorAll(".plot")].filter((box) => box._fullLayout)) {
            measure(box);
            // data decide where the highest label is: put it at the very top, where it needs most room
            const highest = box._fullLayout.yaxis._vals.at(-1).x;
            await Plotly.relayout(box, { "yaxis.range": [0, highest], "yaxis.dtick": highest });
            measure(box);
          }
          return room;
        }"""
    )
    assert {chart for chart, *_ in room} >= (set(CHARTS) if "model" in query else {"rates"})
    assert [more for _, *more in room] == [[0, 0, 0]] * len(room), "else Plotly draws a chart twice"


def test_legend_takes_no_more_room_than_it_needs(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?since=1h&model=tiny", width=360).page
    drawn(page)
    room = page.evaluate(
        """() => [...document.querySelectorAll(".plot")].filter((box) => box.querySelector(".legend"))
          .map((box) => box._fullLayout._size.t - box.querySelector(".legend").getBBox().height)"""
    )
    assert len(room) == 4
    assert max(room) < 30, "more would be another row of entries"


def test_refresh_keeps_unchanged_elements(visit: Visit, served: Served) -> None:
    one = visit(f"{served.url}/dashboard?model=tiny-b&stage=total")
    page = one.page
    before = int(cells(page, "tiny-b")[3])
    page.evaluate("document.querySelector('#figures tbody tr').mark = 'kept'")
    page.locator("#figures .scroll").first.focus()
    served.post(5, "tiny-b")
    runs = page.locator("tr[data-model=tiny-b] td").nth(4)
    expect(runs).to_have_text(str(before + 5), timeout=SOON_MS)
    assert page.evaluate("document.querySelector('#figures tbody tr').mark") == "kept"
    assert page.evaluate("document.activeElement.className") == "scroll"
    assert "Refreshed every 5 s" in page.locator("#refresh").inner_text()


def test_filters_in_the_url(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_role("combobox", name="Model").select_option("tiny-b")
    page.get_by_role("combobox", name="Stage").select_option("decode")
    page.get_by_role("combobox", name="Window").select_option("1h")
    shown = page.get_by_role("region", name="Stages of tiny-b").locator("[aria-current]")
    expect(shown).to_have_text("decode")
    assert dict(httpx.URL(page.url).params) == {"model": "tiny-b", "stage": "decode", "since": "1h"}
    page.reload()
    assert page.get_by_role("combobox", name="Model").input_value() == "tiny-b"
    assert page.get_by_role("combobox", name="Stage").input_value() == "decode"
    expect(shown).to_have_text("decode")
    page.go_back()
    expect(page.get_by_role("combobox", name="Window")).to_have_value("24h")
    assert page.get_by_role("combobox", name="Stage").input_value() == "decode"
    regimes = page.get_by_role("combobox", name="Regime").locator("option").all_text_contents()
    assert regimes == ["most runs (live)", "live"], "only regimes that have runs"


def test_regime_without_runs(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?regime=load").page
    page.get_by_text("Nothing recorded in this window").wait_for()
    assert page.locator("#charts").is_hidden()
    page.get_by_role("link", name=re.compile("live")).click()
    expect(page.locator("#charts")).to_be_visible()


def test_choose_a_view_by_keyboard(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?model=tiny").page
    page.get_by_role("combobox", name="Stage").focus()
    page.keyboard.type("inference")
    expect(page.get_by_role("region", name="Stages of tiny").locator("[aria-current]")).to_have_text(
        "inference"
    )
    seen: list[str] = []
    page.locator("#main").focus()
    while len(seen) < 60:
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
    assert {"regime", "model", "stage", "since", "baseline", "version", *CHARTS} <= set(seen)


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("query", ["", "?stage=all", "?model=tiny"])
def test_a_full_page_is_in_order(visit: Visit, served: Served, query: str, scheme: str, width: int) -> None:
    one = visit(f"{served.url}/dashboard{query}", width=width, color_scheme=scheme)
    drawn(one.page)
    assert one.overflow() == 0
    assert one.violations() == []


def test_unreachable_server(visit: Visit, tiny_models_dir: Path, tmp_path: Path, cat_jpeg: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def started() -> AbstractContextManager[ServiceProcess]:
        return service_process(tiny_models_dir, tmp_path / "data", port=port)

    with started() as process, process.client() as client:
        assert client.post("/classify", content=cat_jpeg).status_code == 200
        one = visit(f"http://127.0.0.1:{port}/dashboard")
        one.allow("ERR_CONNECTION|ERR_EMPTY_RESPONSE")
        assert cells(one.page, "tiny")[3] == "1"
        process.popen.send_signal(signal.SIGTERM)
        process.wait()
    alert = one.page.locator("#trouble")
    gone = re.compile(r"does not answer, since \d.*Showing figures from \d")
    expect(alert).to_have_text(gone, timeout=SOON_MS)
    assert cells(one.page, "tiny")[3] == "1", "what was known is still shown"
    assert one.violations() == []
    with started() as process, process.client() as client:
        expect(alert).to_be_empty(timeout=SOON_MS)
        assert not one.page.evaluate("document.body.classList.contains('stale')")
        assert client.post("/classify", content=cat_jpeg).status_code == 200
        expect(one.page.locator("tr[data-model=tiny] td").nth(4)).to_have_text("2", timeout=SOON_MS)


def test_model_name_with_markup(visit: Visit, tiny_models_dir: Path, tmp_path: Path) -> None:
    state = open_state(tmp_path / "data", None)
    recorder = Recorder(state.latencies, Metrics({}))
    recorder.record(EVIL, "live", {"total": 5_000_000, "inference": 4_000_000})
    recorder.record_error(EVIL, "live", EVIL)
    recorder.start()
    recorder.close()
    state.close()
    with service_process(tiny_models_dir, tmp_path / "data") as process, process.client() as client:
        one = visit(f"{str(client.base_url).rstrip('/')}/dashboard")
        drawn(one.page)
        assert cells(one.page, EVIL)[3] == "1"
        assert EVIL in one.page.locator("#rates .legendtext").first.text_content()  # type: ignore[operator]
        assert one.page.locator("main img, td b, th b").count() == 0
        one.page.get_by_role("link", name=EVIL).first.click()
        expect(one.page.locator("#over-time-of")).to_contain_text(EVIL)
        assert one.page.locator("main img, td b, th b, h2 b").count() == 0
        assert one.page.evaluate("window.injected") is None


@pytest.fixture(scope="module")
def weighed(cat_jpeg: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A service whose two models have accuracies, and were measured on this machine."""
    zoo, data_dir = tmp_path_factory.mktemp("weighed-zoo"), tmp_path_factory.mktemp("weighed-data")
    random = np.random.default_rng(0)
    samples: dict[str, Any] = {}
    for seed, (name, ms, accuracy) in enumerate((("tiny", 1.0, 0.6), ("tiny-b", 3.0, 0.8))):
        folder = make_tiny_model(zoo, name, seed=seed)
        card = read_card(folder)
        known = Accuracy(value=accuracy, kind="reported", dataset="imagenet-1k", n=1000, how="test")
        write_card(folder, card.model_copy(update={"accuracy": known}))
        samples[name] = [
            [(random.normal(ms, 0.01 * ms, 40) * 1e6).astype(int).tolist() for _ in range(5)]
            for _ in range(5)
        ]
    facts = tuple(ModelFacts.of(read_card(zoo / name)) for name in samples)
    engine = open_database(None, data_dir)
    made = bundles.bundle(samples, on=this_machine()).model_copy(update={"models": facts})
    BenchmarkArchive(BenchmarkStore(engine)).save(made)
    engine.dispose()
    with service_process(zoo, data_dir) as process, process.client() as client:
        for name in samples:
            for _ in range(8):
                assert client.post(f"/classify?model={name}", content=cat_jpeg).status_code == 200
        yield str(client.base_url).rstrip("/")


def test_front_of_benchmarks(visit: Visit, weighed: str) -> None:
    one = visit(f"{weighed}/dashboard")
    front = one.page.locator("figure.front")
    expect(front).to_contain_text("by controlled benchmarks", timeout=SOON_MS)
    expect(one.page.locator(".said").first).to_contain_text("dominated models of tiny-10: by benchmarks")
    measured = httpx.get(f"{weighed}/recommend", trust_env=False).json()["measured"]
    tips = front.locator("g > title").all_text_contents()
    assert [tip.split(":")[0] for tip in tips] == ["tiny", "tiny-b"]
    for tip, model in zip(tips, measured, strict=True):
        accuracy = model["accuracy"]
        assert f"{accuracy['value']:.1%} [{accuracy['low']:.1%}, {accuracy['high']:.1%}]" in tip
        assert f"{model['p50_ms']:.3g} ms" in tip
    assert [cells(one.page, name)[7] for name in ("tiny", "tiny-b")] == ["front", "front"]
    assert one.page.locator("tr[data-model=tiny-b]").get_by_text("most accurate").is_visible()
    assert one.violations() == []
    assert one.overflow() == 0


def test_a_machine_is_chosen(visit: Visit, tiny_models_dir: Path, cat_jpeg: bytes, tmp_path: Path) -> None:
    """The choice appears once another machine has runs, and stays chosen when another value changes."""
    slow = "Slow CPU, 3 cores"
    with service_process(tiny_models_dir, tmp_path / "data") as process, process.client() as client:
        assert client.post("/classify?model=tiny", content=cat_jpeg).status_code == 200
        one = visit(f"{str(client.base_url).rstrip('/')}/dashboard")
        page = one.page
        drawn(page)
        choice = page.get_by_label("Machine")
        expect(choice).to_be_hidden()
        engine = open_database(None, tmp_path / "data")
        replica = Recorder(LatencyStore(engine, machine=slow), Metrics({}))
        for _ in range(3):
            replica.record("tiny", "live", {"inference": 900_000_000, "total": 1_000_000_000})
        replica.flush()
        engine.dispose()
        expect(choice).to_be_visible(timeout=SOON_MS)
        expect(page.locator("#figures .warn")).to_contain_text("Pooled runs of 2 machines")
        choice.select_option(slow)
        expect(page.locator("#figures")).to_contain_text(f"Only runs of {slow}; show instead: all, pooled")
        assert cells(page, "tiny")[3] == "3"
        page.get_by_label("Window").select_option("1h")
        expect(page.locator(".said").first).to_contain_text("last 1 hour")
        assert cells(page, "tiny")[3] == "3"
        assert "machine=Slow+CPU" in page.url
        page.get_by_role("link", name="all, pooled").click()
        expect(page.locator("#figures .warn")).to_contain_text("Pooled runs of 2 machines")
        expect(choice).to_have_value("")
        page.locator("#figures .warn").get_by_role("link", name=slow).click()
        expect(choice).to_have_value(slow)
        assert one.overflow() == 0
        assert one.violations() == []


def test_without_benchmarks_it_says_so(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_text("live, not a controlled benchmark").first.wait_for()
    page.get_by_text("Fewer than two of these models can be compared. To measure accuracies").wait_for()
