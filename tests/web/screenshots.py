"""Takes docs/screenshots: the pages of a fresh service after a few minutes of use, in both themes and widths.

    make screenshots

On a machine that does nothing else, with everything committed: a benchmark that was disturbed, or of a tree
with changes, is no evidence, and the view of accuracy, latency and size stays empty. Everything in the
pictures is live: a few photographs are in the gallery, others are classified for TRAFFIC_S seconds by CLIENTS
clients, a quick benchmark is run, one photograph is compared, and objects are found in another. Takes about
five minutes.
"""

from __future__ import annotations

import io
import random
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from models.zoo.files import NETWORKS
from tests.helpers.process import service_process
from tests.web.photographs import write_photographs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screenshots"
TRAFFIC_S = 150
CLIENTS = 2
PHOTOGRAPHS = ("cat", "coffee", "rocket", "astronaut")
DASHBOARD = "/dashboard?since=15m&stage=total"
DETECTION = "/?task=detect&detectors=centerface,ssd-mobilenet-v2"
TALLEST = 2400
"""Pixels after which a picture of a page ends."""
WAIT_MS = 120_000


def main() -> None:
    """Write a WebP for each page, theme and width."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as name,
        service_process(NETWORKS, Path(name, "data"), default_model="efficientnet-lite0-int8") as process,
        process.client() as client,
        sync_playwright() as playwright,
    ):
        photographs = write_photographs(Path(name), PHOTOGRAPHS)
        gallery(client, Path(name))
        benchmark(client)
        traffic(str(client.base_url), [path.read_bytes() for path in photographs.values()])
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        for theme in ("light", "dark"):
            for width in (1920, 360):
                with opened(browser, f"{client.base_url}/", theme, width) as page:
                    page.set_input_files("#file", photographs["cat"])
                    expect(page.locator(".card[data-explained]")).to_have_count(6, timeout=WAIT_MS)
                    save(page, f"playground-{theme}-{width}")
                with opened(browser, f"{client.base_url}{DETECTION}", theme, width) as page:
                    page.set_input_files("#file", photographs["astronaut"])
                    expect(page.locator("#progress")).to_contain_text(" by ", timeout=WAIT_MS)
                    save(page, f"detection-{theme}-{width}")
                with opened(browser, f"{client.base_url}{DASHBOARD}", theme, width) as page:
                    page.wait_for_selector("body[data-drawn]")
                    page.wait_for_load_state("networkidle")
                    save(page, f"dashboard-{theme}-{width}")
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, theme: str, width: int) -> Iterator[Page]:
    """A page in a window of that width, in that theme."""
    height = 1080 if width > 1000 else 780
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)  # type: ignore[arg-type]
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()


def save(page: Page, name: str) -> None:
    """The whole page, up to TALLEST pixels, as `name`.webp."""
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
    picture.save(FOLDER / f"{name}.webp", quality=80, method=6)


def gallery(client: httpx.Client, folder: Path) -> None:
    """Keep some photographs, a closer view of the cat among them."""
    kept = write_photographs(folder, (*PHOTOGRAPHS[1:], "camera", "coins", "moon", "hubble_deep_field"))
    kept["cat-closer"] = folder / "cat-closer.jpg"
    with Image.open(folder / "cat.jpg") as cat:
        cat.crop((60, 10, 420, 290)).save(kept["cat-closer"], quality=85)
    for name, path in kept.items():
        client.put(f"/gallery/images/{name}", content=path.read_bytes()).raise_for_status()


def benchmark(client: httpx.Client) -> None:
    """A quick controlled benchmark, to its end: the accuracy-latency view is drawn from it."""
    made = client.post("/benchmarks", json={"profile": "quick"}).raise_for_status().json()
    with client.stream("GET", f"/benchmarks/{made['id']}/events", timeout=None) as events:
        for _ in events.iter_lines():
            pass
    state = client.get(f"/benchmarks/{made['id']}").json()["state"]
    if state != "done":
        raise SystemExit(f"the benchmark is {state}")


def traffic(url: str, photographs: list[bytes]) -> None:
    """Send photographs to every model, some more often than others, from CLIENTS clients at a time."""
    end = time.monotonic() + TRAFFIC_S

    def use(seed: int) -> None:
        choice = random.Random(seed)
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            models = client.get("/models").json()["models"]
            weights = [1.0 / (position + 1) for position in range(len(models))]
            while time.monotonic() < end:
                model = choice.choices(models, weights)[0]
                route = "/detect" if model["card"]["task"] == "object-detection" else "/classify"
                client.post(route, content=choice.choice(photographs), params={"model": model["name"]})

    clients = [threading.Thread(target=use, args=(seed,)) for seed in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()


if __name__ == "__main__":
    main()
