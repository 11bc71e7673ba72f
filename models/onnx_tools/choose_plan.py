"""Choose which layers of a network stay in float when the other layers are quantized to int8.

The choice depends on how much a layer in float reduces the divergence from the float network.
"""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from models.onnx_tools.bias_correction import activation_means
from models.onnx_tools.inspect import parse
from models.onnx_tools.macs import multiply_accumulates
from models.onnx_tools.quantize import QuantizationPlan, quantized
from models.onnx_tools.segments import LINEAR, classifier_nodes, segments
from models.onnx_tools.session import open_session, run
from models.onnx_tools.shapes import outline
from models.zoo.agreement import as_logits, divergences
from models.zoo.card import Activation

if TYPE_CHECKING:
    import onnx

TRIAL_IMAGES = 64
"""Maximum number of evenly spread images on which a trial is compared with the float network."""
_BIAS_IMAGES = 16
ENOUGH = 0.001
"""Divergence in nats that is low enough: the search stops when it is reached."""
GAIN = 0.2
"""A group stays in float only if it thereby removes at least this share of the divergence."""
CERTAIN = 2.5
"""A group stays in float only if the reduction of the divergence is this certain.

The log-ratio of the divergences without and with the group in float is computed for each image. Its mean must
be at least this many standard errors.
"""
_TINY = 1e-6
WORTH = 5.0
"""A group stays in float only if it is worth its cost.

The share of the divergence that it removes must be at least this many times its share of the
multiply-accumulates.
"""
LARGEST = 0.2
"""Maximum share of the multiply-accumulates before the last pooling that may stay in float."""
_FIRST, _PARTS, _FINE = 4, 6, 6
"""Maximum numbers of trials: of the first groups, of parts of the rest, and of groups in the best part."""


@dataclass(frozen=True)
class Group:
    """Consecutive operators that stay in float together.

    `nodes` are their names, and `share` is their share of the network's multiply-accumulates.
    """

    nodes: frozenset[str]
    share: float


@dataclass(frozen=True)
class _Trial:
    """A quantized variant in which the operators of `kept` are float, with its divergence on each image."""

    kept: Group
    divergences: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """The mean of the divergences on all images, in nats."""
        return float(self.divergences.mean())

    def pays(self, other: _Trial, share: float) -> bool:
        """Return whether the trial `other` is so much better than this one that it is worth its cost.

        The cost is `share`: the share of the network's multiply-accumulates that are in float in `other`,
        but not in this trial.
        """
        gain = 1 - other.mean / self.mean
        # Compare ratios, because a few images have most of the divergence.
        ratios = np.log(self.divergences + _TINY) - np.log(other.divergences + _TINY)
        error = ratios.std(ddof=1) / np.sqrt(len(ratios)) if len(ratios) > 1 else np.inf
        return bool(gain >= max(GAIN, WORTH * share) and ratios.mean() >= CERTAIN * error)


@dataclass(frozen=True)
class Choice:
    """The int8 network that was chosen, and how it was found.

    `content` is the ONNX file. `kept` has the names of the convolutions and linear layers before the last
    pooling that stay in float, and `layers` is the number of all convolutions and linear layers before the
    last pooling. `divergence` is the mean Kullback-Leibler divergence of this network's probabilities from
    the float network's, in nats, on the images of the trials. `everything` is the mean divergence of the
    variant with all layers in int8. `trials` is the number of variants that were made and run.
    """

    content: bytes
    plan: QuantizationPlan
    kept: tuple[str, ...]
    layers: int
    everything: float
    divergence: float
    trials: int


def choose_plan(
    content: bytes,
    images: Sequence[NDArray[Any]],
    *,
    output: str,
    activation: Activation = "none",
    size: tuple[int, int] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Choice:
    """Return the best int8 variant of `content`, an ONNX file as `simplify` returns it.

    `images` are input tensors of the network. `output` is the name of the output with the scores, to which
    the network has applied `activation`. `size` is (height, width) of an image if the file leaves them free.

    The first variant has all layers in int8. The second one has the first group of operators in float, the
    third one the first two groups, and so on. The best of these variants is called the start. The groups that
    it has in int8 are divided into parts of consecutive groups. Each part is tried in float, in addition to
    what the start has in float; then each group of the best part is tried in the same way. Finally, the parts
    and groups that were worth it are added to the start one by one, the one that removes most divergence
    first; each stays in float only if it is still worth it. At most 28 variants are tried.

    Operators stay in float only if the share of the remaining divergence that they thereby remove is at least
    GAIN and at least WORTH times their share of the multiply-accumulates, and if it is certain (CERTAIN).
    Raises ValueError for a network that has nothing to quantize.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _Search(
            content, images, output, activation, Path(folder) / "ranges.json", progress, size
        ).run()


class _Search:
    def __init__(
        self,
        content: bytes,
        images: Sequence[NDArray[Any]],
        output: str,
        activation: Activation,
        ranges: Path,
        progress: Callable[[str], None],
        size: tuple[int, int] | None,
    ) -> None:
        self._content, self._images = content, images
        self._output, self._activation, self._ranges = output, activation, ranges
        self._progress = progress
        model = parse(content)
        self._groups = groups_of(model, output, size)
        behind = {node.name for node in classifier_nodes(model.graph, output)}
        self._layers = [n.name for n in model.graph.node if n.op_type in LINEAR and n.name not in behind]
        if not self._groups:
            raise ValueError("there is no convolution or linear layer with constant weights to quantize")
        # Trials are not compared on the images that correct their biases: the results would be too good
        # there.
        correcting = _spread(range(len(images)), min(_BIAS_IMAGES, -(-len(images) // 2)))
        others = [number for number in range(len(images)) if number not in correcting] or [0]
        self._correcting = [images[number] for number in correcting]
        self._means = activation_means(model, self._correcting)
        self._shown = [images[number] for number in _spread(others, TRIAL_IMAGES)]
        self._expected = self._scores(content)
        self._trials = 0

    def run(self) -> Choice:
        self._find_ranges()
        everything = self._try(Group(frozenset(), 0.0))
        if everything is None:
            raise ValueError("a convolution that cannot be quantized is alone between quantized layers")
        start = self._first_layers(everything)
        best = self._greedy(start, self._alternatives(start))
        kept = best.kept.nodes
        plan = QuantizationPlan(keep_nodes=kept)
        self._progress("quantizing as chosen")
        content = quantized(self._content, self._images, plan, output=self._output, ranges=self._ranges)
        return Choice(
            content=content,
            plan=plan,
            kept=tuple(name for name in self._layers if name in kept),
            layers=len(self._layers),
            everything=everything.mean,
            divergence=float(divergences(self._expected, self._scores(content)).mean()),
            trials=self._trials,
        )

    def _find_ranges(self) -> None:
        """Find the ranges of the activations on all images. Every trial uses these ranges."""
        self._progress(f"calibrating on {len(self._images)} images")
        plan = QuantizationPlan(correct_biases=False)
        with contextlib.suppress(ValueError):  # the ranges are saved even if the plan is refused
            quantized(self._content, self._images, plan, output=self._output, ranges=self._ranges)

    def _first_layers(self, everything: _Trial) -> _Trial:
        """Try the first group in float, then the first two groups, and so on; return the best trial.

        If no such trial is worth it, return `everything`, the trial with all layers in int8. The next group
        is added even if the groups before it were not worth it: while a layer is rounded, its error can hide
        the benefit of float in the layers before it.
        """
        best, beginning = everything, Group(frozenset(), 0.0)
        for number, group in enumerate(self._groups[:_FIRST]):
            beginning = _joined([beginning, group])
            if best.mean <= ENOUGH or beginning.share > LARGEST:
                break
            self._progress(f"trying the first {number + 1} groups of layers in float")
            trial = self._try(beginning)
            if trial is not None and best.pays(trial, beginning.share - best.kept.share):
                best = trial
        return best

    def _alternatives(self, start: _Trial) -> list[tuple[_Trial, Group]]:
        """Try the parts of the network in float, one at a time, and then the groups of the best part.

        The operators that are float in `start` stay float in each trial. Return the trials that are worth it,
        the best first. Each comes with those of its float operators that are not float in `start`.
        """
        if start.mean <= ENOUGH:
            return []
        parts = _parts([group for group in self._groups if not group.nodes <= start.kept.nodes])
        found: list[tuple[_Trial, Group]] = []
        best: tuple[float, Sequence[Group]] = (np.inf, ())
        for number, part in enumerate(parts):
            self._progress(f"trying part {number + 1} of {len(parts)} of the network in float")
            whole = _joined(part)
            trial = self._try(_joined([start.kept, whole]))
            if trial is not None and start.pays(trial, 0):
                found.append((trial, whole))
                best = min(best, (trial.mean, part), key=lambda pair: pair[0])
        groups = best[1][:_FINE] if len(best[1]) > 1 else ()
        for number, group in enumerate(groups):
            self._progress(f"trying group {number + 1} of {len(groups)} of the best part in float")
            trial = self._try(_joined([start.kept, group]))
            if trial is not None:
                found.append((trial, group))
        paying = [(trial, group) for trial, group in found if start.pays(trial, group.share)]
        return sorted(paying, key=lambda pair: pair[0].mean)

    def _greedy(self, start: _Trial, alternatives: Sequence[tuple[_Trial, Group]]) -> _Trial:
        """Return the trial that results when alternatives are added to `start` one by one.

        An alternative is added if it is still worth it after those that were added before.
        """
        best = start
        for alone, group in alternatives:
            joined = _joined([best.kept, group])
            if group.nodes <= best.kept.nodes or joined.share > LARGEST or best.mean <= ENOUGH:
                continue
            trial: _Trial | None = alone
            if best is not start:
                self._progress("trying groups together")
                trial = self._try(joined)
            if trial is not None and best.pays(trial, group.share):
                best = trial
        return best

    def _try(self, kept: Group) -> _Trial | None:
        """Quantize all operators except those of `kept`, and measure the divergence.

        Return None if ONNX Runtime would run an operator of `kept` in int8 although it is left in float. This
        happens to a single layer in float between quantized layers.
        """
        plan = QuantizationPlan(keep_nodes=kept.nodes)
        try:
            content = quantized(
                self._content,
                self._correcting,
                plan,
                output=self._output,
                ranges=self._ranges,
                means=self._means,
            )
        except ValueError:
            return None
        self._trials += 1
        return _Trial(kept, divergences(self._expected, self._scores(content)))

    def _scores(self, content: bytes) -> NDArray[np.float32]:
        return as_logits(run(open_session(content), self._shown, self._output), self._activation)


def groups_of(model: onnx.ModelProto, output: str, size: tuple[int, int] | None = None) -> list[Group]:
    """Return the network before its last pooling as groups of consecutive operators, in order.

    The first group has one convolution or linear layer. Every other group has at least two, because
    onnxruntime would quantize a single float layer between integer operators.
    """
    behind = {node.name for node in classifier_nodes(model.graph, output)}
    macs = _macs(model, size)
    total = sum(macs.values()) or 1
    groups: list[Group] = []
    names: set[str] = set()
    layers = 0
    for segment in segments(model.graph, output):
        if any(node.name in behind for node in segment):
            break
        own = sum(node.op_type in LINEAR for node in segment)
        if own and layers >= (2 if groups else 1):
            groups.append(_group(names, macs, total))
            names, layers = set(), 0
        names |= {node.name for node in segment}
        layers += own
    if layers == 1 and groups:
        groups[-1] = _joined([groups[-1], _group(names, macs, total)])
    elif layers:
        groups.append(_group(names, macs, total))
    return groups


def _group(names: set[str], macs: Mapping[str, int], total: int) -> Group:
    return Group(frozenset(names), sum(macs.get(name, 0) for name in names) / total)


def _joined(groups: Sequence[Group]) -> Group:
    return Group(frozenset().union(*(each.nodes for each in groups)), sum(each.share for each in groups))


def _parts(groups: Sequence[Group]) -> list[list[Group]]:
    """Split the groups into at most _PARTS parts of about equal size."""
    bounds = np.linspace(0, len(groups), min(len(groups), _PARTS) + 1).round().astype(int)
    return [list(groups[a:b]) for a, b in itertools.pairwise(bounds)]


def _macs(model: onnx.ModelProto, size: tuple[int, int] | None) -> dict[str, int]:
    """Return the number of multiply-accumulates of each node in one run, by the node's name."""
    outlined = outline(model, size)
    found = {}
    for node in outlined.graph.node:
        values = [outlined.values.get(name) for name in (*node.input, node.output[0]) if name]
        sizes = [None if value is None else value.sizes for value in values]
        known = [each for each in sizes if each is not None]
        if len(known) == len(sizes):
            found[node.name] = multiply_accumulates(node.op_type, known[:-1], known[-1])
    return found


def _spread(items: Sequence[int], most: int) -> list[int]:
    """Return at most `most` of the items, evenly spread."""
    count = min(len(items), most)
    return [items[at * len(items) // count] for at in range(count)]
