"""Precision at ten: the share of a test image's ten nearest training images that have the image's class.

Works with any model of the zoo. Models that were trained on Fashion-MNIST should score best.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.retrieval.corpus import FashionMnist
from benchmarks.retrieval.embeddings import Embedder, embeddings
from models.zoo.card import Retrieval, read_card, write_card

K = 10
AT_ONCE = 250
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DATASET = "Fashion-MNIST test"


def precision(folder: Path) -> Retrieval:
    """Measure the model in `folder`: 10 000 test images against 60 000 training images of Fashion-MNIST."""
    data = FashionMnist()
    embedder = Embedder(folder)
    vectors = embeddings(embedder, "fashion-mnist", data)
    shares = same_class(
        np.array(vectors[: data.train]),
        data.classes[: data.train],
        np.array(vectors[data.train :]),
        data.classes[data.train :],
    )
    classes = data.classes[data.train :]
    by_class = {name: float(shares[classes == number].mean()) for number, name in enumerate(CLASSES)}
    return Retrieval(
        dataset=DATASET,
        k=K,
        n=len(shares),
        gallery=data.train,
        mean=round(float(shares.mean()), 4),
        classes={name: round(share, 4) for name, share in by_class.items()},
        how=f"python -m benchmarks.retrieval precision {embedder.card.name}: cosines of embeddings, exact "
        "search among the training images",
    )


def same_class(
    gallery: NDArray[np.float32],
    gallery_classes: NDArray[np.int64],
    queries: NDArray[np.float32],
    query_classes: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Return, for each query, the share of its K nearest vectors in the gallery that have the query's class.

    `queries` is (Q, D), `gallery` is (N, D), and the result is (Q,).
    """
    shares = []
    for start in range(0, len(queries), AT_ONCE):
        cosines = queries[start : start + AT_ONCE] @ gallery.T
        nearest = np.argpartition(-cosines, K, axis=1)[:, :K]
        classes = query_classes[start : start + AT_ONCE, None]
        shares.append((gallery_classes[nearest] == classes).mean(axis=1))
    return np.concatenate(shares)


def write_to_card(folder: Path, result: Retrieval) -> None:
    """Write the result into the card of the model in `folder`."""
    write_card(folder, read_card(folder).model_copy(update={"retrieval": result}))
