"""Static files under content-hashed URLs, which browsers may cache for a year."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

IMMUTABLE = "public, max-age=31536000, immutable"
"""Cache-Control of a file whose URL contains the hash of its content."""

_DIGITS = 12


@dataclass(frozen=True)
class ChartLibrary:
    """Chart library: one JavaScript file of an installed Python package.

    `style_hashes` are the CSP hashes of the style elements that the library inserts into a page. A browser
    test fails if another version of the library needs other hashes.
    """

    package: str = "plotly"
    path: str = "package_data/plotly.min.js"
    style_hashes: tuple[str, ...] = (
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",  # empty element: rules are inserted one by one
        "sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o=",  # style of its maps, which no page uses
    )

    def file(self) -> Path:
        """Return the path of the installed file. Raises FileNotFoundError if it is not installed."""
        spec = find_spec(self.package)  # finds the package without importing it
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            if (path := Path(folder, self.path)).is_file():
                return path
        raise FileNotFoundError(f"package {self.package}: {self.path} not installed")

    def script(self) -> bytes:
        """Return the script to serve: the file without its wrapper for module loaders.

        The wrapper passes the whole library as a function. Browsers read such a function twice: first only
        to find its end, while the file arrives, and again before it runs. Without the wrapper, Chromium runs
        Plotly 0.4 s earlier. A file with another wrapper is returned as it is.
        """
        return _unwrapped(self.file().read_bytes())


class Assets:
    """The project's own static files and the chart library, each at `/static/<hash>/<name>`.

    Own files share one hash, so that JavaScript modules can import each other by relative paths.
    """

    def __init__(self, folder: Path, charts: ChartLibrary) -> None:
        """Hash the files of `folder` (without subfolders) and the chart library, about 5 MB."""
        self._names = sorted(path.name for path in folder.iterdir() if path.is_file())
        self._own = f"/static/{_digest({name: (folder / name).read_bytes() for name in self._names})}"
        name = charts.file().name
        library_root = f"/static/{_digest({name: charts.script()})}"
        self.charts_url = f"{library_root}/{name}"

        async def script(_: Request) -> Response:
            content = await run_in_threadpool(charts.script)
            return Response(content, media_type="text/javascript", headers={"Cache-Control": IMMUTABLE})

        self.mounts: Sequence[Mount] = (
            Mount(self._own, _ImmutableFiles(folder, self._names)),
            Mount(library_root, Router([Route(f"/{name}", script)])),
        )

    def url(self, name: str) -> str:
        """Return the URL of one of the project's own files. Raises KeyError for an unknown name."""
        if name not in self._names:
            raise KeyError(f"static file {name!r}: unknown (allowed: {', '.join(self._names)})")
        return f"{self._own}/{name}"


def _unwrapped(script: bytes) -> bytes:
    """Return the part `/** licence */ "use strict";var Plotly=...;` of the file that plotly.js publishes."""
    licence = script.find(b"*/") + 2
    start, end = script.find(b'"use strict";var Plotly='), script.rfind(b"window.Plotly = Plotly;")
    return script[:licence] + b"\n" + script[start:end] if licence < start < end else script


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


class _ImmutableFiles(StaticFiles):
    """Serves only the files `names` of a folder, with the Cache-Control header `IMMUTABLE`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__(directory=folder)
        self._names = frozenset(names)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        return super().lookup_path(path) if path in self._names else ("", None)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = IMMUTABLE
        return response
