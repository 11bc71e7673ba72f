"""A page in the browser whose every request, error and console line is held against it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import ConsoleMessage, Page, Request

ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".cache" / "web" / "axe.min.js"


class Watched:
    """`page`, which may talk to `origin` and to nothing else, and may not complain."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.requests: list[str] = []
        self._complaints: list[str] = []
        self._allowed: list[re.Pattern[str]] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self._complaints.append(f"uncaught: {error}"))
        page.on("request", self._request)

    def allow(self, pattern: str) -> None:
        """Complaints that match are what the test is about: Chromium logs every answer of 4xx and 5xx."""
        self._allowed.append(re.compile(pattern))

    @property
    def complaints(self) -> list[str]:
        """Console errors and warnings, uncaught exceptions and requests to elsewhere, so far."""
        return [one for one in self._complaints if not any(known.search(one) for known in self._allowed)]

    def violations(self) -> list[str]:
        """What axe-core finds wrong with the page as it is now, with where."""
        assert AXE.is_file(), "axe-core is missing; fetch it with: make .cache/web/complete"
        # evaluated over the debugging protocol, which the page's policy does not reach
        self.page.evaluate(AXE.read_text() + ";0")
        found: dict[str, Any] = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [
            f"{one['id']}: {one['help']}: {node['html'][:200]}"
            for one in found["violations"]
            for node in one["nodes"]
        ]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        wider: int = self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        return wider

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            where = message.location.get("url", "")
            self._complaints.append(f"{message.type}: {message.text} ({where})")

    def _request(self, request: Request) -> None:
        self.requests.append(request.url)
        if not request.url.startswith((f"{self.origin}/", f"blob:{self.origin}/", "data:")):
            self._complaints.append(f"a request to {request.url}")
