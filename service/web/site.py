"""The parts common to all pages: frame, static files, Content-Security-Policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup
from starlette.routing import Mount

from service.web.assets import Assets, ChartLibrary

HERE = Path(__file__).resolve().parent


def explained(text: str) -> Mapping[str, str]:
    """Return a field's metadata with a description. A test requires it for every template variable."""
    return {"help": text}


@dataclass(frozen=True, slots=True)
class Link:
    """One entry of the navigation."""

    path: str
    text: str


NAVIGATION = (
    Link("/", "Playground"),
    Link("/dashboard", "Dashboard"),
    Link("/dashboard/benchmarks", "Benchmarks"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """The variables of the template `base.html`. A test checks that the template uses exactly these."""

    root: str = field(metadata=explained("Path prefix behind a proxy; empty for none"))
    version: str = field(metadata=explained("Version of Weigh-in"))
    navigation: Sequence[Link] = field(metadata=explained("Links of the navigation, in order"))
    here: str = field(metadata=explained("Path of this page, marked in the navigation"))
    charts_url: str | None = field(metadata=explained("URL of the chart library on pages with charts"))


class Site:
    """Renders pages from templates.

    Templates get the fields of their page's dataclass and of Frame, and the functions `asset(name)` and
    `address(path)`, which return URLs.
    """

    def __init__(self, charts: ChartLibrary | None = None) -> None:
        """Hash the static files. Raises FileNotFoundError if the chart library is not installed."""
        self._library = charts or ChartLibrary()
        self._assets, self.templates = _files(self._library)
        self._version = version("weighin")

    @property
    def mounts(self) -> Sequence[Mount]:
        """Routes of the static files."""
        return self._assets.mounts

    def render(self, template: str, content: Any) -> Markup:
        """Render part of a page: `template` with the fields of `content`, a dataclass."""
        return Markup(self.templates.get_template(template).render(_fields(content)))

    def page(
        self, template: str, content: Any, *, here: str, root: str, charts: bool = False
    ) -> HTMLResponse:
        """Render the page at the path `here`: `template` with the fields of `content`, a dataclass.

        `root` is the path prefix behind a proxy. With `charts`, the page may load the chart library, and the
        policy allows the library's style elements.
        """
        frame = Frame(
            root=root,
            version=self._version,
            navigation=NAVIGATION,
            here=here,
            charts_url=self._assets.charts_url if charts else None,
        )
        text = self.templates.get_template(template).render({**_fields(frame), **_fields(content)})
        return HTMLResponse(
            text,
            headers={
                "Content-Security-Policy": policy(self._library.style_hashes if charts else ()),
                "Referrer-Policy": "no-referrer",
                "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
                "Cross-Origin-Opener-Policy": "same-origin",
                "Cache-Control": "no-store",
            },
        )


@cache
def _files(charts: ChartLibrary) -> tuple[Assets, Environment]:
    """Hash the static files, and create the environment that compiles the templates: once per process."""
    assets = Assets(HERE / "static", charts)

    @pass_context
    def asset(context: Context, name: str) -> str:
        return _address(context, assets.url(name))

    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
    )
    templates.globals |= {"asset": asset, "address": _address}
    return assets, templates


@pass_context
def _address(context: Context, path: str) -> str:
    """Return the public URL path of one of the service's paths."""
    return f"{context.get('root', '')}{path}"


def policy(style_hashes: Sequence[str] = ()) -> str:
    """Return a page's Content-Security-Policy: nothing external, no inline code, inline style by hash only.

    `blob:` allows the images that the page creates: the dropped image and the maps over it.
    """
    styles = " ".join(["'self'", *(f"'{style_hash}'" for style_hash in style_hashes)])
    return "; ".join(
        [
            "default-src 'self'",
            f"style-src {styles}",
            "img-src 'self' blob:",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )


def _fields(content: Any) -> dict[str, object]:
    return {item.name: getattr(content, item.name) for item in fields(content)}
