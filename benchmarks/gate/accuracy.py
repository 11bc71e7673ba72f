"""Gates on accuracy with a known answer, simulated from pairs of networks on Fashion-MNIST's test set.

For each pair, the discordance is recorded: the share of pictures that only one of the two networks classifies
correctly. The pictures of a simulated gate are drawn with this discordance. It is split between the two
networks so that the new network is as good as the base, or 1.5 points worse.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from benchmarks.gate.replay import Counts, counted
from benchmarks.results import Record, Results
from models.data.fashion_mnist import default_folder, load_test
from models.evaluate.accuracy import ZooClassifier
from models.zoo.files import NETWORKS
from service.cli.gate.decision import loss_interval, side

BASE = "fashion-inverted-residual"
NEW = (
    "fashion-inverted-residual-int8",
    "fashion-inverted-residual-pruned-30",
    "fashion-inverted-residual-pruned-50",
    "fashion-ghost",
)
"""New networks, from BASE's own weights in int8 to another architecture. The further down the list, the more
their answers differ from those of BASE."""
WORSE_BY = 0.015
PICTURES = (1000, 2500, 5000, 10_000, 20_000)
GATES = 1000


def record(results: Results) -> None:
    """Compare each network of NEW with BASE, and record for how many pictures only one of the two is right.

    The pictures for which only BASE is right and those for which only the new network is right are counted
    separately.
    """
    test = load_test(default_folder())
    base = _correct(BASE, test.pixels, test.classes)
    for name in NEW:
        new = _correct(name, test.pixels, test.classes)
        results.append(
            "answers",
            base=BASE,
            new=name,
            n=len(base),
            only_base=int((base & ~new).sum()),
            only_new=int((new & ~base).sum()),
        )


def _correct(model: str, pixels: NDArray[np.uint8], classes: NDArray[np.int64]) -> NDArray[np.bool_]:
    return ZooClassifier(NETWORKS / model).classes(pixels) == classes


def discordance(answers: Record, loss: float) -> float:
    """Return the share of pictures that only one network of a pair classifies correctly.

    If this share is less than `loss`, return `loss`.
    """
    share: float = (answers["only_base"] + answers["only_new"]) / answers["n"]
    return max(share, loss)


def replay(answers: Record, pictures: int, loss: float, max_loss: float, gates: int = GATES) -> Counts:
    """Simulate gates whose new network is worse by `loss`, and count their outcomes.

    Each of the `gates` gates has `pictures` pictures, and is judged by the rule of `judge_accuracy`. Gates
    that drew the same answers are judged only once, to save time.
    """
    share = discordance(answers, loss)
    shares = [(share + loss) / 2, (share - loss) / 2, 1 - share]
    drawn = np.random.default_rng(0).multinomial(pictures, shares, gates)
    total = counted([])
    for (only_base, only_new, _), times in zip(*np.unique(drawn, axis=0, return_counts=True), strict=True):
        outcome = side(*loss_interval(int(only_base), int(only_new), pictures), max_loss)
        total.outcomes[outcome] += int(times)
    return total
