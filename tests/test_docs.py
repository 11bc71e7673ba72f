"""README.md tells of every route and every error, and its commands are ones that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from service.api.problems import STATUS
from service.errors import ClientGone

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
CURLS = sorted(set(re.findall(r"^\$ (curl .+)$", README, re.MULTILINE)))


@pytest.fixture(scope="module")
def paths(client: httpx.Client) -> dict[str, Any]:
    """The OpenAPI description of every path."""
    found: dict[str, Any] = client.get("/openapi.json").json()["paths"]
    return found


def test_every_route_has_a_place_and_a_curl(paths: dict[str, Any]) -> None:
    called = {(method_of(command), template_of(url_of(command)[0], paths)) for command in CURLS}
    assert len(paths) >= 9
    for path, operations in paths.items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in README, f"README.md has no `{method.upper()} {path}`"
            assert (method, path) in called, f"README.md has no curl for {method.upper()} {path}"


@pytest.mark.parametrize("command", CURLS)
def test_a_curl_asks_for_what_there_is(command: str, paths: dict[str, Any]) -> None:
    """Its path, method and parameters are in the API's description: a renamed one is not left behind."""
    path, query = url_of(command)
    operation = paths[template_of(path, paths)][method_of(command)]
    known = {parameter["name"] for parameter in operation.get("parameters", [])}
    assert set(query) <= known


@pytest.mark.parametrize(
    "kind", [kind for kind in STATUS if kind is not ClientGone], ids=lambda kind: kind.slug
)
def test_every_error_is_listed_with_its_status(kind: type) -> None:
    status = STATUS[kind][0]
    assert re.search(rf"^\| {status} \|.*`{kind.slug}`", README, re.MULTILINE)


def test_the_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", README))
    assert {"serve", "test", "test-faults", "test-models", "check"} <= named <= targets


def test_the_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)|src(?:set)?=\"([^\"]+)\"", README):
        assert (ROOT / "".join(target)).exists(), target


def method_of(command: str) -> str:
    said = re.search(r" -X (\w+) ", command)
    if said is not None:
        return said.group(1).lower()
    return "post" if re.search(r" (-F|--data-binary|--json) ", command) else "get"


def url_of(command: str) -> tuple[str, dict[str, str]]:
    """Path and query of the command's URL."""
    match = re.search(r"localhost:8000(/[^\s'\"]*)", command)
    assert match is not None, command
    url = urlsplit(match.group(1))
    return url.path, dict(parse_qsl(url.query, keep_blank_values=True))


def template_of(path: str, paths: dict[str, Any]) -> str:
    """The described path that `path` is an instance of."""
    if path in paths:
        return path
    for template in paths:
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            return template
    raise AssertionError(f"the API has no path {path}")
