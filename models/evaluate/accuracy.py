"""Measure a zoo model's accuracy and robustness on unseen images, with ONNX Runtime as in the service."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.data.fashion_mnist import Images
from models.data.photos import crops
from models.onnx_tools.session import open_session
from models.zoo.card import Accuracy, Card, Interval, Robustness, read_card
from models.zoo.corruptions import CORRUPTIONS, LARGE, SEVERITIES, SMALL, Scale, corrupt
from models.zoo.machine import this_machine
from models.zoo.preprocess import preprocess

TEST = "Fashion-MNIST test"
COMMAND = "python -m models evaluate"
TOLERATED = 5
"""Number of images in 10 000 that another processor may classify differently.

It may sum in another order, so its rounding errors differ.
"""
PHOTO_SIDE = 256
"""Side in pixels to which photographs are scaled before corruption, as ImageNet-C scales the shorter side."""

Progress = Callable[[Iterable[str]], Iterable[str]]


class ZooClassifier:
    """A classifier of the zoo, which runs on one image at a time, as in the service."""

    def __init__(self, folder: Path) -> None:
        self.card: Card = read_card(folder)
        self._session = open_session(folder / self.card.file.name)

    def classes(self, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """Return top-1 classes, int64 (n,). Each image is uint8, grey (H, W) or RGB (H, W, 3)."""
        return self.logits(images).argmax(1)

    def logits(self, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Return logits, float32 (n, classes). Each image is uint8, grey (H, W) or RGB (H, W, 3)."""
        spec = self.card.input
        tensor = np.empty((1, spec.channels, spec.height, spec.width), dtype=np.float32)
        logits = []
        for image in images:
            rgb = image if image.ndim == 3 else np.broadcast_to(image[..., None], (*image.shape, 3))
            preprocess(rgb, spec, tensor)
            logits.append(self._session.run(["logits"], {"image": tensor})[0])
        return np.concatenate(logits)


def accuracy_of(correct: NDArray[np.bool_]) -> Accuracy:
    """Return the accuracy in the form in which a card states it.

    `correct`, bool (n,), says for each image of the test set whether it is classified correctly.
    """
    count = int(correct.sum())
    return Accuracy(
        value=round(count / len(correct), 5),
        kind="measured",
        dataset=TEST,
        n=len(correct),
        interval=Interval.wilson(count, len(correct)),
        correct=count,
        instruction_set=" ".join(this_machine().instruction_set) or "unknown",
        how=f"{COMMAND}, ONNX Runtime, one thread, the whole test set, never used for training or selection",
    )


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the softmax of each row of logits (n, classes), float64."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    result: NDArray[np.float64] = exponents / exponents.sum(1, keepdims=True)
    return result


def mean_probabilities(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Return the mean of several networks' probabilities for the same images, float64 (n, classes).

    `logits` has the logits (n, classes) of each network.
    """
    mean: NDArray[np.float64] = np.mean([probabilities(network) for network in logits], axis=0)
    return mean


def disagreement(stated: Card, measured: Card) -> list[str]:
    """Return one message for each figure of the card `stated` that differs from the card `measured`.

    The accuracy may differ by TOLERATED images in 10 000. The robustness, which is a mean share of images,
    may differ by the same proportion. If the robustness was measured on so few images that a single image is
    a larger proportion, the robustness may differ by one image.
    """
    differences = []
    if measured.accuracy is not None and measured.accuracy.correct is not None:
        accuracy = stated.accuracy
        images = (
            None
            if accuracy is None
            else abs(round(accuracy.value * measured.accuracy.n) - measured.accuracy.correct)
        )
        if images is None or images > TOLERATED * measured.accuracy.n / 10_000:
            given = "none" if accuracy is None else f"{accuracy.value:.2%}"
            differences.append(
                f"{stated.name}: accuracy {given} on the card, measured {measured.accuracy.value:.2%}"
            )
    if measured.robustness is not None and measured.robustness is not stated.robustness:
        allowed = max(TOLERATED / 10_000, 1 / measured.robustness.n)
        given = "none" if stated.robustness is None else f"{stated.robustness.mean:.2%}"
        if stated.robustness is None or abs(stated.robustness.mean - measured.robustness.mean) > allowed:
            differences.append(
                f"{stated.name}: robustness {given} on the card, measured {measured.robustness.mean:.2%}"
            )
    return differences


def corrupted_accuracy(classifier: ZooClassifier, images: Images, progress: Progress = iter) -> Robustness:
    """Measure the accuracy on corrupted images.

    `progress` is called with the names of the corruptions and returns them one by one, so that it can show
    how far the measurement is.
    """

    def share(corruption: str, severity: int) -> float:
        corrupted = _corrupted(images.pixels, corruption, severity, SMALL)
        return float((classifier.classes(corrupted) == images.classes).mean())

    return _robustness("accuracy", TEST, len(images), share, progress)


def stability(
    classifier: ZooClassifier, photos: Path, packages: tuple[str, ...], per_photo: int
) -> Robustness:
    """Measure how often a corrupted crop of a photograph gets the same top-1 class as the clean crop.

    Raises MissingPhotosError if photographs of `packages` are missing in `photos`.
    """
    clean = [_scaled(crop) for crop in crops(photos, packages, per_photo)]
    expected = classifier.classes(clean)

    def share(corruption: str, severity: int) -> float:
        return float((classifier.classes(_corrupted(clean, corruption, severity, LARGE)) == expected).mean())

    return _robustness("stability", f"crops of {' and '.join(packages)}", len(clean), share, iter)


def _robustness(
    measure: str, dataset: str, n: int, share: Callable[[str, int], float], progress: Progress
) -> Robustness:
    by_corruption = {
        corruption: tuple(round(share(corruption, severity), 4) for severity in SEVERITIES)
        for corruption in progress(CORRUPTIONS)
    }
    shares = [value for severities in by_corruption.values() for value in severities]
    size = "28 x 28" if measure == "accuracy" else f"{PHOTO_SIDE} x {PHOTO_SIDE}"
    return Robustness.model_validate(
        {
            "measure": measure,
            "dataset": dataset,
            "n": n,
            "mean": round(float(np.mean(shares)), 4),
            "corruptions": by_corruption,
            "how": f"{COMMAND} --corruptions, ONNX Runtime; {size} pixels, models/zoo/corruptions.py",
        }
    )


def _corrupted(
    images: Iterable[NDArray[np.uint8]], corruption: str, severity: int, scale: Scale
) -> Iterable[NDArray[np.uint8]]:
    for index, image in enumerate(images):
        yield corrupt(image, corruption, severity, scale, seed=index)


def _scaled(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    from PIL import Image

    image = Image.fromarray(pixels).resize((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BICUBIC)
    return np.asarray(image)
