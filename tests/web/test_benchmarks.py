"""The benchmark page in a browser: a run is started, watched, cancelled, listed, and two are compared."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from service.bench.archive import BenchmarkArchive
from service.bench.store import BenchmarkStore
from service.storage.database import open_database
from tests.helpers.process import service_process
from tests.service.bench.judge.test_regression import run
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]


class Service:
    """A service by which two runs were kept, the second slower, before it started."""

    def __init__(self, data_dir: Path) -> None:
        engine = open_database(None, data_dir)
        archive = BenchmarkArchive(BenchmarkStore(engine))
        self.then = archive.save(run(1))
        self.slower = archive.save(run(2, b=2.2))
        self.page = ""
        engine.dispose()


@pytest.fixture(scope="module")
def service(tiny_models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    data_dir = tmp_path_factory.mktemp("benchmarks")
    kept = Service(data_dir)
    with service_process(tiny_models_dir, data_dir) as process, process.client() as client:
        kept.page = str(client.base_url.join("/dashboard/benchmarks"))
        yield kept


def test_compare_two_runs_by_keyboard(visit: Visit, service: Service) -> None:
    one = visit(service.page)
    page = one.page
    for label in (f"{service.then} as the first", f"{service.slower} as the second"):
        page.get_by_role("radio", name=label).focus()
        page.keyboard.press("Space")
    page.get_by_role("button", name="Compare").focus()
    page.keyboard.press("Enter")
    row = page.get_by_role("row").filter(has_text="regressed")
    row.wait_for()
    assert "+10." in row.inner_text()
    page.reload()
    row.wait_for()
    for width in (360, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        assert one.overflow() == 0
    assert one.violations() == []


def test_start_and_watch_a_run(visit: Visit, service: Service) -> None:
    one = visit(service.page)
    page = one.page
    page.get_by_role("checkbox", name="tiny", exact=True).check()
    page.get_by_role("button", name="Start").click()
    page.get_by_text("process 2 of 3").wait_for(timeout=60_000)
    page.get_by_role("heading", name=f"Running on {platform.node()}: ").wait_for()
    assert 0 < page.evaluate("document.getElementById('bar').value") < 1
    assert one.violations() == []
    other = visit(service.page).page
    other.get_by_text("process 3 of 3").wait_for(timeout=60_000)
    page.locator("#progress").wait_for(state="hidden", timeout=60_000)
    newest = page.locator("#runs tbody tr").first
    newest.get_by_text("done").wait_for()
    assert "quick, single-stream: tiny" in newest.inner_text()
    assert platform.node() in newest.inner_text()
    assert page.locator("#trouble").inner_text() == ""
    newest.get_by_role("link").first.click()
    page.get_by_role("heading", name="Results of").wait_for()
    assert page.get_by_role("row").filter(has_text="tiny#again").is_visible()
    assert one.violations() == []


def test_cancelled_and_refused_runs(visit: Visit, service: Service) -> None:
    one = visit(service.page)
    one.allow("422|503")
    page = one.page
    trouble = page.locator("#trouble")
    page.get_by_role("combobox", name="Scenario").select_option("server")
    page.get_by_role("button", name="Start").click()
    expect(trouble).to_contain_text("budget")
    page.get_by_role("combobox", name="Scenario").select_option("single-stream")
    page.get_by_role("combobox", name="Profile").select_option("publish")
    page.get_by_role("button", name="Start").click()
    page.get_by_text("process 1 of 10").wait_for(timeout=60_000)
    page.get_by_role("button", name="Start").click()
    expect(trouble).to_contain_text("is running (limit: 1)")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#progress").wait_for(state="hidden", timeout=60_000)
    expect(trouble).to_contain_text("cancelled")
    expect(page.locator("#runs tbody tr").first).to_contain_text("cancelled")
