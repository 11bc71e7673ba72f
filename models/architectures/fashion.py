"""The designs of the Fashion-MNIST networks.

There is one network for each kind of block, with at most 5 million multiply-accumulates (MACs). A further
network was found by the architecture search. Two networks of plain convolutions are baselines.
"""

from __future__ import annotations

from models.architectures.designed import BlockName, Design, DesignedNetwork, Stage

BUDGET = 5_000_000
"""Maximum number of multiply-accumulates for one image. Only one baseline may exceed it."""
SEARCHED = "fashion-searched"
"""Name of the network that won the architecture search (models/compress/search.py)."""


def _three_stages(
    block: BlockName,
    stem: int,
    *stages: tuple[int, int],
    ratios: tuple[float, float, float] | None = None,
) -> Design:
    """Return a design with one kind of block in three stages, each given as (channels, repeats).

    The maps of the stages have 14 x 14, 7 x 7 and 4 x 4 pixels.
    """
    return Design(
        stem=stem,
        stages=tuple(
            Stage(block=block, channels=channels, repeats=repeats, ratio=ratios[index] if ratios else None)
            for index, (channels, repeats) in enumerate(stages)
        ),
    )


_DEPTHWISE_SEPARABLE = _three_stages("depthwise-separable", 24, (48, 2), (128, 3), (256, 2))

DESIGNS: dict[str, Design] = {
    "fashion-depthwise-separable": _DEPTHWISE_SEPARABLE,
    "fashion-grouped": _three_stages("grouped", 16, (32, 2), (96, 3), (192, 2)),
    "fashion-bottleneck": _three_stages("bottleneck", 16, (48, 2), (96, 2), (192, 2)),
    "fashion-inverted-residual": _three_stages(
        "inverted-residual", 16, (24, 2), (40, 3), (80, 3), ratios=(2, 3, 3)
    ),
    "fashion-inverted-residual-se": _three_stages(
        "inverted-residual-se", 16, (24, 2), (40, 3), (80, 3), ratios=(2, 3, 3)
    ),
    "fashion-shuffle": _three_stages("shuffle", 16, (48, 3), (112, 4), (224, 3)),
    "fashion-fire": _three_stages("fire", 16, (32, 2), (80, 3), (160, 3)),
    "fashion-ghost": _three_stages("ghost", 16, (24, 2), (64, 3), (112, 3), ratios=(2, 3, 3)),
    # Baselines: one with about as many MACs as the networks above, one as wide as the depthwise separable
    # network.
    "fashion-standard-equal-macs": _three_stages("standard", 16, (24, 2), (48, 2), (80, 2)),
    "fashion-standard-equal-width": Design(
        stem=_DEPTHWISE_SEPARABLE.stem,
        stages=tuple(stage.model_copy(update={"block": "standard"}) for stage in _DEPTHWISE_SEPARABLE.stages),
    ),
    # Candidate 39 of docs/search.json.
    SEARCHED: Design(
        stem=24,
        stages=(
            Stage(block="inverted-residual", channels=32, repeats=1, ratio=2.0),
            Stage(block="inverted-residual", channels=72, repeats=1, ratio=2.0),
            Stage(block="inverted-residual", channels=160, repeats=2, kernel_size=5, ratio=2.0),
        ),
    ),
}


def design_of(name: str) -> Design:
    """Return the design of a network. Raises ValueError, with the allowed names, for an unknown name."""
    try:
        return DESIGNS[name]
    except KeyError:
        raise ValueError(f"network {name!r}: unknown (allowed: {', '.join(DESIGNS)})") from None


def name_of(design: Design) -> str | None:
    """Return the name of the network with this design, or None if no network has this design."""
    return next((name for name, known in DESIGNS.items() if known == design), None)


def create(name: str, classes: int = 10) -> DesignedNetwork:
    """Create a network with initialised weights. Raises ValueError for an unknown name."""
    return DesignedNetwork(design_of(name), classes)
