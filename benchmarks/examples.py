"""Run the commands of README.md, docs/api.md and docs/v2.md, and insert their output below them.

    .venv/bin/python -m benchmarks.examples

Needs the test requirements (for scikit-image's photographs), jq and a free port 8000. Run it on a quiet
machine. It starts a service with a new data directory. Before the examples, it classifies photographs, so
that the service has recorded latencies.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import skimage.data
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SERVICE = "http://127.0.0.1:8000"
CLASSIFIED_FIRST = 700
"""Number of classifications before the examples. It is large enough for a p99."""


PAGES = [ROOT / name for name in ("docs/api.md", "docs/v2.md", "README.md")]
"""Pages in the order in which they are run. docs/api.md is first, because README.md uses files that the
blocks of docs/api.md make."""

KEY = "WEIGHIN_API_KEY"
"""Environment variable that sets the service's key.

Blocks that name this variable run against a service with a key, all other blocks against a service without a
key.
"""


def main() -> None:
    """Run the examples of the pages and insert their output."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for photo in ("cat", "coffee", "rocket"):
            Image.fromarray(getattr(skimage.data, photo)()).save(folder / f"{photo}.jpg", quality=90)
        shutil.copy(ROOT / "models/zoo/networks/efficientnet-lite0/model.onnx", folder / "net.onnx")
        (folder / ".venv").symlink_to(ROOT / ".venv")
        environment = {**os.environ, "WEIGHIN_DATA_DIR": str(folder / "data"), "COLUMNS": "110"}
        with running(environment):
            cat = (folder / "cat.jpg").read_bytes()
            for _ in range(CLASSIFIED_FIRST):
                urllib.request.urlopen(urllib.request.Request(f"{SERVICE}/classify", data=cat)).read()
            rewrite(folder, environment, keyed=False)
        environment[KEY] = "sesame"
        with running(environment):
            rewrite(folder, environment, keyed=True)


@contextmanager
def running(environment: dict[str, str]) -> Iterator[None]:
    """Run a service on the data directory of `environment`, which no other process may use."""
    service = subprocess.Popen([ROOT / ".venv/bin/weighin", "serve"], env=environment)
    try:
        wait_until_ready(service)
        yield
    finally:
        service.terminate()
        service.wait()


def rewrite(folder: Path, environment: dict[str, str], *, keyed: bool) -> None:
    """Run the blocks and put their output into the pages.

    If `keyed` is true, only the blocks that contain the name in KEY are run. If it is false, only the blocks
    that do not contain this name are run.
    """
    own = environment | {"WEIGHIN_DATA_DIR": str(folder / "command-line")}  # the service locks its folder

    def run_block(block: re.Match[str]) -> str:
        return run_all(block.group(), folder, own) if (KEY in block.group()) == keyed else block.group()

    for page in PAGES:
        text = re.sub(
            r"(?<=```console\n)\$ .*?(?=^```$)", run_block, page.read_text(), flags=re.DOTALL | re.MULTILINE
        )
        page.write_text(text)


def wait_until_ready(service: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{SERVICE}/readyz")
            return
        except (urllib.error.URLError, ConnectionError):
            if service.poll() is not None:
                break
            time.sleep(0.1)
    raise SystemExit("service: not ready after 30 s")


def run_all(block: str, folder: Path, environment: dict[str, str]) -> str:
    """Run the commands of a block (lines that begin with `$ `); return the commands with their outputs."""
    transcript = ""
    for command in re.findall(r"^\$ (.+)$", block, re.MULTILINE):
        print(command, file=sys.stderr)
        done = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
        )
        if done.returncode:  # not if stderr has text, because progress is printed there
            raise SystemExit(f"{command}: exit code {done.returncode}: {done.stderr}")
        output = "\n".join(line.rstrip() for line in done.stdout.rstrip().splitlines())
        transcript += f"$ {command}\n{output}\n"
    return transcript


if __name__ == "__main__":
    main()
