"""The benchmark page: lists runs, shows one, compares two, and escapes their content."""

from __future__ import annotations

import dataclasses
import html
import json
import platform
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from service.bench.archive import BenchmarkArchive
from service.bench.bundle import Flag
from service.bench.store import BenchmarkStore
from service.settings import Settings
from service.storage.database import open_database
from service.web.benchmark_page import BenchmarksPage
from tests.helpers.pages import Code, names_in
from tests.service.bench.bundles import fingerprint
from tests.service.bench.judge.test_regression import run
from tests.service.conftest import running

EVIL = "\"'><script>alert(1)</script>&amp;"


class Kept:
    """Ids of runs stored before the service starts, by their special property."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        engine = open_database(None, folder)
        store = BenchmarkStore(engine)
        archive = BenchmarkArchive(store)
        self.then = archive.save(run(1))
        self.slower = archive.save(run(2, b=2.2))
        self.elsewhere = archive.save(run(2, on=fingerprint("Other CPU")))
        self.doubtful = archive.save(run(3, flags=[Flag(kind="dirty", reason=EVIL)]))
        asked = {"profile": "quick", "scenario": "offline", "models": [EVIL]}
        store.begin("evil", json.dumps(asked), 5.0)
        store.finish("evil", "failed", 6.0, detail=EVIL)
        engine.dispose()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    return Kept(tmp_path_factory.mktemp("kept") / "data")


@pytest.fixture(scope="module")
def page(tiny_models_dir: Path, kept: Kept) -> Iterator[httpx.Client]:
    settings = Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=kept.folder)
    with running(settings) as client:
        yield client


def get(client: httpx.Client, **query: str) -> str:
    response = client.get("/dashboard/benchmarks", params=query)
    assert response.status_code == 200, response.text
    return response.text


def table(text: str, name: str) -> list[list[str]]:
    """Return the cell texts of each body row of the table in the region `name`."""
    body = text.partition(f'aria-label="{name}"')[2].partition("<tbody>")[2].partition("</tbody>")[0]
    return [
        [
            html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
            for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)
        ]
        for row in body.split("</tr>")
        if "<td" in row
    ]


def test_template_variables_equal_the_dataclass_fields() -> None:
    fields = dataclasses.fields(BenchmarksPage)
    assert names_in("benchmarks.html") == {field.name for field in fields}
    for field in fields:
        assert len(field.metadata["help"]) > 8, field.name


def test_page_without_runs(tiny_settings: Settings) -> None:
    with running(tiny_settings) as client:
        text = get(client)
    assert "No benchmarks yet" in text
    assert 'value="tiny-b"' in text
    assert 'name="key"' not in text


def test_key_field_is_shown_if_a_key_is_set(tiny_settings: Settings) -> None:
    with running(tiny_settings.model_copy(update={"api_key": SecretStr("s3cret")})) as client:
        text = get(client)
    assert 'name="key" type="password"' in text
    assert "s3cret" not in text


def test_only_measured_runs_can_be_selected(page: httpx.Client, kept: Kept) -> None:
    text = get(page)
    listed = table(text, "Runs")
    assert len(listed) == 5
    assert [row[3] for row in listed].count("done") == 4
    assert listed[-1][2:6] == ["1970-01-01 00:00", f"failed{EVIL}", "", f"quick, offline: {EVIL}"]
    here = platform.node()
    machines = sorted(row[4] for row in listed[:4])  # of runs of one millisecond, any is the first
    assert machines == [f"Other CPU, 2 cores ({here})"] + 3 * [f"Test CPU, 2 cores ({here})"]
    assert {row[5] for row in listed[:4]} == {"standard, single-stream: a, b"}
    assert text.count('name="first"') == text.count('name="second"') == 4
    assert f'href="/benchmarks/{kept.then}/bundle"' in text


def test_selected_run_shows_results_and_warnings(page: httpx.Client, kept: Kept) -> None:
    text = get(page, first=kept.then)
    assert "<p>Measured on Test CPU, 2 cores</p>" in text
    rows = table(text, "Results of one run")
    assert [row[:2] for row in rows] == [["a", "1600"], ["b", "1600"]]
    assert 1.9 < float(rows[1][2]) < 2.1
    bound, estimate = (float(each) for each in re.findall(r"[\d.]+", rows[1][4]))
    assert bound >= estimate > 2.0
    assert rows[1][7].startswith("0.5")
    assert rows[1][8] == "slower"
    assert f"dirty: {EVIL}" in html.unescape(get(page, first=kept.doubtful))


def test_two_selected_runs_are_compared(page: httpx.Client, kept: Kept) -> None:
    text = get(page, first=kept.then, second=kept.slower)
    rows = {row[0]: row for row in table(text, "Comparison of two runs")}
    assert rows["a"][5:] == ["indistinguishable", ""]
    assert rows["b"][3].startswith("+10.")
    assert rows["b"][5:] == ["slower", "regressed"]
    assert f'name="first" value="{kept.then}" aria-label="{kept.then} as the first" checked' in text
    assert f'name="second" value="{kept.slower}" aria-label="{kept.slower} as the second" checked' in text


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ("elsewhere", "different machines (cpu model: Test CPU, there Other CPU)"),
        ("nothing", "no benchmark 'nothing'"),
        ("evil", "benchmark 'evil' has no measurement"),
    ],
)
def test_impossible_comparison_shows_the_reason(
    page: httpx.Client, kept: Kept, second: str, words: str
) -> None:
    text = get(page, first=kept.then, second=getattr(kept, second, second))
    assert words in html.unescape(text)
    assert len(table(text, "Runs")) == 5


def test_run_content_is_escaped(page: httpx.Client, kept: Kept) -> None:
    for query in (
        {},
        {"first": kept.doubtful},
        {"first": kept.then, "second": kept.doubtful},
        {"first": EVIL},
    ):
        text = get(page, **query)
        assert "<script>" not in text
        code = Code()
        code.feed(text)
        assert code.found == []
        assert [link for link in code.links if not re.match(r"#\w|/(?!/)", link)] == []
