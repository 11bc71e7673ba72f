"""Time `weighin evaluate`: on Fashion-MNIST, and on ImageNet-sized photos compared with bare sessions.

    .venv/bin/python -m benchmarks.evaluation [fashion] [photos]

Needs `make fashion` and `make photos`. `fashion` measures the time of the whole command on the 10 000 test
images as PNG files (goal: 120 s on two cores). `photos` evaluates all ImageNet models and prints two figures.
The first figure is the rate of the evaluation, decoding included, divided by the rate of the same sessions
alone, on the same number of threads (goal: 0.9). The second figure is the share of the threads' time that is
spent in sessions; other load on the machine affects it less.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from models.data.fashion_mnist import default_folder, load_test
from models.data.photos import crops
from models.zoo.files import NETWORKS
from models.zoo.labels import BUILT_IN
from models.zoo.preprocess import preprocess
from service.evaluation.choose import choose
from service.evaluation.progress import Progress
from service.evaluation.readers.read import read_dataset
from service.evaluation.run import Runner, Subject
from service.inference.cpu import core_budget
from service.inference.registry import Registry

PHOTOS = Path(".cache/photos")
PACKAGES = ("lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds")
PER_PHOTO = 4
SIZE = (500, 375)
"""Width and height of the photos: the most frequent size in ImageNet."""
ROUNDS = 5


def main() -> None:
    """Measure the parts that the arguments name, by default both."""
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or ("fashion", "photos"):
            {"fashion": time_fashion, "photos": time_photos}[name](Path(folder))


def time_fashion(folder: Path) -> None:
    """Write the test images, evaluate them and print the seconds."""
    data = folder / "fashion"
    write_fashion(data)
    models = sorted(path.name for path in NETWORKS.glob("fashion-*"))
    command = [sys.executable, "-m", "service", "evaluate", "--data", str(data), "--models", ",".join(models)]
    env = os.environ | {"WEIGHIN_DATA_DIR": str(folder / "data")}
    start = time.perf_counter()
    subprocess.run(command, env=env, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    print(f"10 000 pictures, {len(models)} models, {core_budget()} cores: {seconds:.1f} s (goal: 120 s)")


def write_fashion(data: Path) -> None:
    """Write the test images of Fashion-MNIST as PNG files, a folder per class."""
    images = load_test(default_folder())
    names = (BUILT_IN / "fashion-mnist.txt").read_text().splitlines()
    folders = [data / name.replace("/", " ") for name in names]
    for path in folders:
        path.mkdir(parents=True)
    for number, (pixels, class_id) in enumerate(zip(images.pixels, images.classes.tolist(), strict=True)):
        Image.fromarray(pixels).save(folders[class_id] / f"{number:05}.png")


def time_photos(folder: Path) -> None:
    """Write photos, then evaluate them and run bare sessions in turn, and print the figures of `photos`.

    The module's description explains the figures.
    """
    data = folder / "photos"
    for number, pixels in enumerate(crops(PHOTOS, PACKAGES, PER_PHOTO)):
        path = data / ("tench", "goldfish")[number % 2] / f"{number:04}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize(SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
    dataset = read_dataset(data)
    subjects = choose(Registry((NETWORKS,), "efficientnet-lite0-int8"), dataset, {}).subjects
    count, threads = len(dataset.pictures), core_budget()
    ratios, rates, shares = [], [], []
    before = bare_seconds(subjects, count, threads)
    for number in range(ROUNDS):
        with Progress(folder / f"kept-{number}", data) as progress:
            runner = Runner(dataset, subjects, progress, threads=threads, max_pixels=10**8)
            run = runner.run(lambda _: None, threading.Event())
        after = bare_seconds(subjects, count, threads)
        ratios.append((before + after) / 2 / run.seconds)
        rates.append(count / run.seconds)
        shares.append(run.inference_s / threads / run.seconds)
        before = after
    print(
        f"{count} photos of {SIZE[0]} x {SIZE[1]}, {len(subjects)} models, {threads} cores: "
        f"{np.median(rates):.1f} photos/s, {np.median(ratios):.3f} of bare sessions "
        f"({min(ratios):.3f} to {max(ratios):.3f}; goal: 0.9), {np.median(shares):.3f} of the time in them"
    )


def bare_seconds(subjects: Sequence[Subject], pictures: int, threads: int) -> float:
    """Return the seconds that the sessions take for `pictures` runs on one preprocessed picture."""
    pixels = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    ready = [(subject.model, preprocess(pixels, subject.model.card.input)) for subject in subjects]
    remaining = iter(range(pictures))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if next(remaining, None) is None:
                    return
            for model, tensor in ready:
                model.session.run(tensor)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
