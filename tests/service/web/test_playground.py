"""The playground page as rendered by the server; tests/web tests it in a browser."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import httpx

from service.web.playground import RUNS, PlaygroundPage
from tests.conftest import make_tiny_model
from tests.helpers.pages import Code, names_in


def options(page: str, name: str) -> list[tuple[str, bool]]:
    """Return the option texts of a select, and whether each is selected."""
    inside = re.search(rf'<select id="{name}">(.*?)</select>', page)
    assert inside is not None
    found = re.findall(r"<option( selected)?>([^<]*)</option>", inside.group(1))
    return [(text, bool(chosen)) for chosen, text in found]


def test_template_variables_equal_the_dataclass_fields() -> None:
    fields = dataclasses.fields(PlaygroundPage)
    assert names_in("playground.html") == {field.name for field in fields}
    assert all(len(field.metadata["help"]) > 8 for field in fields)


def test_comparable_models_are_offered(client: httpx.Client) -> None:
    page = client.get("/").text
    assert options(page, "baseline") == [("tiny", True), ("tiny-b", False)]
    assert options(page, "runs") == [(str(count), count == 5) for count in RUNS]
    assert "Comparison unavailable" not in page


def test_reason_is_shown_if_comparison_is_unavailable(
    serve: Callable[..., httpx.Client], tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "zoo", "tiny")
    (folder / "model.onnx").write_bytes(b"broken")
    page = serve(model_dirs=(tmp_path / "zoo",)).get("/").text
    assert "Comparison unavailable: model &#39;tiny&#39; cannot be served" in page
    assert options(page, "baseline") == []


def test_models_of_other_labels_are_left_out(serve: Callable[..., httpx.Client], tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "zoo", "tiny")
    make_tiny_model(tmp_path / "zoo", "other", labels="other-10")
    page = serve(model_dirs=(tmp_path / "zoo",)).get("/").text
    assert options(page, "baseline") == [("tiny", True)]


def test_page_has_no_inline_or_external_resources(client: httpx.Client) -> None:
    response = client.get("/")
    policy = response.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "; style-src 'self'; " in policy
    code = Code()
    code.feed(response.text)
    assert code.found == []
    assert [link for link in code.links if not re.match(r"#\w|/(?!/)", link)] == []
    for link in code.links:
        if link.startswith("/static/"):
            assert client.get(link).status_code == 200, link


def test_imported_modules_are_served(client: httpx.Client) -> None:
    """Every imported JavaScript module is served."""
    found = re.search(r'src="(/static/[0-9a-f]+/)playground.js"', client.get("/").text)
    assert found is not None
    waiting, seen = ["playground.js"], set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        module = client.get(found.group(1) + name)
        assert module.status_code == 200, name
        imported = re.findall(r'^import .* from "\./([\w.]+)";$', module.text, re.MULTILINE)
        waiting += [one for one in imported if one not in seen]
    assert len(seen) >= 8
