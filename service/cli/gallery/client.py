"""HTTP client of a gallery. It repeats a request while the service is busy."""

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
    import httpx  # lazy, because the import takes a tenth of a second

PAGE = 1000
"""Number of images per page of a list."""

_ATTEMPTS = 30
_LONGEST_WAIT_S = 5.0
_TIMEOUT_S = 120.0


class Refused(WeighinError):
    """The service refused the request, or cannot be reached."""

    slug = "refused"

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep the message and the HTTP `status`, which is 0 if there was no response."""
        super().__init__(message)
        self.status = status

    @property
    def hopeless(self) -> bool:
        """Whether further requests would fail, too: gallery full, access denied, or service down."""
        return self.status in (0, 401, 403, 404, 405, 507) or self.status >= 500


class GalleryClient:
    """Client of one service, thread-safe. All methods raise Refused."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        import httpx

        try:
            base_url = service_url(url)
        except ValueError as error:
            raise Refused(f"--url {error}") from None
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        try:
            self._http = httpx.Client(
                base_url=base_url,
                headers=headers,
                timeout=_TIMEOUT_S,
                verify=httpx.URL(base_url).scheme == "https",  # http needs no certificates
            )
        except (httpx.InvalidURL, UnicodeError) as error:
            raise Refused(f"--url '{redacted(base_url)[:200]}': {str(error).lower()}") from None
        self._url = redacted(base_url)

    def state(self) -> dict[str, Any]:
        """Return the response of `GET /gallery`."""
        return self._json("GET", "/gallery")

    def images(self, where: str | None = None) -> Iterator[dict[str, Any]]:
        """Yield all images that match the filter `where` (JSON), in the order of their ids."""
        cursor: str | None = None
        while True:
            params: dict[str, Any] = {"limit": PAGE}
            params |= {} if where is None else {"where": where}
            params |= {} if cursor is None else {"cursor": cursor}
            page = self._json("GET", "/gallery/images", params=params)
            yield from page["images"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def add(self, content: bytes, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Add an image under a generated id. Return its `id`, `status` and `detail`."""
        parts = {} if not metadata else {"metadata": (None, json.dumps(dict(metadata)), "application/json")}
        files = {**parts, "image": ("image", content, "application/octet-stream")}
        images: list[dict[str, Any]] = self._json("POST", "/gallery/images", files=files)["images"]
        [image] = images
        return image

    def put(self, id: str, content: bytes, metadata: Mapping[str, Any]) -> int:
        """Store an image under `id`. Return the HTTP status, which is 201 if the id is new."""
        part = (None, json.dumps(dict(metadata)), "application/json")
        files = {"metadata": part, "image": ("image", content, "application/octet-stream")}
        return self._request("PUT", _image(id), files=files).status_code

    def content(self, id: str) -> bytes:
        """Return the original bytes of an image."""
        return self._request("GET", f"{_image(id)}/content").content

    def remove(self, id: str) -> None:
        """Delete an image."""
        self._request("DELETE", _image(id))

    def reindex(self, model: str) -> dict[str, Any]:
        """Start to re-embed all images with `model`. Return the state of the gallery."""
        return self._json("POST", "/gallery/reindex", params={"model": model})

    def wait_until_ready(self) -> None:
        """Wait until the models are loaded."""
        while self._json("GET", "/readyz")["status"] == "loading":
            time.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._request(method, path, **options).json()
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        for attempt in range(_ATTEMPTS):
            try:
                response = self._http.request(method, path, **options)
            except UnicodeError:
                raise Refused("argument: not UTF-8") from None
            except httpx.HTTPError as error:
                raise Refused(f"no answer from {self._url}: {error or type(error).__name__}") from None
            if response.status_code != 503 or attempt == _ATTEMPTS - 1:
                break
            if path == "/readyz":  # 503 is a valid answer: the service is not ready
                return response
            if _kind(response) == "model-unavailable":  # another attempt would fail, too
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
        return f"{response.request.url}: status {response.status_code}, not a response of Weigh-in"
