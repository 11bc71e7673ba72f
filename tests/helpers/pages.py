"""Checks that apply to every page."""

from __future__ import annotations

from html.parser import HTMLParser

import jinja2.meta

from service.web.site import Site


def names_in(template: str) -> set[str]:
    """Return the variables that a template refers to, without globals."""
    environment = Site().templates
    assert environment.loader is not None
    source = environment.loader.get_source(environment, template)[0]
    return jinja2.meta.find_undeclared_variables(environment.parse(source)) - set(environment.globals)


class Code(HTMLParser):
    """Collects everything in a page that the content security policy would have to allow, and all links."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.links: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag in ("style", "base", "iframe", "object", "embed"):
            self.found.append(tag)
        for name, value in attrs:
            if name == "style" or name.startswith("on"):
                self.found.append(f"{tag} {name}={value}")
            if name in ("href", "src", "action"):
                self.links.append(value or "")

    def handle_data(self, data: str) -> None:
        if self.inside == "script" and data.strip():
            self.found.append(f"script {data}")

    def handle_endtag(self, _tag: str) -> None:
        self.inside = ""
