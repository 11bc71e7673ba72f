"""What all pages share: the frame, the static files and how long they are kept, the policy."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import httpx
import pytest

from service.web.assets import KEPT, Assets, ChartLibrary
from service.web.site import HERE, NAVIGATION, Frame, Link, policy
from tests.helpers.pages import names_in

OUTSIDE = r"@import|url\(|https?:(?!//www\.w3\.org/2000/svg)"
CODE_FROM_TEXT = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|Function\("
INLINE = r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)|\|\s*safe"


def static(client: httpx.Client, name: str) -> str:
    """The address of a static file, as the dashboard's page has it."""
    found = re.search(rf'"(/static/[0-9a-f]{{12}}/{re.escape(name)})"', client.get("/dashboard").text)
    assert found is not None, name
    return found.group(1)


def test_the_frame_uses_exactly_the_fields_of_the_frame() -> None:
    assert names_in("base.html") == {field.name for field in dataclasses.fields(Frame)}
    assert all(len(field.metadata["help"]) > 8 for field in dataclasses.fields(Frame))


@pytest.mark.parametrize(
    ("name", "kind"),
    [("weighin.css", "text/css"), ("theme.js", "javascript"), ("icon.svg", "image/svg+xml")],
)
def test_static_files_may_be_kept_for_good(client: httpx.Client, name: str, kind: str) -> None:
    response = client.get(static(client, name))
    assert response.status_code == 200
    assert kind in response.headers["content-type"]
    assert response.headers["cache-control"] == KEPT
    assert response.text == (HERE / "static" / name).read_text()


def test_an_address_changes_with_any_of_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    (tmp_path / "b.js").write_text("2")
    before = Assets(tmp_path, ChartLibrary()).url("a.js")
    assert before == Assets(tmp_path, ChartLibrary()).url("a.js")
    (tmp_path / "b.js").write_text("3")
    assert before != Assets(tmp_path, ChartLibrary()).url("a.js")
    with pytest.raises(KeyError, match=r"c\.js.*a\.js, b\.js"):
        Assets(tmp_path, ChartLibrary()).url("c.js")


def test_of_the_chart_library_one_file_is_served(client: httpx.Client) -> None:
    library = ChartLibrary().file()
    url = Assets(HERE / "static", ChartLibrary()).charts_url
    response = client.get(url)
    assert response.content == library.read_bytes()
    assert response.headers["cache-control"] == KEPT
    beside = next(path.name for path in library.parent.iterdir() if path != library and path.is_file())
    assert client.get(f"{url.rpartition('/')[0]}/{beside}").status_code == 404


def test_a_missing_chart_library_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="the package no_such_package is not installed"):
        ChartLibrary(package="no_such_package").file()
    with pytest.raises(FileNotFoundError, match=r"no-such-file\.js"):
        ChartLibrary(path="no-such-file.js").file()


def test_nothing_else_is_served_there(client: httpx.Client) -> None:
    css = static(client, "weighin.css")
    folder = css.rpartition("/")[0]
    for name in ("../site.py", "%2e%2e/site.py", "missing.css", "../weighin.css"):
        response = client.get(f"{folder}/{name}")
        assert response.status_code == 404
        assert response.json()["type"] == "not-found"
        assert "cache-control" not in response.headers
    assert client.post(css).status_code == 405


def test_static_files_load_nothing_from_elsewhere_and_make_no_code_of_text() -> None:
    files = sorted((HERE / "static").iterdir())
    assert len(files) >= 4
    for path in files:
        assert re.findall(f"{OUTSIDE}|{CODE_FROM_TEXT}", path.read_text()) == [], path.name


def test_templates_have_no_code_and_no_style_of_their_own() -> None:
    for path in sorted((HERE / "templates").iterdir()):
        assert re.findall(INLINE, path.read_text()) == [], path.name


def test_the_policy_allows_nothing_unsafe() -> None:
    hashes = ChartLibrary().style_hashes
    assert "unsafe" not in policy() + policy(hashes)
    assert "; style-src 'self'; " in policy()
    assert f"; style-src 'self' {' '.join(map(repr, hashes))}; " in policy(hashes)


@pytest.mark.parametrize("link", NAVIGATION, ids=lambda link: link.path)
def test_every_page_of_the_navigation_is_there_and_marked(client: httpx.Client, link: Link) -> None:
    page = client.get(link.path, follow_redirects=True)
    assert page.status_code == 200
    assert page.text.count('aria-current="page"') == 1
    assert page.headers["cache-control"] == "no-store"
    assert page.headers["referrer-policy"] == "no-referrer"
