"""The parts common to all pages: frame, static files and their caching, Content-Security-Policy."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import httpx
import pytest

from service.web.assets import IMMUTABLE, Assets, ChartLibrary
from service.web.site import HERE, NAVIGATION, Frame, Link, policy
from tests.helpers.pages import names_in

OUTSIDE = r"@import|url\(|https?:(?!//www\.w3\.org/2000/svg)"
CODE_FROM_TEXT = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
INLINE = r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|\|\s*safe"


def static(client: httpx.Client, name: str) -> str:
    """Return the URL of a static file from the dashboard page."""
    found = re.search(rf'"(/static/[0-9a-f]{{12}}/{re.escape(name)})"', client.get("/dashboard").text)
    assert found is not None, name
    return found.group(1)


def test_fields_of_the_base_template() -> None:
    assert names_in("base.html") == {field.name for field in dataclasses.fields(Frame)}
    assert all(len(field.metadata["help"]) > 8 for field in dataclasses.fields(Frame))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("weighin.css", "text/css"), ("theme.js", "javascript"), ("icon.svg", "image/svg+xml")],
)
def test_static_files_are_immutable(client: httpx.Client, name: str, kind: str) -> None:
    response = client.get(static(client, name))
    assert response.status_code == 200
    assert kind in response.headers["content-type"]
    assert response.headers["cache-control"] == IMMUTABLE
    assert response.text == (HERE / "static" / name).read_text()


def test_url_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "b.js").write_text("2")
    before = Assets(tmp_path, ChartLibrary()).url("a.js")
    assert before == Assets(tmp_path, ChartLibrary()).url("a.js")
    (tmp_path / "b.js").write_text("3")
    assert before != Assets(tmp_path, ChartLibrary()).url("a.js")
    with pytest.raises(KeyError, match=r"c\.js.*a\.js, b\.js"):
        Assets(tmp_path, ChartLibrary()).url("c.js")


def test_only_one_chart_library_file_is_served(client: httpx.Client) -> None:
    library = ChartLibrary().file()
    url = Assets(HERE / "static", ChartLibrary()).charts_url
    response = client.get(url)
    assert response.content == ChartLibrary().script()
    assert response.headers["content-type"] == "text/javascript; charset=utf-8"
    assert response.headers["cache-control"] == IMMUTABLE
    beside = next(path.name for path in library.parent.iterdir() if path != library and path.is_file())
    assert client.get(f"{url.rpartition('/')[0]}/{beside}").status_code == 404


def test_chart_library_is_served_without_its_wrapper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, script = ChartLibrary().file().read_bytes(), ChartLibrary().script()
    licence, _, code = script.partition(b"*/")
    assert file.startswith(licence), "the licence stays"
    assert code.strip().startswith(b'"use strict";var Plotly=')
    assert code.strip() in file
    assert len(file) - len(script) < 500, "nothing else is missing"
    assert b"module.exports = factory()" not in script

    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "other_charts").mkdir()
    (tmp_path / "other_charts" / "charts.js").write_bytes(b"/* another wrapper */ var Charts = 1;")
    other = ChartLibrary(package="other_charts", path="charts.js")
    assert other.script() == other.file().read_bytes()
    assert Assets(HERE / "static", other).charts_url != Assets(HERE / "static", ChartLibrary()).charts_url


def test_missing_chart_library() -> None:
    with pytest.raises(FileNotFoundError, match=r"package no_such_package: .* not installed"):
        ChartLibrary(package="no_such_package").file()
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.js"):
        ChartLibrary(path="no-such-file.js").file()


def test_other_paths_under_static_get_404(client: httpx.Client) -> None:
    css = static(client, "weighin.css")
    folder = css.rpartition("/")[0]
    for name in ("../site.py", "%2e%2e/site.py", "missing.css", "../weighin.css"):
        response = client.get(f"{folder}/{name}")
        assert response.status_code == 404
        assert response.json()["type"] == "not-found"
        assert "cache-control" not in response.headers
    assert client.post(css).status_code == 405


def test_static_files_have_no_external_urls_or_eval() -> None:
    files = sorted((HERE / "static").iterdir())
    assert len(files) >= 4
    for path in files:
        assert re.findall(f"{OUTSIDE}|{CODE_FROM_TEXT}", path.read_text()) == [], path.name


def test_templates_have_no_inline_code_or_style() -> None:
    for path in sorted((HERE / "templates").iterdir()):
        assert re.findall(INLINE, path.read_text()) == [], path.name


def test_policy_allows_nothing_unsafe() -> None:
    hashes = ChartLibrary().style_hashes
    assert "unsafe" not in policy() + policy(hashes)
    assert "; style-src 'self'; " in policy()
    assert f"; style-src 'self' {' '.join(map(repr, hashes))}; " in policy(hashes)


@pytest.mark.parametrize("link", NAVIGATION, ids=lambda link: link.path)
def test_navigation_marks_the_current_page(client: httpx.Client, link: Link) -> None:
    page = client.get(link.path, follow_redirects=True)
    assert page.status_code == 200
    assert page.text.count('aria-current="page"') == 1
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
