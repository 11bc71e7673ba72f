"""The gallery on the playground: pictures are added, found again, and lead to one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from tests.web.photographs import write_photographs
from tests.web.services import zoo_service
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]

KEPT = ("coffee", "rocket", "astronaut", "chelsea")
EVIL = "<script>window.injected=1</script><b>markup</b>"


@pytest.fixture
def photographs(tmp_path: Path) -> dict[str, Path]:
    return write_photographs(tmp_path, ("cat", *KEPT))


@pytest.fixture(scope="module")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with zoo_service(tmp_path_factory.mktemp("gallery")) as client:
        yield client


@pytest.fixture
def service(shared_service: httpx.Client) -> Iterator[httpx.Client]:
    """A service with the project's models and a gallery, which is empty when a test begins."""
    yield shared_service
    for image in shared_service.get("/gallery/images").json()["images"]:
        assert shared_service.delete(f"/gallery/images/{image['id']}").status_code == 204


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A service whose gallery is changed with the key `open-sesame` only."""
    with zoo_service(tmp_path_factory.mktemp("guarded"), api_key="open-sesame") as client:
        yield client


def look_at(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)
    expect(page.locator("#progress")).to_contain_text(f"{path.name}: ")


def keep(client: httpx.Client, photographs: dict[str, Path]) -> None:
    for name in KEPT:
        response = client.put(f"/gallery/images/{name}", content=photographs[name].read_bytes())
        assert response.status_code == 201, response.text


def test_add_a_picture_to_an_empty_gallery(
    visit: Visit, service: httpx.Client, photographs: dict[str, Path]
) -> None:
    one = visit(f"{service.base_url}/")
    page = one.page
    look_at(page, photographs["cat"])
    expect(page.locator("#similar-news")).to_have_text("The gallery has no images yet.")
    expect(page.locator("#similar-problem")).to_have_text("")
    assert page.get_by_label("Name").input_value() == "cat.jpg"
    page.get_by_label("Name").fill("my-cat")
    page.get_by_role("button", name="Add the image to the gallery").click()
    match = page.locator(".match")
    expect(match).to_have_count(1)
    expect(match).to_contain_text("my-cat")
    expect(match).to_contain_text("the same file")
    expect(match.locator(".score")).to_have_text("1.000")
    kept = service.get("/gallery/images/my-cat").json()
    assert kept["metadata"] == {"file": "cat.jpg"}
    assert match.locator("img").evaluate("(image) => image.decode().then(() => image.naturalWidth)") > 0


def test_similar_images(visit: Visit, service: httpx.Client, photographs: dict[str, Path]) -> None:
    keep(service, photographs)
    one = visit(f"{service.base_url}/")
    page = one.page
    look_at(page, photographs["cat"])
    expect(page.locator(".match")).to_have_count(len(KEPT))
    scores = [float(text) for text in page.locator(".match .score").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    # chelsea is the cat itself
    expect(page.locator(".match").first).to_have_attribute("data-id", "chelsea")
    found = service.post("/retrieve-similar", content=photographs["cat"].read_bytes()).json()["matches"]
    assert [match["id"] for match in found] == [
        match.get_attribute("data-id") for match in page.locator(".match").all()
    ]
    page.locator(".match[data-id=rocket]").click()
    expect(page.locator("#progress")).to_contain_text("rocket: ")
    expect(page.locator(".match").first).to_have_attribute("data-id", "rocket")
    assert one.violations() == []
    assert one.overflow() == 0


def test_metadata_is_shown_and_not_run(
    visit: Visit, service: httpx.Client, photographs: dict[str, Path]
) -> None:
    response = service.put(
        "/gallery/images/evil",
        content=photographs["coffee"].read_bytes(),
        params={"metadata": f'{{"label": "{EVIL}"}}'},
    )
    assert response.status_code == 201, response.text
    page = visit(f"{service.base_url}/").page
    look_at(page, photographs["cat"])
    expect(page.locator(".match .name")).to_have_text(EVIL)
    assert page.evaluate("window.injected") is None


def test_api_key_field(visit: Visit, guarded: httpx.Client, photographs: dict[str, Path]) -> None:
    one = visit(f"{guarded.base_url}/")
    one.allow("status of 401")
    page = one.page
    look_at(page, photographs["cat"])
    expect(page.get_by_label("Key")).to_be_hidden()
    page.get_by_role("button", name="Add the image to the gallery").click()
    expect(page.locator("#similar-problem")).to_contain_text("API key: missing")
    page.get_by_label("Key").fill("wrong")
    page.get_by_role("button", name="Add the image to the gallery").click()
    expect(page.locator("#similar-problem")).to_have_text("API key: wrong")
    page.get_by_label("Key").fill("open-sesame")
    page.get_by_role("button", name="Add the image to the gallery").click()
    expect(page.locator(".match")).to_have_attribute("data-id", "cat.jpg")
    expect(page.locator("#similar-problem")).to_have_text("")


def test_search_in_progress_keeps_refusal(
    visit: Visit, guarded: httpx.Client, photographs: dict[str, Path]
) -> None:
    watched = visit(f"{guarded.base_url}/")
    watched.allow("status of 401")
    page = watched.page
    searches: list[Route] = []
    page.route("**/retrieve-similar*", lambda route: searches.append(route))
    with page.expect_request("**/retrieve-similar*"):
        look_at(page, photographs["cat"])
    page.get_by_role("button", name="Add the image to the gallery").click()
    expect(page.locator("#similar-news")).to_have_text("Searching the gallery …")
    searches[0].continue_()
    expect(page.locator("#similar-problem")).to_contain_text("API key: missing")


def test_invalid_id(visit: Visit, service: httpx.Client, photographs: dict[str, Path]) -> None:
    one = visit(f"{service.base_url}/")
    page = one.page
    look_at(page, photographs["cat"])
    page.get_by_label("Name").fill("<script>")
    page.get_by_role("button", name="Add the image to the gallery").click()
    assert page.get_by_label("Name").evaluate("(input) => input.validity.patternMismatch")
    assert not [url for url in one.requests if "/gallery/images/" in url]
