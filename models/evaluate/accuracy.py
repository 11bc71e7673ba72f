"""How good a model of the zoo is: run through ONNX Runtime as the service does, on images it has not seen."""

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
"""By how many of 10 000 images another processor may answer otherwise: sums are added in another order."""
PHOTO_SIDE = 256
"""To so many pixels photographs are scaled before they are corrupted: what ImageNet-C's strengths are for."""

Progress = Callable[[Iterable[str]], Iterable[str]]


class Classes:
    """Names the top-1 class of images with one model of the zoo, one image at a time as the service does."""

    def __init__(self, folder: Path) -> None:
        self.card: Card = read_card(folder)
        self._session = open_session(folder / self.card.file.name)

    def of(self, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.int64]:
        """The class of each image, grey (H, W) or RGB (H, W, 3): int64 (n,)."""
        return self.logits(images).argmax(1)

    def logits(self, images: Iterable[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """The logits of each image, float32 (n, classes)."""
        spec = self.card.input
        tensor = np.empty((1, spec.channels, spec.height, spec.width), dtype=np.float32)
        found = []
        for image in images:
            rgb = image if image.ndim == 3 else np.broadcast_to(image[..., None], (*image.shape, 3))
            preprocess(rgb, spec, tensor)
            found.append(self._session.run(["logits"], {"image": tensor})[0])
        return np.concatenate(found)


def accuracy_of(right: NDArray[np.bool_]) -> Accuracy:
    """What a card says of which test images were named right, bool (n,)."""
    correct = int(right.sum())
    return Accuracy(
        value=round(correct / len(right), 5),
        kind="measured",
        dataset=TEST,
        n=len(right),
        interval=Interval.wilson(correct, len(right)),
        correct=correct,
        instruction_set=" ".join(this_machine().instruction_set) or "unknown",
        how=f"{COMMAND}, ONNX Runtime, one thread, the whole test set, which no training or choice has seen",
    )


def probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Softmax of each row, float64 (n, classes)."""
    exponents = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    result: NDArray[np.float64] = exponents / exponents.sum(1, keepdims=True)
    return result


def mean_probabilities(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float64]:
    """What several networks say together: the mean of their softmax, float64 (n, classes)."""
    mean: NDArray[np.float64] = np.mean([probabilities(each) for each in logits], axis=0)
    return mean


def disagreement(stated: Card, found: Card) -> list[str]:
    """In words, where a card states other figures than were found; empty where it does not.

    Accuracy may be off by TOLERATED of 10 000 images, a share under corruption by as much, or by one image
    where there are fewer.
    """
    wrong = []
    if found.accuracy is not None and found.accuracy.correct is not None:
        accuracy = stated.accuracy
        off = (
            None
            if accuracy is None
            else abs(round(accuracy.value * found.accuracy.n) - found.accuracy.correct)
        )
        if off is None or off > TOLERATED * found.accuracy.n / 10_000:
            given = "no accuracy" if accuracy is None else f"{accuracy.value:.2%}"
            wrong.append(f"{stated.name}: the card says {given}, found is {found.accuracy.value:.2%}")
    if found.robustness is not None and found.robustness is not stated.robustness:
        allowed = max(TOLERATED / 10_000, 1 / found.robustness.n)
        given = "nothing" if stated.robustness is None else f"{stated.robustness.mean:.2%}"
        if stated.robustness is None or abs(stated.robustness.mean - found.robustness.mean) > allowed:
            wrong.append(
                f"{stated.name}: the card says {given} under corruption, found is {found.robustness.mean:.2%}"
            )
    return wrong


def corrupted_accuracy(classes: Classes, images: Images, progress: Progress = iter) -> Robustness:
    """The share of corrupted images named right."""

    def share(corruption: str, severity: int) -> float:
        corrupted = _corrupted(images.pixels, corruption, severity, SMALL)
        return float((classes.of(corrupted) == images.classes).mean())

    return _robustness("accuracy", TEST, len(images), share, progress)


def stability(classes: Classes, photos: Path, packages: tuple[str, ...], per_photo: int) -> Robustness:
    """The share of corrupted crops of photographs that get the class of the clean crop.

    Raises MissingPhotosError where the photographs are not there.
    """
    clean = [_scaled(crop) for crop in crops(photos, packages, per_photo)]
    expected = classes.of(clean)

    def share(corruption: str, severity: int) -> float:
        return float((classes.of(_corrupted(clean, corruption, severity, LARGE)) == expected).mean())

    return _robustness("stability", f"crops of {' and '.join(packages)}", len(clean), share, iter)


def _robustness(
    measure: str, dataset: str, n: int, share: Callable[[str, int], float], progress: Progress
) -> Robustness:
    found = {
        corruption: tuple(round(share(corruption, severity), 4) for severity in SEVERITIES)
        for corruption in progress(CORRUPTIONS)
    }
    shares = [value for severities in found.values() for value in severities]
    size = "28 x 28" if measure == "accuracy" else f"{PHOTO_SIDE} x {PHOTO_SIDE}"
    return Robustness.model_validate(
        {
            "measure": measure,
            "dataset": dataset,
            "n": n,
            "mean": round(float(np.mean(shares)), 4),
            "corruptions": found,
            "how": f"{COMMAND} --corruptions, ONNX Runtime; of {size} pixels, by models/zoo/corruptions.py",
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
