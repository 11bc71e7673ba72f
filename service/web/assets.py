"""Files that pages load, under addresses that change with their content, so that browsers may keep them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

KEPT = "public, max-age=31536000, immutable"
"""Cache-Control of a file whose address has its content's hash in it."""

_DIGITS = 12


@dataclass(frozen=True)
class ChartLibrary:
    """The one file of an installed package that draws the charts.

    `style_hashes` are those of the style elements that it puts into a page, for the page's policy: a browser
    test fails when another version of it needs others.
    """

    package: str = "plotly"
    path: str = "package_data/plotly.min.js"
    style_hashes: tuple[str, ...] = (
        "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",  # of nothing: rules are inserted one by one
        "sha256-ji27qzEtxXZW+7dun6UwjHXJ18e6WAin1VvNtkzIE/o=",  # of its maps, which no page has
    )

    def file(self) -> Path:
        """Where it is installed. FileNotFoundError when it is not."""
        spec = find_spec(self.package)  # finds the package without importing it
        folders = spec.submodule_search_locations if spec is not None else None
        for folder in folders or ():
            if (found := Path(folder, self.path)).is_file():
                return found
        raise FileNotFoundError(f"the package {self.package} is not installed with its {self.path}")


class Assets:
    """The project's own static files and the chart library, each at `/static/<hash>/<name>`.

    Own files share one hash of them all, so that the modules among them find one another by relative names.
    """

    def __init__(self, folder: Path, charts: ChartLibrary) -> None:
        """Hash the files of `folder`, which has no folders in it, and the chart library's, about 5 MB."""
        self._names = sorted(path.name for path in folder.iterdir() if path.is_file())
        self._own = f"/static/{_digest([folder / name for name in self._names])}"
        library = charts.file()
        kept = f"/static/{_digest([library])}"
        self.charts_url = f"{kept}/{library.name}"
        self.mounts: Sequence[Mount] = (
            Mount(self._own, _Kept(folder, self._names)),
            Mount(kept, _Kept(library.parent, [library.name])),
        )

    def url(self, name: str) -> str:
        """The address of one of the project's own files. KeyError for one that there is not."""
        if name not in self._names:
            raise KeyError(f"there is no static file {name!r}; there are: {', '.join(self._names)}")
        return f"{self._own}/{name}"


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:_DIGITS]


class _Kept(StaticFiles):
    """The files `names` of a folder, which browsers may keep for as long as they like."""

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
        response.headers["Cache-Control"] = KEPT
        return response
