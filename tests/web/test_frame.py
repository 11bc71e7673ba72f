"""The frame around every page: theme, keyboard, and what the policy keeps out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.web.site import NAVIGATION
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]
PATHS = [link.path for link in NAVIGATION]
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LIGHT, DARK = "rgb(255, 255, 255)", "rgb(20, 24, 29)"


@pytest.mark.parametrize("path", PATHS)
def test_an_injected_script_does_not_run(visit: Visit, zoo_url: str, path: str) -> None:
    one = visit(f"{zoo_url}{path}")
    one.allow("Content Security Policy")
    refused = one.page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          const script = document.createElement("script");
          script.textContent = "window.injected = true";
          document.body.append(script);
        })"""
    )
    assert refused == "script-src-elem"
    assert one.page.evaluate("window.injected") is None
    refused = one.page.evaluate(
        """() => new Promise((resolve) => {
          document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
          const button = document.createElement("button");
          button.setAttribute("onclick", "window.injected = true");
          document.body.append(button);
          button.click();
        })"""
    )
    assert refused == "script-src-attr"
    assert one.page.evaluate("window.injected") is None


def test_content_security_policy(visit: Visit, zoo_url: str) -> None:
    one = visit(f"{zoo_url}/")
    one.allow("Content Security Policy|Refused|example.invalid")
    failed = one.page.evaluate("fetch('https://example.invalid/').then(() => '', (error) => error.name)")
    assert failed == "TypeError"
    assert not [url for url in one.requests if "example.invalid" in url]


@pytest.mark.parametrize("path", PATHS)
def test_theme(visit: Visit, zoo_url: str, path: str) -> None:
    one = visit(f"{zoo_url}{path}", color_scheme="dark")
    assert one.page.evaluate(BACKGROUND) == DARK
    one.page.emulate_media(color_scheme="light")
    assert one.page.evaluate(BACKGROUND) == LIGHT
    one.page.get_by_label("Theme").select_option("dark")
    assert one.page.evaluate(BACKGROUND) == DARK
    one.page.reload()
    assert one.page.evaluate(BACKGROUND) == DARK
    one.page.get_by_label("Theme").select_option("system")
    assert one.page.evaluate(BACKGROUND) == LIGHT


@pytest.mark.parametrize("path", PATHS)
def test_skip_link(visit: Visit, zoo_url: str, path: str) -> None:
    one = visit(f"{zoo_url}{path}")
    one.page.keyboard.press("Tab")
    link = one.page.get_by_role("link", name="Skip to the content")
    assert link.bounding_box()["x"] >= 0  # type: ignore[index]
    one.page.keyboard.press("Enter")
    assert one.page.evaluate("document.activeElement.id") == "main"


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_an_empty_page_is_in_order(visit: Visit, zoo_url: str, path: str, scheme: str, width: int) -> None:
    one = visit(f"{zoo_url}{path}", width=width, color_scheme=scheme)
    assert one.overflow() == 0
    assert one.violations() == []
