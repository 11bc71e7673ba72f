"""Replacing a model's folder by renames, as `weighin add` does, while clients ask for it."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
from onnx import numpy_helper

from models.zoo.card import Classifier, File, read_card, write_card
from tests.conftest import TINY_CLASSES, make_tiny_model
from tests.helpers.http_client import http_client
from tests.helpers.until import until

CLIENTS = 8


def replace_model(folder: Path, *, seed: int, labels: str = "tiny-10", versioned: bool = False) -> str:
    """Put another tiny model of the same name in the folder's place; return the SHA-256 of its file.

    `versioned`: as `versioned_model` makes it.
    """
    aside = folder.parent / f".{folder.name}.tmp"
    make = versioned_model if versioned else make_tiny_model
    new = make(aside, folder.name, seed=seed, labels=labels)
    old = aside / "old"
    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(aside)
    return read_card(folder).file.sha256


def versioned_model(zoo: Path, name: str, *, seed: int, labels: str = "tiny-10") -> Path:
    """Make a tiny model whose labels name its seed, with the classifier that `/explain` needs."""
    folder = make_tiny_model(zoo, name, seed=seed, labels=labels)
    (folder / "labels.txt").write_text("".join(f"{seed} {number}\n" for number in range(TINY_CLASSES)))
    store_classifier(folder)
    return folder


def store_classifier(folder: Path) -> float:
    """Store the classifier of a tiny model beside it, name it in the card, and return its first bias."""
    model = onnx.load(folder / "model.onnx")
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.savez(folder / "head.npz", weight=weights["head.weight"], bias=weights["head.bias"])
    content = (folder / "head.npz").read_bytes()
    file = File(name="head.npz", bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    classifier = Classifier(model=folder.name, file=file)
    write_card(folder, read_card(folder).model_copy(update={"classifier": classifier}))
    return float(weights["head.bias"][0])


@dataclass
class Answers:
    """What clients got: the number of requests by route, and the answers of each version by route."""

    requests: Counter[str] = field(default_factory=Counter)
    of_version: defaultdict[tuple[str, str], set[tuple[Any, ...]]] = field(
        default_factory=lambda: defaultdict(set)
    )
    failures: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def check(self, versions: int) -> None:
        """Fail unless each request was answered by one version alone, and `versions` or more were seen."""
        assert self.failures == []
        mixed = {key: answers for key, answers in self.of_version.items() if len(answers) > 1}
        assert mixed == {}
        assert len({version for _, version in self.of_version}) >= versions


def swap_under_load(
    url: httpx.URL, folder: Path, image: bytes, *, seconds: float, at_least: int = 1
) -> tuple[Answers, int]:
    """Replace the versioned model in `folder` again and again while clients classify, compare and explain.

    Takes `seconds`, or as long as `at_least` swaps need. Returns what clients got, and the number of swaps;
    each was seen to be served before the next.
    """
    answers, stop = Answers(), threading.Event()
    model = folder.name
    routes = {
        "classify": f"/classify?model={model}&top_k=3",
        "compare": f"/compare?models={model},other&top_k=3&mix_labels=true",
        "explain": f"/explain?model={model}",
    }

    def ask(number: int) -> None:
        names = [name for name in routes if number == 0 or name != "compare"]  # one comparison at a time
        with http_client(url) as client:
            while not stop.is_set():
                name = names[answers.requests.total() % len(names)]
                headers = {"Accept": "application/json"}
                try:
                    response = client.post(routes[name], content=image, headers=headers)
                except httpx.HTTPError as error:
                    answers.failures.append(f"{name}: {error!r}")
                    return
                with answers.lock:
                    answers.requests[name] += 1
                if response.status_code != 200:
                    answers.failures.append(f"{name}: {response.text}")
                    return
                version, answer = _summary(name, model, response.json())
                answers.of_version[name, version].add(answer)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    swaps = 0
    try:
        with http_client(url) as client:
            end = time.monotonic() + seconds
            while (time.monotonic() < end or swaps < at_least) and not answers.failures:
                swaps += 1
                sha256 = replace_model(folder, seed=100 + swaps, versioned=True)
                path = f"/models/{model}"
                until(lambda: client.get(path).json()["version"] == sha256, "served")  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    return answers, swaps


def _summary(route: str, model: str, body: dict[str, Any]) -> tuple[str, tuple[Any, ...]]:
    """The version that an answer's labels name, and what else every answer of that version has in common."""
    if route == "explain":
        labels, rest = [body["label"]], (body["class_id"], round(body["logit"], 4), round(body["bias"], 4))
    else:
        own = body if route == "classify" else next(r for r in body["results"] if r["model"] == model)
        predictions = own["predictions"]
        labels = [prediction["label"] for prediction in predictions]
        rest = tuple((each["class_id"], round(each["probability"], 4)) for each in predictions)
    versions = {label.split()[0] for label in labels}
    return "+".join(sorted(versions)), rest
