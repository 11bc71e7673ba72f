"""The documentation covers every route, error and setting; its links are valid."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from service.api.problems import STATUS
from service.errors import ClientGone
from service.settings import Settings, settings_table
from tests.helpers.command_checks import template_of

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()
API = "".join((ROOT / "docs" / name).read_text() for name in ("api.md", "v2.md"))
"""The pages that describe routes."""
INDEX = (ROOT / "docs/README.md").read_text()
EVERYWHERE = "\n".join(page.read_text() for page in PAGES)
CURLS = sorted(set(re.findall(r"^\$ (curl .+)$", README + API, re.MULTILINE)))


@pytest.fixture(scope="module")
def paths(openapi: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of every path."""
    found: dict[str, Any] = openapi["paths"]
    return found


def test_every_route_is_documented(paths: dict[str, Any]) -> None:
    called = {(method_of(command), template_of(path_of(command), paths)) for command in CURLS}
    assert len(paths) >= 9
    for path, operations in paths.items():
        for method in operations:
            assert f"### `{method.upper()} {path}`" in API, f"docs: no `{method.upper()} {path}`"
            assert (method, path) in called, f"docs: no curl for {method.upper()} {path}"


COMMON = {"malformed-request", "request-timeout", "headers-too-large", "invalid-parameter"}
"""Errors that docs/api.md gives once, for all routes."""


def test_errors_of_each_route(paths: dict[str, Any]) -> None:
    """The line `Errors:` of a route in docs/api.md lists the same errors as OpenAPI."""
    page = (ROOT / "docs/api.md").read_text()
    sections = re.findall(r"^### `([A-Z]+) (\S+)`\n(.*?)(?=^##)", page, re.MULTILINE | re.DOTALL)
    listed: dict[tuple[str, str], set[str]] = {}
    for method, path, section in sections:
        line = re.search(r"^Errors: (.*)$", section, re.MULTILINE)
        words = line[1] if line else ""
        named = set(re.findall(r"`([a-z-]+)`", words))
        if other := re.search(r"those of `([A-Z]+) (\S+)`(?: except `([a-z-]+)`)?", words):
            named = named - {other[3]} | listed[other[1], other[2]] - {other[3]}
        listed[method, path] = named
    described = {}
    for path, operations in paths.items():
        for method, operation in operations.items():
            kinds = {
                slug
                for response in operation["responses"].values()
                for content in response.get("content", {}).values()
                for slug in content.get("examples", {})
            }
            common = COMMON if method == "get" else COMMON | {"cross-site-request"}
            assert common <= kinds, (method, path)
            described[method.upper(), path] = kinds - common
    assert listed == {route: kinds for route, kinds in described.items() if not route[1].startswith("/v2")}


@pytest.mark.parametrize(
    "kind", [kind for kind in STATUS if kind is not ClientGone], ids=lambda kind: kind.slug
)
def test_every_error_is_documented(kind: type) -> None:
    status = STATUS[kind][0]
    assert re.search(rf"^\| {status} \|.*`{kind.slug}`", API, re.MULTILINE)


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+(?:-[a-z]+)*)|^(?:\$ )?make ([a-z-]+)", EVERYWHERE, re.MULTILINE))
    assert (
        {"serve", "test", "test-faults", "test-models", "check"}
        <= {"".join(name) for name in named}
        <= targets
    )


def test_readme_length() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links(page: Path) -> None:
    """The linked file exists, and has the linked heading."""
    text = page.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)|src(?:set)?=\"([^\"]+)\"", text)
    for target in map("".join, links):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors_of(linked.read_text()), target


NOT_HERE = {
    "benchmarks/instrument/results.jsonl": "written by the next run",
    "benchmarks/retrieval/results.jsonl": "written by the next run",
    "docs/random_interleaving.md": "of google/benchmark",
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    """Files of this repository that sentences and tables name in code spans exist."""
    top = "|".join(("benchmarks", "docker", "docs", "models", "service", "tests", r"\.ci", r"\.github"))
    named = set(re.findall(rf"`((?:{top})/[\w./-]*)`", page.read_text()))
    assert {name for name in named - NOT_HERE.keys() if not (ROOT / name).exists()} == set()


def test_index_lists_every_page() -> None:
    """The first line of each page gives its kind, under which the index lists it."""
    sections = re.split(r"^(How to do something|Reference|Explanation|Results):$", INDEX, flags=re.MULTILINE)
    listed = {
        name: kind.replace("How to do something", "How-to")
        for kind, section in zip(sections[1::2], sections[2::2], strict=True)
        for name in re.findall(r"^- \[([\w.-]+\.md)\]", section, re.MULTILINE)
    }
    said = {}
    for page in (ROOT / "docs").glob("*.md"):
        first = page.read_text().split("\n\n")[1]
        if page.name != "README.md":
            said[page.name] = first.partition(":")[0]
    assert listed == said


def test_settings_table() -> None:
    assert settings_table() in (ROOT / "docs/settings.md").read_text()


def test_documented_settings_exist() -> None:
    """Documents, compose file and scripts mention only existing settings."""
    known = {f"WEIGHIN_{name.upper()}" for name in Settings.model_fields} | {"WEIGHIN_"}
    manifests = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docker/kubernetes").iterdir()]
    for name in ("compose.yaml", "Dockerfile", "Makefile", ".ci/run", *manifests):
        assert set(re.findall(r"WEIGHIN_[A-Z0-9_]*", (ROOT / name).read_text())) <= known, name
    assert set(re.findall(r"WEIGHIN_[A-Z0-9_]*", EVERYWHERE)) <= known


def test_architecture_page_lists_every_folder() -> None:
    """Every code folder has a row, and every row an existing folder."""
    page = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w/]+)/`", row)}
    folders = {
        path.parent.relative_to(ROOT).as_posix()
        for half in ("service", "models", "benchmarks", "tests")
        for path in (ROOT / half).rglob("*.py")
    }
    code = {folder for folder in folders if not folder.startswith(("benchmarks/", "tests/"))}
    assert code - {"models", "service/storage/migrations/versions"} <= named
    assert all((ROOT / name).is_dir() for name in named)


@pytest.mark.parametrize("half", ["In the service", "In models"])
def test_architecture_page_shows_the_enforced_layers(half: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (contract,) = [contract for contract in contracts if contract["name"].startswith(half)]
    page = (ROOT / "docs/architecture.md").read_text()
    picture = page.split("## Folders")[1].split("```")[1].splitlines()[2:]
    column = 0 if half == "In the service" else 1
    columns = [re.split(r" {3,}", line.strip() if column == 0 else line) for line in picture]
    pictured = [line[column].strip() for line in columns if column < len(line)]
    assert pictured == [layer.strip("()") for layer in contract["layers"]]


def anchors_of(text: str) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def method_of(command: str) -> str:
    said = re.search(r" -X (\w+) ", command)
    if said is not None:
        return said.group(1).lower()
    return "post" if re.search(r" (-F|--data-binary|--json) ", command) else "get"


def path_of(command: str) -> str:
    """Return the path of the command's URL."""
    match = re.search(r"localhost:8000(/[^\s'\"?]*)", command)
    assert match is not None, command
    return match.group(1)
