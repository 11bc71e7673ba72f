"""Debian's Chromium, and services for it to visit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.web.photographs import write_photographs
from tests.web.services import zoo_service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.web.watched import Watched

# `make test` has no Playwright, and selects none of these tests.
collect_ignore_glob = [] if find_spec("playwright") else ["test_*.py"]

PATIENCE_MS = 60_000
"""How long an expectation may take to come true on a machine that has other things to do."""
FAKE_CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window, with a camera that sees a moving test picture."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    chromium = shutil.which("chromium")
    assert chromium is not None, "there is no chromium; install it with: make .cache/web/complete"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FAKE_CAMERA)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Watched]]:
    """Open a page: `visit(url, width=1280, **context)`. It must not complain until the test ends."""
    from tests.web.watched import Watched

    contexts = []
    pages: list[Watched] = []

    def open_page(url: str, *, width: int = 1280, height: int = 900, **options: Any) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        watched = Watched(page, str(httpx.URL(url).copy_with(raw_path=b"")).rstrip("/"))
        pages.append(watched)
        page.goto(url)
        return watched

    yield open_page
    complaints = [complaint for one in pages for complaint in one.complaints]
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def zoo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service with the project's own zoo is, shared by all tests of the session."""
    with zoo_service(tmp_path_factory.mktemp("zoo-service")) as client:
        yield str(client.base_url).rstrip("/")


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Photographs as JPEG files, by what they show: cat, coffee, rocket."""
    return write_photographs(tmp_path_factory.mktemp("photographs"), ("cat", "coffee", "rocket"))
