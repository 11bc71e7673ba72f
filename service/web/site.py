"""What all pages share: the frame around them, their static files, the policy they are held to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from service.web.assets import Assets, ChartLibrary

HERE = Path(__file__).resolve().parent


def explained(text: str) -> Mapping[str, str]:
    """The metadata of a field that a template refers to; a test insists that every one has it."""
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
    """Everything that `base.html` refers to beside its blocks, and nothing else (a test compares the two)."""

    root: str = field(metadata=explained("Prefix of public addresses behind a proxy; empty for none"))
    version: str = field(metadata=explained("Version of Weigh-in"))
    navigation: Sequence[Link] = field(metadata=explained("The pages, in the order of the navigation"))
    here: str = field(metadata=explained("The path of this page, marked in the navigation"))
    charts_url: str | None = field(metadata=explained("Where the chart library is, on pages with charts"))


class Site:
    """Renders pages. Templates see the fields of their page's dataclass and of Frame, and `asset(name)` and
    `address(path)`."""

    def __init__(self, charts: ChartLibrary | None = None) -> None:
        """Hash the static files. FileNotFoundError when the chart library is not installed."""
        self._library = charts or ChartLibrary()
        self._assets = Assets(HERE / "static", self._library)
        self._version = version("weighin")
        self.templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined
        )
        self.templates.globals |= {"asset": self._asset, "address": _address}

    @pass_context
    def _asset(self, context: Context, name: str) -> str:
        return _address(context, self._assets.url(name))

    def router(self) -> APIRouter:
        """The static files."""
        router = APIRouter()

        for mount in self._assets.mounts:
            router.mount(mount.path, mount.app)
        return router

    def render(self, template: str, content: Any) -> Markup:
        """A part of a page: `template` with the fields of `content`, a dataclass."""
        return Markup(self.templates.get_template(template).render(_fields(content)))

    def page(
        self, template: str, content: Any, *, here: str, root: str, charts: bool = False
    ) -> HTMLResponse:
        """The page at the path `here`: `template` with the fields of `content`, a dataclass. `root` is the
        prefix of public addresses.

        With `charts` it may load the chart library, and the policy allows the style elements of that.
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


@pass_context
def _address(context: Context, path: str) -> str:
    """The public address of one of the service's paths."""
    return f"{context.get('root', '')}{path}"


def policy(style_hashes: Sequence[str] = ()) -> str:
    """The Content-Security-Policy of a page: nothing from elsewhere, no code or style inside the page.

    `blob:` pictures are what the page made itself: the photograph that was dropped, the maps laid over it.
    """
    styles = " ".join(["'self'", *(f"'{one}'" for one in style_hashes)])
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
    return {one.name: getattr(content, one.name) for one in fields(content)}
