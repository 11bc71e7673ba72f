"""The dashboard in a browser: the figures of the API, kept current, shared by its URL, safe and usable."""

from __future__ import annotations

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


def cells(page: Page, model: str, stage: str) -> list[str]:
    """The texts of a row of the table: count, p50, p90, p95, p99."""
    found: list[str] = page.evaluate(
        """([model, stage]) => {
          let group = "";
          for (const row of document.querySelectorAll("#figures tbody tr")) {
            const head = row.querySelector("th");
            if (head) group = head.textContent;
            const texts = [...row.querySelectorAll("td")].map((cell) => cell.textContent);
            if (group === model && texts[0] === stage) return texts.slice(1, 6);
          }
          return [];
        }""",
        [model, stage],
    )
    return found


def drawn(page: Page) -> None:
    """Wait until every chart is drawn."""
    page.wait_for_selector("body[data-drawn]")


def test_figures_equal_the_api(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?stage=all").page
    rows = served.client.get("/latency").json()["latencies"]
    assert len(rows) == 12
    for row in rows:
        count, p50, p90, p95, p99 = cells(page, row["model"], row["stage"])
        assert (int(count), float(p50)) == (row["count"], row["p50_ms"])
        assert float(p90) == row["p90_ms"]
        assert (p95, p99) == ("–", "–")
    assert page.get_by_role("cell", name="3 unknown-image-type").is_visible()


def test_charts_zoom_by_keyboard_and_mouse(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard?since=1h").page
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


def test_refresh_keeps_unchanged_elements(visit: Visit, served: Served) -> None:
    one = visit(f"{served.url}/dashboard?model=tiny-b&stage=total")
    page = one.page
    before = int(cells(page, "tiny-b", "total")[0])
    page.evaluate("document.querySelector('#figures tbody tr').mark = 'kept'")
    page.locator("#figures .scroll").focus()
    served.post(5, "tiny-b")
    expect(page.locator("#figures tbody td").nth(1)).to_have_text(str(before + 5), timeout=SOON_MS)
    assert page.evaluate("document.querySelector('#figures tbody tr').mark") == "kept"
    assert page.evaluate("document.activeElement.className") == "scroll"
    assert "Refreshed every 5 s" in page.locator("#refresh").inner_text()


def test_filters_in_the_url(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_role("combobox", name="Model").select_option("tiny-b")
    page.get_by_role("combobox", name="Stage").select_option("decode")
    page.get_by_role("combobox", name="Window").select_option("1h")
    expect(page.locator("#figures tbody tr")).to_have_count(1)
    query = dict(httpx.URL(page.url).params)
    assert query == {
        "regime": "live",
        "model": "tiny-b",
        "stage": "decode",
        "since": "1h",
        "version": "current",
    }
    page.reload()
    assert page.get_by_role("combobox", name="Model").input_value() == "tiny-b"
    assert page.get_by_role("combobox", name="Stage").input_value() == "decode"
    assert cells(page, "tiny-b", "decode") != []
    assert page.locator("#figures tbody tr").count() == 1
    page.go_back()
    expect(page.get_by_role("combobox", name="Window")).to_have_value("24h")
    assert page.get_by_role("combobox", name="Stage").input_value() == "decode"
    page.get_by_role("combobox", name="Regime").select_option("load")
    page.get_by_text("Nothing recorded in this window").wait_for()
    assert page.locator("#charts").is_hidden()


def test_choose_a_view_by_keyboard(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_role("combobox", name="Stage").focus()
    page.keyboard.type("inference")
    expect(page.locator("#figures tbody tr")).to_have_count(2)
    seen: list[str] = []
    page.locator("#main").focus()
    while len(seen) < 40:
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.name || ''"))
    assert {"regime", "model", "stage", "since", *CHARTS} <= set(seen)


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_full_page_is_in_order(visit: Visit, served: Served, scheme: str, width: int) -> None:
    one = visit(f"{served.url}/dashboard", width=width, color_scheme=scheme)
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
        assert cells(one.page, "tiny", "total")[0] == "1"
        process.popen.send_signal(signal.SIGTERM)
        process.wait()
    alert = one.page.locator("#trouble")
    gone = re.compile(r"does not answer, since \d.*Showing figures from \d")
    expect(alert).to_have_text(gone, timeout=SOON_MS)
    assert cells(one.page, "tiny", "total")[0] == "1", "what was known is still shown"
    assert one.violations() == []
    with started() as process, process.client() as client:
        expect(alert).to_be_empty(timeout=SOON_MS)
        assert not one.page.evaluate("document.body.classList.contains('stale')")
        assert client.post("/classify", content=cat_jpeg).status_code == 200
        expect(one.page.locator("#figures tbody td").nth(1)).to_have_text("2", timeout=SOON_MS)


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
        assert cells(one.page, EVIL, "total")[0] == "1"
        assert EVIL in one.page.locator("#over-time-of").inner_text()
        assert EVIL in one.page.locator("#rates .legendtext").first.text_content()  # type: ignore[operator]
        assert one.page.locator("main img, main b").count() == 0
        assert one.page.evaluate("window.injected") is None


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
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
        yield str(client.base_url).rstrip("/")


def test_error_bars(visit: Visit, weighed: str) -> None:
    one = visit(f"{weighed}/dashboard")
    page = one.page
    page.wait_for_selector("#pareto .xerror, #pareto .errorbar", state="attached")
    assert page.locator("#pareto .errorbar").count() == 2
    assert page.locator("#pareto .textpoint").all_text_contents() == ["tiny", "tiny-b"]
    caption = page.locator("#pareto-of").inner_text()
    assert "95 % intervals" in caption
    assert "accuracy on imagenet-1k, which may differ on your pictures: run `weighin evaluate" in caption
    shown = page.evaluate(
        """document.getElementById('pareto').data.map(
          (one) => [one.x, one.y, one.error_x.array, one.error_y.array])"""
    )
    measured = httpx.get(f"{weighed}/recommend", trust_env=False).json()["measured"]
    assert [x for trace in shown for x in trace[0]] == [each["p50_ms"] for each in measured]
    ups = [each["p50_high_ms"] - each["p50_ms"] for each in measured]
    assert [up for trace in shown for up in trace[2]] == pytest.approx(ups)
    assert all(up > 0 for trace in shown for up in trace[3])
    assert one.violations() == []


def test_without_benchmarks_it_says_so(visit: Visit, served: Served) -> None:
    page = visit(f"{served.url}/dashboard").page
    page.get_by_text("no benchmark on this machine yet").wait_for()
