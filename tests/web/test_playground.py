"""The playground in a browser: a picture comes in, and six models answer side by side."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, Route, expect

from service.settings import Settings
from tests.conftest import make_tiny_model
from tests.service.api.test_overload import posting
from tests.service.conftest import running
from tests.web.services import NO_HURRY
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]
Photographs = dict[str, Path]

ZOO = {f"efficientnet-lite{size}{suffix}" for size in (0, 1, 2) for suffix in ("", "-int8")}
EVIL = '<img src=x onerror="window.injected=1"><script>window.injected=1</script>'
GIVE = """([type, content, name, kind]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, { type: kind }));
  const options = { bubbles: true, cancelable: true };
  const event = type === "paste"
    ? new ClipboardEvent(type, { ...options, clipboardData: data })
    : new DragEvent(type, { ...options, dataTransfer: data });
  (type === "paste" ? document.body : document.getElementById("drop")).dispatchEvent(event);
}"""


def give(page: Page, event: str, path: Path, kind: str = "image/jpeg") -> None:
    """Drop or paste a file."""
    content = base64.b64encode(path.read_bytes()).decode()
    page.evaluate(GIVE, [event, content, path.name, kind])


def looked(page: Page, path: Path) -> None:
    """Wait until the comparison is shown, and every model's map or the reason why it has none."""
    expect(page.locator("#progress")).to_have_text(f"{path.name}: {rows(page).count()} models, 5 runs each.")
    expect(page.locator("#cards figcaption", has_text="Computing")).to_have_count(0)


def choose(page: Page, path: Path) -> None:
    page.set_input_files("#file", path)
    expect(page.locator("#progress")).to_contain_text(f"{path.name}: ")
    looked(page, path)


def rows(page: Page) -> Locator:
    return page.locator("#rows tr")


def column(page: Page, name: str) -> list[str]:
    if name == "Model":
        return [text.split()[0] for text in page.locator("#rows th").all_inner_texts()]
    return page.locator(f"#rows td[data-name='{name}']").all_inner_texts()


def map_of(card: Locator) -> str:
    """The pixels of the map that lies over a card's picture, as a data URL."""
    pixels: str = card.locator(".map").evaluate(
        """async (map) => {
          await map.decode();
          const canvas = document.createElement("canvas");
          canvas.width = map.naturalWidth;
          canvas.height = map.naturalHeight;
          canvas.getContext("2d").drawImage(map, 0, 0);
          return canvas.toDataURL();
        }"""
    )
    return pixels


@contextmanager
def tiny_service(folder: Path, *models: Callable[[Path], object], **settings: object) -> Iterator[str]:
    """A service with models of its own; yields its address."""
    for make in models:
        make(folder / "zoo")
    given = {"model_dirs": (folder / "zoo",), "default_model": "tiny", "data_dir": folder / "data"}
    with running(Settings(**(given | NO_HURRY | settings))) as client:  # type: ignore[arg-type]
        yield str(client.base_url).rstrip("/")


def tiny(name: str = "tiny", seed: int = 0) -> Callable[[Path], object]:
    return lambda zoo: make_tiny_model(zoo, name, seed=seed)


@pytest.fixture
def playground(visit: Visit, zoo_url: str) -> Watched:
    """The page of a service with the project's models."""
    return visit(f"{zoo_url}/")


def test_drop_a_photograph(playground: Watched, photographs: Photographs) -> None:
    page = playground.page
    give(page, "drop", photographs["cat"])
    expect(rows(page)).to_have_count(6)
    looked(page, photographs["cat"])
    assert set(column(page, "Model")) == ZOO
    assert all("cat" in label or "Mau" in label for label in column(page, "Top-1"))
    for card in page.locator(".card").all():
        shares = card.locator(".share").all_inner_texts()
        assert len(shares) == 5
        assert shares == sorted(shares, key=lambda text: -float(text.split()[0]))
    assert "451 × 300 pixels, JPEG" in page.locator("#facts").inner_text()
    assert not [url for url in playground.requests if not url.startswith(("blob:", playground.origin))]


def test_page_equals_the_response(playground: Watched, photographs: Photographs) -> None:
    page = playground.page
    answers = []

    def listen(route: Route) -> None:
        response = route.fetch()
        answers.append(response.json())
        route.fulfill(response=response)

    page.route("**/compare?*", listen)
    choose(page, photographs["coffee"])
    (answer,) = answers
    by_name = {one["model"]: one for one in answer["results"]}
    for name, label, speed_up, size in zip(
        column(page, "Model"),
        column(page, "Top-1"),
        column(page, "Speed-up"),
        column(page, "Size"),
        strict=True,
    ):
        one = by_name[name]
        assert label.startswith(one["predictions"][0]["label"])
        assert float(speed_up.split()[0]) == pytest.approx(one["speedup"], abs=0.006)
        assert size == f"{one['file_bytes'] / 1e6:.1f} MB"
    most = max(answer["agreement"]["labels"].values(), key=len)
    leaders = [names for names in answer["agreement"]["labels"].values() if len(names) == len(most)]
    expected = ZOO - set(most) if len(leaders) == 1 else ZOO
    marked = page.locator("#rows tr:has(.mark) th").all_inner_texts()
    assert {text.split()[0] for text in marked} == expected


def test_who_disagrees_is_marked(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    """Two models with the same weights against one with others."""
    with tiny_service(tmp_path, tiny(), tiny("twin"), tiny("other", seed=1)) as url:
        one = visit(f"{url}/")
        one.allow(r"status of 409.*/explain")
        choose(one.page, photographs["cat"])
        assert one.page.locator("#rows tr:has(.mark)").all_inner_texts()[0].startswith("other")
        expect(one.page.locator("#rows .mark")).to_have_text(["disagrees"])
        expect(one.page.locator("#cards .card[data-model=other] h3 .mark")).to_have_text("disagrees")
        expect(one.page.locator("#verdict")).to_contain_text("Disagreement: ")


def test_no_majority_is_marked_as_split(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    with tiny_service(tmp_path, tiny(), tiny("other", seed=1)) as url:
        one = visit(f"{url}/")
        one.allow(r"status of 409.*/explain")
        choose(one.page, photographs["cat"])
        expect(one.page.locator("#rows .mark")).to_have_text(["split", "split"])
        expect(one.page.locator("#verdict")).to_contain_text("No majority: ")


def test_the_map_changes_with_the_class(playground: Watched, photographs: Photographs) -> None:
    page = playground.page
    choose(page, photographs["cat"])
    for model in ("efficientnet-lite0", "efficientnet-lite2-int8"):
        card = page.locator(f".card[data-model={model}]")
        seen = {}
        for index in (0, 1, 4):
            button = card.locator(".class").nth(index)
            button.click()
            label = button.locator(".label").inner_text()
            expect(card.locator("figcaption")).to_have_text(f"Class activation map: {label}")
            expect(button).to_have_attribute("aria-pressed", "true")
            expect(card.locator("[aria-pressed=true]")).to_have_count(1)
            assert card.locator(".map").get_attribute("alt") == f"Class activation map of {model} for {label}"
            seen[map_of(card)] = label
        assert len(seen) == 3
    page.get_by_label("Show maps over the image").uncheck()
    expect(page.locator(".map").first).to_be_hidden()


def test_model_without_an_exact_map(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    with tiny_service(tmp_path, tiny()) as url:
        one = visit(f"{url}/")
        one.allow(r"status of 409.*/explain")
        page = one.page
        page.set_input_files("#file", photographs["cat"])
        expect(page.locator("figcaption")).to_contain_text("model 'tiny': no exact map")
        expect(page.locator("#progress")).to_have_text("cat.jpg: 1 model, 5 runs each.")


def test_paste_a_picture(playground: Watched, photographs: Photographs) -> None:
    page = playground.page
    choose(page, photographs["cat"])
    give(page, "paste", photographs["rocket"])
    expect(page.locator("#progress")).to_contain_text("rocket.jpg: ")
    looked(page, photographs["rocket"])
    assert not any("cat" in label for label in column(page, "Top-1"))


def test_a_picture_from_the_camera(visit: Visit, zoo_url: str) -> None:
    one = visit(f"{zoo_url}/", permissions=["camera"])
    page = one.page
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Take a photo").click()
    expect(page.locator("#progress")).to_contain_text("camera.jpg: 6 models")
    page.get_by_role("button", name="Stop the camera").click()
    expect(page.locator("#viewfinder")).to_be_hidden()
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_sorting(playground: Watched, photographs: Photographs) -> None:
    page = playground.page
    choose(page, photographs["cat"])
    for name, first, then in (("Size", "ascending", "descending"), ("Accuracy", "descending", "ascending")):
        for direction in (first, then):
            page.get_by_role("button", name=name, exact=True).press("Enter")
            header = page.locator("#columns th", has_text=name)
            expect(header).to_have_attribute("aria-sort", direction)
            expect(page.locator("#columns [aria-sort]")).to_have_count(1)
            assert page.evaluate("document.activeElement.textContent").startswith(name), "the focus stays"
            values = [float(text.split()[0]) for text in column(page, name)]
            assert values == sorted(values, reverse=direction == "descending")
            cards = [card.get_attribute("data-model") for card in page.locator(".card").all()]
            assert cards == column(page, "Model")


def test_choose_the_baseline(playground: Watched, photographs: Photographs) -> None:
    page = playground.page
    choose(page, photographs["cat"])
    page.get_by_label("Baseline").select_option("efficientnet-lite2")
    row = page.locator("#rows tr", has=page.locator("th", has_text="efficientnet-lite2 baseline"))
    expect(row.locator("td[data-name='Speed-up']")).to_have_text("1.00 ×")
    expect(page.locator("#facts")).to_contain_text("relative to efficientnet-lite2.")


def test_undecodable_file(playground: Watched, tmp_path: Path, photographs: Photographs) -> None:
    playground.allow("status of 415.*/compare")
    page = playground.page
    choose(page, photographs["cat"])
    text = tmp_path / "notes.txt"
    text.write_text("not a picture")
    give(page, "drop", text, "text/plain")
    expect(page.get_by_role("alert").filter(has_text="image: unknown type")).to_be_visible()
    expect(page.locator("#answers")).to_be_hidden()
    choose(page, photographs["coffee"])
    expect(page.locator("#problem")).to_have_text("")
    expect(page.locator("#answers")).to_be_visible()


def test_picture_over_the_size_limit(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    with tiny_service(tmp_path, tiny(), max_body_bytes=1000) as url:
        one = visit(f"{url}/")
        one.allow("status of 413|ERR_CONNECTION")
        one.page.set_input_files("#file", photographs["cat"])
        expect(one.page.locator("#problem")).to_contain_text("limit: 1000")


def test_unreachable_service(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    with tiny_service(tmp_path, tiny()) as url:
        one = visit(f"{url}/")
        one.allow("ERR_CONNECTION_REFUSED")
    one.page.set_input_files("#file", photographs["cat"])
    expect(one.page.locator("#problem")).to_have_text("The service does not answer. Is it running?")
    expect(one.page.locator("body")).not_to_have_class("busy")


def test_it_waits_for_another_comparison(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    held = tmp_path / "held.png"
    Image.new("RGB", (8000, 8000), "green").save(held, compress_level=1)
    with tiny_service(tmp_path, tiny()) as url, httpx.Client(base_url=url, trust_env=False) as client:
        one = visit(f"{url}/")
        one.allow(r"status of 409.*/explain|status of 503.*/compare")
        with posting(client, held.read_bytes(), "/compare") as answers:
            while client.get("/metrics").text.count("weighin_requests_running 0"):
                pass
            one.page.set_input_files("#file", photographs["cat"])
            expect(one.page.locator("#progress")).to_contain_text("another one is running")
        expect(one.page.locator("#progress")).to_have_text("cat.jpg: 1 model, 5 runs each.")
    assert answers[0].status_code == 200


def test_file_name_with_markup(visit: Visit, tmp_path: Path, photographs: Photographs) -> None:
    """A label and a file's name with markup in them."""

    def evil(zoo: Path) -> None:
        folder = make_tiny_model(zoo, "tiny")
        (folder / "labels.txt").write_text("".join(f"{index} {EVIL}\n" for index in range(10)))

    with tiny_service(tmp_path, evil) as url:
        one = visit(f"{url}/")
        one.allow(r"status of 409.*/explain")
        page = one.page
        page.set_input_files(
            "#file", {"name": "<b>x.jpg", "mimeType": "image/jpeg", "buffer": photographs["cat"].read_bytes()}
        )
        expect(page.locator("#progress")).to_have_text("<b>x.jpg: 1 model, 5 runs each.")
        expect(page.locator(".class .label").first).to_contain_text(EVIL)
        assert EVIL in column(page, "Top-1")[0]
        assert page.evaluate("window.injected") is None


def test_preview_of_formats_unknown_to_the_browser(playground: Watched, tmp_path: Path) -> None:
    import skimage.data

    tiff = tmp_path / "cat.tiff"
    Image.fromarray(skimage.data.cat()).save(tiff)
    page = playground.page
    page.set_input_files("#file", tiff)
    expect(page.locator(".card.no-photo .map")).to_have_count(6)
    looked(page, tiff)
    card = page.locator(".card").first
    expect(card.locator("figcaption")).to_contain_text("Class activation map: ")
    assert card.locator(".map").evaluate("(map) => map.naturalWidth") == 451


def test_with_the_keyboard_alone(playground: Watched, photographs: Photographs) -> None:
    page = playground.page

    def tab_to(name: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.innerText ?? ''").startswith(name):
                return
        raise AssertionError(f"the tab key never leads to {name}")

    page.on("filechooser", lambda chooser: chooser.set_files(photographs["cat"]))
    expect(page.get_by_role("button", name="Choose an image")).to_be_enabled()
    tab_to("Choose an image")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text("6 models, 5 runs each")
    looked(page, photographs["cat"])
    tab_to("Size")
    page.keyboard.press("Space")
    expect(page.locator("#columns th", has_text="Size")).to_have_attribute("aria-sort", "ascending")
    card = page.locator(".card").first
    second = card.locator(".class .label").nth(1).inner_text()
    tab_to(second)
    page.keyboard.press("Enter")
    expect(card.locator("figcaption")).to_have_text(f"Class activation map: {second}")


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_full_page_is_in_order(
    visit: Visit, zoo_url: str, photographs: Photographs, scheme: str, width: int
) -> None:
    one = visit(f"{zoo_url}/", width=width, color_scheme=scheme)
    choose(one.page, photographs["cat"])
    assert one.overflow() == 0
    assert one.violations() == []
