"""Takes docs/screenshots: the pages of fresh services after some use, in both themes and several widths.

    make screenshots                                          # all
    .venv/bin/python -m tests.web.screenshots dashboard       # or: others

On a machine that does nothing else. Everything in the pictures is live: the dashboards are of services of
which 1, 6 and 24 models have answered RUNS requests each, and some more often; for the other pages, a few
photographs are in the gallery, one is compared, and objects are found in another. Takes about six minutes.
"""

from __future__ import annotations

import io
import random
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from models.zoo.files import NETWORKS
from models.zoo.statistics import MIN_SAMPLES
from tests.helpers.process import service_process
from tests.web.photographs import write_photographs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
RUNS = MIN_SAMPLES[0.99]
"""Runs of each model: enough for a p99."""
CLIENTS = 2
PHOTOGRAPHS = ("cat", "coffee", "rocket", "astronaut")
DEFAULT = "efficientnet-lite0-int8"
DASHBOARD = "/dashboard?since=1h"
DETECTION = "/?task=detect&detectors=centerface,ssd-mobilenet-v2"
THEMES = ("light", "dark")
HEIGHTS = {360: 780, 1280: 800, 1920: 1080}
TALLEST = 2400
"""Pixels after which a picture of a page ends."""
WAIT_MS = 120_000


def main() -> None:
    """Write a WebP for each page, theme and width."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name, sync_playwright() as playwright:
        folder = Path(name)
        photographs = write_photographs(folder, PHOTOGRAPHS)
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        if "others" not in sys.argv:
            for count in (1, 6, 24):
                dashboards(browser, folder / str(count), photographs, count)
        if "dashboard" not in sys.argv:
            others(browser, folder / "others", photographs)
        browser.close()


def dashboards(browser: Browser, data_dir: Path, photographs: dict[str, Path], count: int) -> None:
    """Pictures of the dashboard after requests to `count` models; those of 1280 pixels show one screen."""
    with service_process(NETWORKS, data_dir, default_model=DEFAULT) as process, process.client() as client:
        listed = client.get("/models").json()["models"]
        classifiers = [model["name"] for model in listed if model["card"]["task"] == "image-classification"]
        models = [DEFAULT, *(name for name in classifiers if name != DEFAULT)][:count]
        traffic(str(client.base_url), [path.read_bytes() for path in photographs.values()], models)
        for theme in THEMES:
            for width in HEIGHTS:
                with opened(browser, f"{client.base_url}{DASHBOARD}", theme, width) as page:
                    page.wait_for_selector("body[data-drawn]")
                    page.wait_for_load_state("networkidle")
                    save(page, f"dashboard-{count}-{theme}-{width}", whole=width != 1280)


def others(browser: Browser, data_dir: Path, photographs: dict[str, Path]) -> None:
    """Pictures of the playground: a comparison, and a detection."""
    with service_process(NETWORKS, data_dir, default_model=DEFAULT) as process, process.client() as client:
        gallery(client, data_dir, photographs["cat"])
        for theme in THEMES:
            for width in (1920, 360):
                with opened(browser, f"{client.base_url}/", theme, width) as page:
                    page.set_input_files("#file", photographs["cat"])
                    expect(page.locator(".card[data-explained]")).to_have_count(6, timeout=WAIT_MS)
                    save(page, f"playground-{theme}-{width}")
                with opened(browser, f"{client.base_url}{DETECTION}", theme, width) as page:
                    page.set_input_files("#file", photographs["astronaut"])
                    expect(page.locator("#progress")).to_contain_text(" by ", timeout=WAIT_MS)
                    save(page, f"detection-{theme}-{width}")


@contextmanager
def opened(browser: Browser, url: str, theme: str, width: int) -> Iterator[Page]:
    """A page in a window of that width, in that theme."""
    context = browser.new_context(viewport={"width": width, "height": HEIGHTS[width]}, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def save(page: Page, name: str, *, whole: bool = True) -> None:
    """The whole page, up to TALLEST pixels, or what the window shows of it, as `name`.webp."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=whole, animations="disabled")))
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
    picture.save(FOLDER / f"{name}.webp", quality=80, method=6)


def gallery(client: httpx.Client, folder: Path, photograph: Path) -> None:
    """Keep some photographs, a closer view of the cat in `photograph` among them."""
    kept = write_photographs(folder, (*PHOTOGRAPHS[1:], "camera", "coins", "moon", "hubble_deep_field"))
    kept["cat-closer"] = folder / "cat-closer.jpg"
    with Image.open(photograph) as cat:
        cat.crop((60, 10, 420, 290)).save(kept["cat-closer"], quality=85)
    for name, path in kept.items():
        client.put(f"/gallery/images/{name}", content=path.read_bytes()).raise_for_status()


def traffic(url: str, photographs: Sequence[bytes], models: Sequence[str]) -> None:
    """Send RUNS photographs to every model, and more to the first ones, from CLIENTS clients at a time."""
    order = [name for position, name in enumerate(models) for _ in range(RUNS + 300 // (position + 1))]
    random.Random(0).shuffle(order)

    def use(first: int) -> None:
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            for number in range(first, len(order), CLIENTS):
                photograph = photographs[number % len(photographs)]
                client.post("/classify", content=photograph, params={"model": order[number]})

    clients = [threading.Thread(target=use, args=(first,)) for first in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()


if __name__ == "__main__":
    main()
