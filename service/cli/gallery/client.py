"""A gallery's HTTP interface as the command line uses it, with patience for a service that is busy."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

from service.errors import WeighinError
from service.text.urls import redacted, service_url

if TYPE_CHECKING:
    import httpx  # takes a tenth of a second, which other commands need not wait for

PAGE = 1000
"""Images that one request lists."""

_ATTEMPTS = 30
_LONGEST_WAIT_S = 5.0
_TIMEOUT_S = 120.0


class Refused(WeighinError):
    """The service said no, or cannot be reached."""

    slug = "refused"

    def __init__(self, message: str, status: int = 0) -> None:
        """`status`: of the HTTP response, 0 without one."""
        super().__init__(message)
        self.status = status

    @property
    def hopeless(self) -> bool:
        """Whether the next image would be refused too: there is no room, no right, or no service."""
        return self.status in (0, 401, 403, 404, 405, 507) or self.status >= 500


class GalleryClient:
    """Speaks to one service; any thread may call. Methods raise Refused."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        import httpx

        try:
            base_url = service_url(url)
        except ValueError as error:
            raise Refused(f"--url {error}") from None
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(base_url=base_url, headers=headers, timeout=_TIMEOUT_S)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Refused(f"--url '{redacted(base_url)[:200]}': {str(error).lower()}") from None
        self._url = redacted(base_url)

    def state(self) -> dict[str, Any]:
        """What GET /gallery says."""
        return self._json("GET", "/gallery")

    def images(self, where: str | None = None) -> Iterator[dict[str, Any]]:
        """All images that meet `where`, by id."""
        cursor: str | None = None
        while True:
            asked: dict[str, Any] = {"limit": PAGE}
            asked |= {} if where is None else {"where": where}
            asked |= {} if cursor is None else {"cursor": cursor}
            page = self._json("GET", "/gallery/images", params=asked)
            yield from page["images"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def add(self, content: bytes, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Add one image under an id of the service's choice: its `id`, `status` and `detail`."""
        parts = {} if not metadata else {"metadata": (None, json.dumps(dict(metadata)), "application/json")}
        files = {**parts, "image": ("image", content, "application/octet-stream")}
        [image] = self._json("POST", "/gallery/images", files=files)["images"]
        found: dict[str, Any] = image
        return found

    def put(self, id: str, content: bytes, metadata: Mapping[str, Any]) -> int:
        """Keep an image under this id; the status, 201 for a new one."""
        described = (None, json.dumps(dict(metadata)), "application/json")
        files = {"metadata": described, "image": ("image", content, "application/octet-stream")}
        return self._request("PUT", _image(id), files=files).status_code

    def content(self, id: str) -> bytes:
        """The bytes of an image."""
        return self._request("GET", f"{_image(id)}/content").content

    def remove(self, id: str) -> None:
        """Remove an image."""
        self._request("DELETE", _image(id))

    def reindex(self, model: str) -> dict[str, Any]:
        """Begin to embed all images by another model; the gallery's state then."""
        return self._json("POST", "/gallery/reindex", params={"model": model})

    def wait_until_ready(self) -> None:
        """Return as soon as the models are loaded."""
        while self._json("GET", "/readyz")["status"] == "loading":
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def _json(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        found: dict[str, Any] = self._request(method, path, **what).json()
        return found

    def _request(self, method: str, path: str, **what: Any) -> httpx.Response:
        import httpx

        for attempt in range(_ATTEMPTS):
            try:
                response = self._http.request(method, path, **what)
            except UnicodeError:
                raise Refused("an argument is not UTF-8, and cannot be sent") from None
            except httpx.HTTPError as error:
                raise Refused(f"no answer from {self._url}: {error or type(error).__name__}") from None
            if response.status_code != 503 or attempt == _ATTEMPTS - 1:
                break
            if path == "/readyz":  # what it says is the answer
                return response
            if _kind(response) == "model-unavailable":  # waiting does not mend it
                break
            time.sleep(min(float(response.headers.get("Retry-After", 1)), _LONGEST_WAIT_S))
        if response.is_error:
            raise Refused(_detail(response), response.status_code)
        return response


def _image(id: str) -> str:
    return f"/gallery/images/{quote(id, safe='', errors='surrogateescape')}"


def _kind(response: httpx.Response) -> str | None:
    try:
        kind: str | None = response.json()["type"]
    except (ValueError, KeyError, TypeError):
        return None
    return kind


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return f"{response.request.url} answered {response.status_code}: is it a Weigh-in?"
