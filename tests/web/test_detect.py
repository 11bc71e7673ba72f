"""Object detection in the playground: boxes, list, sliders, several detectors, the camera."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image, ImageOps
from playwright.sync_api import Locator, Page, Request, expect

from tests.helpers.detectors import save_detector
from tests.web.photographs import write_photographs
from tests.web.test_playground import tiny, tiny_service
from tests.web.watched import Watched

pytestmark = pytest.mark.web

Visit = Callable[..., Watched]

RED, GREEN, BLUE, DULL = (255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 90, 0)
EVIL = '<img src=x onerror="window.injected=1">'
PLACES = """(scene) => {
  const photo = scene.querySelector("img");
  const frame = photo.getBoundingClientRect();
  const scale = Math.min(frame.width / photo.naturalWidth, frame.height / photo.naturalHeight);
  const left = frame.left + (frame.width - scale * photo.naturalWidth) / 2;
  const top = frame.top + (frame.height - scale * photo.naturalHeight) / 2;
  const place = (shape) => {
    const { x, y, width, height } = shape.getBBox();
    const { a, d, e, f } = shape.getScreenCTM();
    return [a * x + e - left, d * y + f - top, a * (x + width) + e - left, d * (y + height) + f - top];
  };
  const texts = [...scene.querySelectorAll(".box:not([hidden])")].map((box) => ({
    text: box.querySelector("text").textContent,
    box: place(box.querySelector(".edge")),
    points: [...box.querySelectorAll("circle")].map(place),
    label: place(box.querySelector("text")),
  }));
  return { scale, width: scale * photo.naturalWidth, boxes: texts };
}"""
"""What is drawn over the photograph, in pixels of the screen from the photograph's corner."""


def picture(
    size: tuple[int, int],
    *squares: tuple[tuple[int, int, int], tuple[int, int, int, int]],
    orientation: int = 1,
    format: str = "PNG",
) -> dict[str, Any]:
    """A black picture with coloured squares, as a file for an input. The orientation is that of EXIF."""
    image = Image.new("RGB", size)
    for colour, box in squares:
        image.paste(colour, box)
    exif = image.getexif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, format, exif=exif)
    kind = format.lower()
    return {"name": f"squares.{kind}", "mimeType": f"image/{kind}", "buffer": buffer.getvalue()}


SQUARES = picture(
    (320, 320), (RED, (60, 80, 80, 100)), (BLUE, (220, 200, 240, 220)), (DULL, (60, 200, 80, 220))
)
"""A red and a blue square, and a green one with a score between 0.3 and 0.5."""
SCENES = {
    "square": SQUARES,
    "turned": picture((640, 320), (RED, (40, 80, 80, 100)), (BLUE, (400, 240, 440, 260)), orientation=6),
    "tall": picture((100, 1500), (RED, (40, 0, 100, 200)), (GREEN, (0, 1200, 60, 1500))),
}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service is with a classifier and two small detectors."""

    def detectors(zoo: Path) -> None:
        save_detector(zoo, "colours")
        save_detector(zoo, "anchors", "ssd-anchors", detection={"min_score": 0.6})

    folder = tmp_path_factory.mktemp("detectors")
    with tiny_service(folder, tiny(), detectors, default_detector="colours") as address:
        yield address


def choose(page: Page, file: dict[str, Any], detectors: int = 1) -> None:
    """Choose a file and wait for its objects."""
    page.set_input_files("#file", file)
    counts = ", ".join([r"\d+ objects? by [\w-]+"] * detectors)
    expect(page.locator("#progress")).to_have_text(re.compile(rf"^{re.escape(file['name'])}: {counts}\.$"))


def scene(page: Page, name: str = "colours") -> Locator:
    return page.locator(f".scene[data-model='{name}']")


def listed(page: Page, name: str = "colours") -> list[str]:
    """Return label and score of the listed objects."""
    objects = scene(page, name).locator(".objects > li:not([hidden])")
    labels, scores = (objects.locator(part).all_inner_texts() for part in (".label", ".share"))
    return [f"{label} {score}" for label, score in zip(labels, scores, strict=True)]


def found(url: str, file: dict[str, Any], **parameters: object) -> list[dict[str, Any]]:
    """Return what POST /detect finds in a file."""
    with httpx.Client(base_url=url, trust_env=False) as client:
        answer = client.post("/detect", content=file["buffer"], params=parameters)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    detections: list[dict[str, Any]] = answer.json()["detections"]
    return detections


def named(detections: list[dict[str, Any]]) -> list[str]:
    return [f"{one['label']} {one['score']:.2f}" for one in detections]


def set_score(page: Page, score: float, name: str = "colours") -> None:
    scene(page, name).get_by_role("slider").fill(str(score))


def test_switch_of_the_task(visit: Visit, url: str) -> None:
    one = visit(f"{url}/")
    one.allow(r"status of 409.*/explain")
    page = one.page
    page.set_input_files("#file", SQUARES)
    expect(page.locator("#answers")).to_be_visible()
    page.get_by_role("radio", name="Detect objects").check()
    expect(page).to_have_url(f"{url}/?task=detect")
    expect(scene(page)).to_be_visible()
    expect(page.locator("#answers")).to_be_hidden()
    expect(page.get_by_label("Baseline")).to_be_hidden()
    page.get_by_role("checkbox", name="anchors").check()
    expect(page).to_have_url(f"{url}/?task=detect&detectors=anchors%2Ccolours")
    expect(page.locator(".scene")).to_have_count(2)
    page.go_back()
    expect(page.locator(".scene")).to_have_count(1)
    page.go_back()
    expect(page.locator("#answers")).to_be_visible()
    expect(page.get_by_role("radio", name="Classify")).to_be_checked()
    expect(page.locator("#found")).to_be_hidden()


def test_a_view_in_the_url(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect&detectors=anchors,colours&min_score=0.6,0.3").page
    choose(page, SQUARES, detectors=2)
    assert len(listed(page)) == 3
    set_score(page, 0.9, "anchors")
    expect(page).to_have_url(f"{url}/?task=detect&detectors=anchors%2Ccolours&min_score=0.9%2C0.3")
    page.reload()
    choose(page, SQUARES, detectors=2)
    assert [len(listed(page)), len(listed(page, "anchors"))] == [3, 2]


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("file", SCENES.values(), ids=SCENES)
def test_boxes_equal_the_response(visit: Visit, url: str, file: dict[str, Any], width: int) -> None:
    page = visit(f"{url}/?task=detect", width=width).page
    choose(page, file)
    detections = found(url, file, model="colours", min_score=0.5)
    assert len(detections) >= 2
    scene(page).locator("img").evaluate("(photo) => photo.decode()")
    drawn = scene(page).evaluate(PLACES)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(file["buffer"])))
    assert drawn["width"] == pytest.approx(drawn["scale"] * upright.width, abs=0.1)
    by_area = sorted(detections, key=lambda one: _area(one["box"]), reverse=True)
    for box, detection in zip(drawn["boxes"], by_area, strict=True):
        edges = [detection["box"][edge] * drawn["scale"] for edge in ("left", "top", "right", "bottom")]
        assert box["box"] == pytest.approx(edges, abs=1)
        (point,) = detection["landmarks"]
        centre = [(box["points"][0][axis] + box["points"][0][axis + 2]) / 2 for axis in (0, 1)]
        assert centre == pytest.approx([point["x"] * drawn["scale"], point["y"] * drawn["scale"]], abs=1)
        assert 12 <= box["label"][3] - box["label"][1] <= 20, "labels have one size on the screen"
    assert sorted(box["text"] for box in drawn["boxes"]) == sorted(named(detections))
    assert listed(page) == named(detections)


def _area(box: dict[str, float]) -> float:
    return (box["right"] - box["left"]) * (box["bottom"] - box["top"])


def test_slider_filters_without_a_request(visit: Visit, url: str) -> None:
    one = visit(f"{url}/?task=detect")
    page = one.page
    choose(page, SQUARES)
    requests = len(one.requests)
    counts = set()
    for score in (0.05, 0.2, 0.34, 0.37, 0.8, 1):
        set_score(page, score)
        expected = found(url, SQUARES, model="colours", min_score=score)
        assert listed(page) == named(expected)
        assert scene(page).locator(".box:not([hidden])").count() == len(expected)
        count = "No object" if not expected else f"{len(expected)} object{'s' * (len(expected) > 1)}"
        said = f"{count} with a score of at least {score:.2f}"
        expect(scene(page).locator(".count")).to_contain_text(said)
        announced = f"squares.png: {len(expected)} object{'s' * (len(expected) != 1)} by colours."
        expect(page.get_by_role("status").first).to_have_text(announced)
        counts.add(len(expected))
    assert len(counts) >= 3
    # Chromium looks for the icon again when the URL changes.
    assert [asked for asked in one.requests[requests:] if not asked.endswith("/icon.svg")] == []


def test_person_and_face_of_a_photograph(visit: Visit, zoo_url: str, tmp_path: Path) -> None:
    """The detectors of the zoo, on a photograph of an astronaut."""
    photograph = write_photographs(tmp_path, ["astronaut"])["astronaut"]
    file = {"name": photograph.name, "mimeType": "image/jpeg", "buffer": photograph.read_bytes()}
    page = visit(f"{zoo_url}/?task=detect").page
    for box in page.locator("#detectors input:checked").all():
        expect(box).to_have_value("ssd-mobilenet-v2")
    page.get_by_role("checkbox", name="centerface", exact=True).check()
    choose(page, file, detectors=2)
    assert [text.split()[0] for text in listed(page, "ssd-mobilenet-v2")] == ["Person"]
    assert [text.split()[0] for text in listed(page, "centerface")] == ["face"]
    expect(scene(page, "centerface").locator(".box:not([hidden]) circle")).to_have_count(5)
    drawn = [scene(page, name).evaluate(PLACES) for name in ("ssd-mobilenet-v2", "centerface")]
    person, face = ([edge / one["scale"] for edge in one["boxes"][0]["box"]] for one in drawn)
    assert person[0] < face[0] < face[2] < person[2]
    assert person[1] < face[1] < face[3] < person[3]


def test_nothing_found(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect").page
    choose(page, picture((100, 80)))
    status = scene(page).locator(".count")
    expect(status).to_have_text("No object with a score of at least 0.50.")
    dull = picture((320, 320), (DULL, (60, 200, 80, 220)))
    choose(page, dull)
    best = found(url, dull, min_score=0.05)[0]["score"]
    expect(status).to_have_text(f"No object with a score of at least 0.50. The highest score is {best:.2f}.")
    expect(scene(page).locator(".box:not([hidden])")).to_have_count(0)


def test_two_detectors_side_by_side(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect&detectors=anchors,colours").page
    choose(page, SQUARES, detectors=2)
    for name, other in (("anchors", "colours"), ("colours", "anchors")):
        marks = scene(page, name).locator(".objects > li:not([hidden]) .mark")
        expect(marks).to_have_text([f"also {other}"] * 2)
        expect(scene(page, name).locator(".count")).to_contain_text("Found by no other detector: 0.")
    set_score(page, 0.3, "anchors")
    set_score(page, 0.3)
    with httpx.Client(base_url=url, trust_env=False) as client:
        parameters = {"models": "anchors,colours", "min_score": 0.3}
        answer = client.post("/compare", content=SQUARES["buffer"], params=parameters).json()
    assert [len(one["found_by"]) for one in answer["objects"]] == [2, 2, 1]
    marks = scene(page).locator(".objects > li:not([hidden]) .mark")
    expect(marks).to_have_text(["also anchors", "also anchors", "only here"])
    expect(scene(page).locator(".count")).to_contain_text("Found by no other detector: 1.")
    expect(scene(page).locator(".box.alone:not([hidden])")).to_have_count(1)
    scene(page).locator(".object:visible").first.focus()
    expect(scene(page, "anchors").locator(".box.lit")).to_have_count(1)


def test_objects_with_the_keyboard(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect").page
    choose(page, SQUARES)
    scene(page).get_by_role("slider").focus()
    page.keyboard.press("Home")
    expect(scene(page).locator(".object:visible")).to_have_count(len(found(url, SQUARES, min_score=0.05)))
    for index in range(2):
        page.keyboard.press("Tab")
        text = page.evaluate("document.activeElement.innerText")
        assert text.startswith(listed(page)[index].split()[0])
        lit = scene(page).locator(".box.lit")
        expect(lit).to_have_count(1)
        expect(lit.locator("text")).to_have_text(listed(page)[index])
    page.keyboard.press("Enter")
    page.keyboard.press("Shift+Tab")
    expect(scene(page).locator(".box.lit")).to_have_count(2)


def test_colours_of_classes(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect", color_scheme="light").page
    squares = [(colour, (60 * n, 80, 60 * n + 20, 100)) for n, colour in enumerate((RED, GREEN, BLUE), 1)]
    choose(page, picture((320, 320), *squares))
    edges = scene(page).locator(".box:not([hidden]) .edge")
    expect(edges).to_have_count(3)
    seen = set()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        paper = _luminance(_rgb(page, "body", "backgroundColor"))
        for n in range(3):
            colour = _rgb(page, f".box:nth-of-type({n + 1}) .edge", "stroke")
            seen.add(colour)
            darker, lighter = sorted((paper, _luminance(colour)))
            assert (lighter + 0.05) / (darker + 0.05) >= 3
    assert len(seen) == 6


def _rgb(page: Page, selector: str, name: str) -> tuple[int, ...]:
    """Return the red, green and blue of a computed colour."""
    pixel = page.evaluate(
        """([selector, name]) => {
          const context = document.createElement("canvas").getContext("2d");
          context.fillStyle = getComputedStyle(document.querySelector(selector))[name];
          context.fillRect(0, 0, 1, 1);
          return [...context.getImageData(0, 0, 1, 1).data];
        }""",
        [selector, name],
    )
    return tuple(pixel[:3])


def _luminance(colour: tuple[int, ...]) -> float:
    """Return the relative luminance of WCAG."""
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (part / 255 for part in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("width", [360, 1920])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_detection_page_is_in_order(visit: Visit, url: str, scheme: str, width: int) -> None:
    one = visit(f"{url}/?task=detect&detectors=anchors,colours", width=width, color_scheme=scheme)
    assert one.overflow() == 0
    assert one.violations() == []
    choose(one.page, SQUARES, detectors=2)
    set_score(one.page, 0.05)
    assert one.overflow() == 0
    assert one.violations() == []


def test_objects_in_formats_unknown_to_the_browser(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect").page
    file = picture((320, 320), (RED, (60, 80, 80, 100)), format="TIFF")
    choose(page, file)
    expect(scene(page)).to_have_class(re.compile("no-photo"))
    assert listed(page) == named(found(url, file))
    expect(scene(page).locator(".box:not([hidden]) .edge")).to_be_visible()


def test_label_with_markup(visit: Visit, tmp_path: Path) -> None:
    def evil(zoo: Path) -> None:
        folder = save_detector(zoo, "colours")
        (folder / "labels.txt").write_text(f"{EVIL}\ngreen\nblue\n")

    with tiny_service(tmp_path, tiny(), evil) as url:
        page = visit(f"{url}/?task=detect").page
        choose(page, SQUARES)
        assert EVIL in scene(page).locator(".objects .label").first.inner_text()
        assert page.evaluate("window.injected") is None


def test_no_detector_is_chosen(visit: Visit, url: str) -> None:
    page = visit(f"{url}/?task=detect").page
    choose(page, SQUARES)
    page.get_by_role("checkbox", name="colours").uncheck()
    expect(page.get_by_role("alert").filter(has_text="Choose at least one detector.")).to_be_visible()
    expect(page.locator("#found")).to_be_hidden()


class Traffic:
    """The inference requests of a page: how many in all, under way, and most at one time."""

    def __init__(self, page: Page, path: str) -> None:
        self.count = self.running = self.most = 0
        page.on("request", lambda request: self._begin() if self._is(request, path) else None)
        for event in ("requestfinished", "requestfailed"):
            page.on(event, lambda request: self._end() if self._is(request, path) else None)  # type: ignore[call-overload]

    @staticmethod
    def _is(request: Request, path: str) -> bool:
        return request.method == "POST" and httpx.URL(request.url).path == path

    def _begin(self) -> None:
        self.count += 1
        self.running += 1
        self.most = max(self.most, self.running)

    def _end(self) -> None:
        self.running -= 1


@pytest.mark.parametrize("task", ["classify", "detect"])
def test_live_camera(visit: Visit, url: str, task: str) -> None:
    one = visit(f"{url}/?task={task}", permissions=["camera"])
    page = one.page
    traffic = Traffic(page, f"/{task}")
    page.get_by_role("button", name="Use the camera").click()
    live = page.get_by_role("button", name="Run live")
    live.click()
    rate = page.locator("#rate")
    expect(rate).to_have_text(re.compile(r"^\d+(\.\d+)? images/s$"))
    if task == "classify":
        expect(page.locator("#live-classes li")).to_have_count(5)
    else:
        expect(scene(page).locator("canvas")).to_be_visible()
        slider = scene(page).get_by_role("slider")
        slider.focus()
        page.keyboard.press("ArrowRight")
        _frames(page, 5)
        expect(slider).to_be_focused()
    assert one.overflow() == 0
    assert one.violations() == []
    _hide(page, True)
    expect(rate).to_have_text("Paused while the page is hidden.")
    paused = traffic.count
    _frames(page, 5)
    assert (traffic.count, traffic.running) == (paused, 0)
    _hide(page, False)
    expect(rate).to_have_text(re.compile("images/s"))
    assert traffic.count > paused
    live.click()
    expect(rate).to_have_text("")
    expect(live).to_have_attribute("aria-pressed", "false")
    assert traffic.most == 1


def _hide(page: Page, hidden: bool) -> None:
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def _frames(page: Page, count: int) -> None:
    """Wait for that many frames of the camera."""
    page.evaluate(
        """async (count) => {
          const video = document.getElementById("video");
          for (; count; count -= 1) await new Promise((resolve) => video.requestVideoFrameCallback(resolve));
        }""",
        count,
    )
