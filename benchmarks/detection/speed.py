"""What the detectors cost: requests compared with a bare loop, decoding and suppression, int8, OpenVINO.

`python -m benchmarks.detection.speed JPEG MODEL_FOLDER SECONDS` runs the bare loop in this process, and
prints as JSON the p50 of each stage in milliseconds.
"""

from __future__ import annotations

import io
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from numpy.typing import NDArray
from PIL import Image

from benchmarks.detection.quality import MAX_PIXELS, Pairs, markdown
from benchmarks.inprocess import interleaved
from benchmarks.report import Figure, figure, machine
from benchmarks.served import completed, load, run_json
from benchmarks.servers import weighin
from models.zoo.card import Card, read_card
from models.zoo.files import NETWORKS
from models.zoo.preprocess import preprocess
from service.errors import InvalidParameter
from service.inference.decoding.decode import DecodedImage, decode
from service.inference.detect import objects_in
from service.inference.detection.decoders import decoder_of
from service.inference.loading import load_model
from service.inference.runtimes.opening import open_session
from service.inference.session import OnnxSession
from service.latency.stages import Stopwatch

SIZES = {"ssd-mobilenet-v2": (512, 512), "centerface": (640, 480)}
"""Width and height of the JPEG that each detector gets."""
SECONDS = 3.0
WARM_UP_S = 0.5
ROUNDS = 5
SESSION_ROUNDS, SESSION_RUNS = 12, 20
LARGEST_RATIO = 1.15
LARGEST_SHARE = 0.05
WORST_MS = 2.0
STAGES = ("decode", "preprocess", "inference")
DECODING = ("postprocess", "nms")


def speed(rounds: int = ROUNDS) -> str:
    """Return, as Markdown, the figures with their targets, and the tables that compare the runtimes."""
    names = [path.parent.name for path in sorted(NETWORKS.glob("*/card.json"))]
    detectors = [name for name in names if name.removesuffix("-int8") in SIZES]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for name in detectors:
            figures += end_to_end(name, _jpeg(Path(folder), name), rounds)
    figures += [worst_case(name) for name in SIZES]
    rows = [tuple(cell.replace("|", "/") for cell in row.cells()) for row in figures]
    described = ", ".join(f"{key} {value}" for key, value in machine().items() if key != "versions")
    parts = [
        f"Measured on: {described}.",
        "",
        markdown(("figure", "measured (range, rounds)", "target", ""), rows),
    ]
    return "\n".join([*parts, *(runtimes(name) for name in SIZES)])


def _jpeg(folder: Path, name: str) -> Path:
    """Write scikit-image's photograph `astronaut` in the size for a detector, and return the path."""
    path = folder / f"{name}.jpg"
    size = SIZES[name.removesuffix("-int8")]
    Image.fromarray(skimage.data.astronaut()).resize(size).save(path, quality=90)
    return path


def end_to_end(name: str, jpeg: Path, rounds: int) -> list[Figure]:
    """Measure POST /detect with one client, and the bare loop, in random order within each round."""
    served: list[float] = []
    bare: list[Mapping[str, float]] = []
    with weighin() as server:
        server.wait_until("/readyz")
        server.pause()

        def request() -> None:
            server.resume()
            try:
                body = [f"/detect?model={name}", "image/jpeg", str(jpeg)]
                outcome = load(server, [body], clients=1, seconds=SECONDS, warm_up_s=0.7)
            finally:
                server.pause()
            served.append(statistics.median(completed(outcome)))

        def loop() -> None:
            bare.append(run_json("detection.speed", jpeg, NETWORKS / name, SECONDS))

        steps: list[Callable[[], None]] = [request, loop]
        for _ in range(rounds):
            random.shuffle(steps)
            for step in steps:
                step()
    sums = [sum(one[stage] for stage in STAGES) for one in bare]
    shares = [sum(one[stage] for stage in DECODING) / one["inference"] for one in bare]
    return [
        figure(f"{name}: POST /detect, one client, p50", "ms", served),
        figure("  bare decode + preprocess + inference, p50", "ms", sums),
        figure("  end to end / bare", "×", [a / b for a, b in zip(served, sums, strict=True)], LARGEST_RATIO),
        figure("  boxes and suppression / inference", "×", shares, LARGEST_SHARE),
    ]


def bare_loop(jpeg: Path, folder: Path, seconds: float) -> dict[str, float]:
    """Return the p50 of each stage in a loop on one thread, in milliseconds."""
    data, card = jpeg.read_bytes(), read_card(folder)
    session = OnnxSession((folder / card.file.name).read_bytes(), card)
    decoder, labels = decoder_of(card), load_model(folder).labels
    laps: dict[str, list[int]] = {stage: [] for stage in (*STAGES, *DECODING)}
    start = time.perf_counter() + WARM_UP_S
    while (now := time.perf_counter()) < start + seconds:
        times = [time.perf_counter_ns()]
        image = decode(data, shorter_side=card.input.resize, max_pixels=MAX_PIXELS)
        times.append(time.perf_counter_ns())
        tensor = preprocess(image.pixels, card.input, box=image.box)
        times.append(time.perf_counter_ns())
        outputs = session.run(tensor, card.main_outputs)
        times.append(time.perf_counter_ns())
        stopwatch = Stopwatch()
        objects_in(
            {role: value[0] for role, value in outputs.items()}, image, card, decoder, labels, stopwatch
        )
        if now >= start:
            durations = stopwatch.stop()
            for stage, before, after in zip(STAGES, times, times[1:], strict=False):
                laps[stage].append(after - before)
            for stage in DECODING:
                laps[stage].append(durations[stage])
    return {stage: statistics.median(values) / 1e6 for stage, values in laps.items()}


def worst_case(name: str) -> Figure:
    """Measure decoding and suppression of boxes, for random outputs whose scores all pass the threshold."""
    card = read_card(NETWORKS / name)
    decoder, labels = decoder_of(card), load_model(NETWORKS / name).labels
    random_numbers = np.random.default_rng(0)
    image = _blank(card)
    durations = []
    for _ in range(200):
        outputs = {
            role: random_numbers.uniform(0, 1, shape).astype(np.float32)
            for role, shape in card.output_shapes.items()
        }
        begin = time.perf_counter_ns()
        objects_in(outputs, image, card, decoder, labels, Stopwatch(), min_score=0)
        durations.append((time.perf_counter_ns() - begin) / 1e6)
    best = card.detection.candidates if card.detection else 0
    parts = [statistics.median(durations[first : first + 20]) for first in range(0, 200, 20)]
    return figure(f"{name}: boxes and suppression, all scores pass, best {best} kept", "ms", parts, WORST_MS)


def _blank(card: Card) -> DecodedImage:
    """Return a black image of the network's input size, decoded from a PNG."""
    content = io.BytesIO()
    Image.new("RGB", (card.input.width, card.input.height)).save(content, "PNG")
    return decode(content.getvalue(), shorter_side=card.input.resize, max_pixels=MAX_PIXELS)


def runtimes(name: str) -> str:
    """Return a table of fp32 and int8 in ONNX Runtime and OpenVINO on one thread.

    It has latencies, and how far the outputs differ.
    """
    card = read_card(NETWORKS / name)
    image = preprocess(np.asarray(Image.fromarray(skimage.data.astronaut()).resize(SIZES[name])), card.input)
    runs, note = {}, ""
    for variant in (name, f"{name}-int8"):
        own = read_card(NETWORKS / variant)
        content = (NETWORKS / variant / own.file.name).read_bytes()
        for runtime in ("onnxruntime", "openvino"):
            try:
                runs[variant, runtime] = open_session(runtime, content, own, floats="f32").run
            except InvalidParameter as error:
                note = f"Not measured: {error}\n"
    work = {f"{variant}@{runtime}": _bound(run, image) for (variant, runtime), run in runs.items()}
    measured = interleaved(work, SESSION_ROUNDS, dict.fromkeys(work, SESSION_RUNS))
    base = measured[f"{name}@onnxruntime"]
    rows = []
    for (variant, runtime), run in runs.items():
        times = measured[f"{variant}@{runtime}"]
        ratios = [time / reference for time, reference in zip(times, base, strict=True)]
        rows.append(
            (
                f"`{variant}`, {runtime}",
                f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})",
                f"{statistics.median(ratios):.2f}",
                _parity(run(image), runs[variant, "onnxruntime"](image)) if runtime == "openvino" else "",
                _same_objects(read_card(NETWORKS / variant), run(image), runs[name, "onnxruntime"](image)),
            )
        )
    head = (
        "network and runtime",
        "p50, ms (lowest to highest round)",
        "time / time of fp32 in ONNX Runtime",
        "largest difference from the same network's output in ONNX Runtime, in standard deviations of that "
        "output",
        "objects that fp32 in ONNX Runtime finds: how many of them this row finds, and how many others",
    )
    return f"{markdown(head, rows)}{note}"


def _bound(run: Callable[[NDArray[np.float32]], object], image: NDArray[np.float32]) -> Callable[[], object]:
    return lambda: run(image)


def _parity(found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> str:
    """Return, as text, how far each output differs from the expected output.

    It is the largest difference, in standard deviations of the expected output.
    """
    worst = {role: float(np.abs(found[role] - value).max() / value.std()) for role, value in expected.items()}
    return ", ".join(f"{role} {difference:.1e}" for role, difference in worst.items())


def _same_objects(card: Card, found: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]]) -> str:
    """Return, as text, how many of the objects in `expected` are also in `found`.

    The text also says how many objects are only in `found`. `expected` are the outputs of the fp32 variant in
    ONNX Runtime, `found` those of any variant in any runtime. Two objects count as the same if they have the
    same class and their boxes overlap enough (see Pairs).
    """
    decoder, image = decoder_of(card), _blank(card)
    labels = load_model(NETWORKS / card.name).labels
    objects = [
        objects_in(
            {role: value[0] for role, value in outputs.items()}, image, card, decoder, labels, Stopwatch()
        )
        for outputs in (expected, found)
    ]
    pairs = Pairs()
    pairs.add(*objects)
    return f"{len(pairs.both)} of {len(objects[0])}, {pairs.only_second} others"


if __name__ == "__main__":
    print(json.dumps(bare_loop(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))))
