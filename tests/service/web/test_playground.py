"""The playground page as rendered by the server; tests/web tests it in a browser."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.web.playground import RUNS, PlaygroundPage
from tests.conftest import make_tiny_model
from tests.helpers.detectors import save_detector
from tests.helpers.pages import Code, names_in
from tests.helpers.problems import assert_problem


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


@pytest.mark.parametrize(("default", "chosen"), [("colours", "colours"), ("missing", "anchors")])
def test_detectors_are_offered(
    serve: Callable[..., httpx.Client], tmp_path: Path, default: str, chosen: str
) -> None:
    make_tiny_model(tmp_path / "zoo", "tiny")
    save_detector(tmp_path / "zoo", "colours", detection={"min_score": 0.25})
    save_detector(tmp_path / "zoo", "anchors", "ssd-anchors", detection={"max_detections": 20})
    broken = save_detector(tmp_path / "zoo", "broken")
    (broken / "model.onnx").write_bytes(b"broken")
    page = serve(model_dirs=(tmp_path / "zoo",), default_detector=default).get("/").text
    boxes = re.findall(
        r'<input type="checkbox" value="(\w+)" data-min-score="([\d.]+)" data-max-detections="(\d+)"'
        r' autocomplete="off"( checked)?>',
        page,
    )
    assert [(name, float(score), int(most)) for name, score, most, _ in boxes] == [
        ("anchors", 0.5, 20),
        ("colours", 0.25, 100),
    ]
    assert [name for name, _, _, checked in boxes if checked] == [chosen]
    assert "No detector is loaded" not in page
    assert options(page, "baseline") == [("tiny", True)]


def test_page_without_detectors_says_so(client: httpx.Client) -> None:
    assert "No detector is loaded. To add one: <code>weighin add FILE</code>" in client.get("/").text


def test_task_of_the_page(client: httpx.Client) -> None:
    for query, task in (("", "classify"), ("?task=detect", "detect"), ("?task=classify&other=1", "classify")):
        page = client.get(f"/{query}").text
        assert f'data-task="{task}"' in page
        assert re.findall(r'name="task" value="(\w+)" autocomplete="off" checked', page) == [task]
    assert_problem(client.get("/?task=guess"), 422, "invalid-parameter")


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
