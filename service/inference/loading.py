"""Load a model from its folder: verify the card, the file and the labels, open the session, warm it up."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import ValidationError

from models.onnx_tools.file_kind import file_kind, looks_truncated
from models.onnx_tools.inspect import output_activation
from models.zoo.card import Accuracy, Activation, Agreement, Card, InputSpec, read_card
from models.zoo.detection import MAX_CANDIDATES
from models.zoo.files import not_text, read_regular
from models.zoo.labels import read_labels
from service.errors import ModelUnavailable, WeighinError, error_words
from service.inference.detection import suppression
from service.inference.detection.decoders import BoxDecoder, decoder_of
from service.inference.linear_head import HeldFile
from service.inference.malloc import release_free_memory
from service.inference.runtime_errors import one_line
from service.inference.runtimes.base import Session, SessionError
from service.inference.runtimes.choice import (
    DEFAULT_CHOICE,
    NOT_WEIGHED,
    Choice,
    RuntimeChoices,
    Serving,
)
from service.inference.runtimes.opening import obstacle_of, open_session
from service.inference.runtimes.weighing import Weighing
from service.inference.session import OnnxSession

LOADING = "still loading"
_TIMED_RUNS = 5
_TIMED_NS = 10_000_000
"""Total time of the timed runs after which no further run is timed."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model: its card, its class labels, and its sessions.

    `session` is a session of ONNX Runtime, which can compute every output. `runner` is a second session,
    which computes the predictions in place of `session`. It is None if `session` computes the predictions
    itself. `choice`: the runtime that is to compute predictions. `not_chosen`: the reason why `session`
    computes them in spite of the choice. It is None if the choice is followed. `weighing`: how OpenVINO
    compares with ONNX Runtime on this machine (speed, and whether the answers agree). It is None if ONNX
    Runtime was chosen, and before the model is weighed.

    `typical_ns`: median inference time of the warm-up runs, an estimate for scheduling only. `head`: the open
    file of the stored linear classifier that the card names as `classifier`. It is None if there is no such
    file, and on Windows. `decoder`: converts a detector's outputs to boxes. It is None for a classifier.
    """

    card: Card
    labels: tuple[str, ...]
    session: OnnxSession
    typical_ns: int
    head: HeldFile | None = None
    decoder: BoxDecoder | None = None
    runner: Session | None = None
    choice: Choice = DEFAULT_CHOICE
    not_chosen: str | None = None
    weighing: Weighing | None = None

    @property
    def predictor(self) -> Session:
        """The session that computes predictions."""
        return self.session if self.runner is None else self.runner

    @property
    def serving(self) -> Serving:
        """Runtime and precision of `predictor`."""
        return Serving(self.predictor.runtime, self.predictor.precision, self.weighing)

    def session_for(self, outputs: Sequence[str]) -> Session:
        """Return the session that computes `outputs`.

        If one of `outputs` is an additional output, such as an embedding or a feature map, this is the
        session of ONNX Runtime. Otherwise, it is the session that computes predictions.
        """
        if self.runner is not None and set(outputs) <= set(self.card.main_outputs):
            return self.runner
        return self.session

    @property
    def name(self) -> str:
        """Name in requests and responses."""
        return self.card.name

    @property
    def version(self) -> str:
        """SHA-256 of the model file, hexadecimal."""
        return self.card.file.sha256


@dataclass(frozen=True)
class ModelEntry:
    """A folder of the zoo, with its model, or with the reason why no model is loaded from it (yet).

    `card` is None if the card cannot be read. `reason` is None if the model is loaded.
    """

    name: str
    folder: Path
    card: Card | None
    model: ServedModel | None = None
    reason: str | None = LOADING
    refused: str | None = None
    """Reason why the folder's current content is not served. In this case, `card` and `model` belong to the
    version that is served instead."""

    @property
    def broken(self) -> bool:
        """Whether loading has failed."""
        return self.model is None and self.reason != LOADING

    @property
    def problem(self) -> str | None:
        """Reason why the model is not loaded, or why its latest run failed. None if there is no problem."""
        if self.model is None:
            return self.reason
        failure = self.model.predictor.failure or self.model.session.failure
        return None if failure is None else f"its latest run failed: {failure}"


def served_accuracy(entry: ModelEntry) -> Accuracy | None:
    """Return the accuracy of the model as it is served.

    This is the accuracy in the card. It is marked as `inherited` if the model, as it is served, may give
    other answers than when its accuracy was measured (see `Serving.as_measured`). The result is None if the
    card has no accuracy.
    """
    if entry.card is None or entry.card.accuracy is None:
        return None
    accuracy, model = entry.card.accuracy, entry.model
    if model is None or model.serving.as_measured(entry.card):
        return accuracy
    return accuracy.model_copy(update={"kind": "inherited"})


def served_agreement(entry: ModelEntry) -> Agreement | None:
    """Return the agreement to show with the accuracy that `served_accuracy` returns.

    The agreement says how often the model, as it is served, gives the same answers as its parent (see
    `Serving.agreement`). If the model is not loaded, the card's agreement is returned. The result is None if
    the agreement is not known.
    """
    if entry.card is None or entry.model is None:
        return None if entry.card is None else entry.card.agreement
    return entry.model.serving.agreement(entry.card)


class UnusableModel(Exception):
    """A model of the zoo cannot be served. The message gives the reason, without paths."""


def folder_name(folder: Path) -> str:
    """Return the folder's name for display. Bytes that are not UTF-8 are escaped."""
    return os.fsencode(folder.name).decode("utf-8", "backslashreplace")


def read_entry(folder: Path, *, require_name: bool = True) -> ModelEntry:
    """Read the card in a folder, and return the folder's entry, whose model is not loaded yet.

    If the card cannot be read, the entry has the reason. With `require_name`, a card that has another name
    than the folder cannot be used either.
    """
    name = folder_name(folder)
    try:
        card = read_card(folder)
    except Exception as error:
        return ModelEntry(name, folder, None, reason=_unreadable(name, folder / "card.json", error))
    if require_name and card.name != name:
        return ModelEntry(name, folder, None, reason=f"its card names it '{card.name}', its folder '{name}'")
    return ModelEntry(card.name, folder, card)


def _unreadable(name: str, path: Path, error: Exception) -> str:
    """Return the reason why a card cannot be read."""
    match error:
        case FileNotFoundError():
            return "it has no card.json"
        case OSError():
            return f"its card.json cannot be read: {error_words(error)}"
        case UnicodeDecodeError():
            return f"its card.json is not text: {not_text(error)}"
        case ValidationError():
            kind = _text_kind(path)
            if kind is not None:
                return f"its card.json is {kind}"
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "the file"
            return one_line(f"its card.json is not valid: {field}: {first['msg']}")
    log.error("card cannot be read", model=name, exc_info=error)
    return f"its card.json cannot be read: {_kind(error)}"


def load_model(
    folder: Path, *, warm_up_limit_s: float = 60, choices: RuntimeChoices | None = None
) -> ServedModel:
    """Load and warm up the model in a folder of any name. Raises ModelUnavailable with the reason.

    `choices` decides the model's runtime. If it is None, the runtime is ONNX Runtime.
    """
    entry = read_entry(folder, require_name=False)
    if entry.card is not None:
        entry = with_warm_runner(load_entry(entry, {}, choices, warm_up_limit_s), warm_up_limit_s)
    if entry.model is None:
        raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
    return entry.model


def reuse_model(old: ModelEntry | None, entry: ModelEntry) -> ModelEntry | None:
    """Return `entry` with the model of `old`, if card, model file and labels have not changed since.

    Return None if they have changed, or if `old` has no model.
    """
    assert entry.card is not None
    if old is None or old.model is None or old.model.card != entry.card:
        return None
    try:
        read_model_file(entry.folder, entry.card)
        if read_labels(entry.card, entry.folder) != old.model.labels:
            return None
    except (UnusableModel, OSError, ValueError):
        return None  # loading the model again reports the reason
    return replace(entry, model=old.model, reason=None)


def load_entry(
    entry: ModelEntry, folders: Mapping[str, Path], choices: RuntimeChoices | None, limit_s: float
) -> ModelEntry:
    """Return the entry with its model loaded and its session warmed up, or with the reason of the failure.

    `folders`: folders of all models by name. `choices` decides the runtime of each model. If it is None, ONNX
    Runtime runs all models. Loading fails, too, if the first run takes longer than `limit_s`. Thread-safe, so
    that several models can load at the same time. Call `with_warm_runner` next.
    """
    return _warm_up_session(_open_model(entry, folders, choices), limit_s)


def _open_model(entry: ModelEntry, folders: Mapping[str, Path], choices: RuntimeChoices | None) -> ModelEntry:
    assert entry.card is not None
    try:
        model, content = _load_served_model(entry.folder, entry.card)
        if choices is not None:
            opening = partial(open_session, "openvino", content, model.card, streams=choices.streams)
            model = with_runner(model, choices.of(model.card), choices, opening)
        return replace(entry, model=replace(model, head=_head(entry.card, folders)), reason=None)
    except (UnusableModel, SessionError) as error:
        return replace(entry, reason=one_line(str(error)))
    except Exception as error:
        log.exception("model cannot be loaded", model=entry.name)
        return replace(entry, reason=f"it cannot be loaded: {_kind(error)}")


def with_runner(
    model: ServedModel, choice: Choice, choices: RuntimeChoices, opening: Callable[..., Session]
) -> ServedModel:
    """Return the model with the session that `choice` asks for, or with the reason why there is none.

    `opening(floats=...)` opens the model in OpenVINO and may raise SessionError. Call `warm_up_runner` next.
    """
    weighing = choices.weighing(model.card, choice)
    without = replace(model, runner=None, choice=choice, not_chosen=None, weighing=weighing)
    if choice.runtime == "onnxruntime":
        return without
    obstacle = obstacle_of("openvino")
    if choice.runtime == "auto":
        if obstacle is not None:
            return replace(without, not_chosen=obstacle)
        if weighing is None or not weighing.switches:
            return replace(without, not_chosen=NOT_WEIGHED if weighing is None else str(weighing))
    elif obstacle is not None:
        return _not_chosen(without, obstacle)
    try:
        return replace(without, runner=opening(floats=choice.floats))
    except SessionError as error:
        return _not_chosen(without, one_line(str(error)))
    except WeighinError:  # the file cannot be read
        raise
    except Exception as error:
        log.exception("model cannot be loaded", model=model.name)
        return _not_chosen(without, f"OpenVINO: it cannot be loaded: {_kind(error)}")


def _not_chosen(model: ServedModel, reason: str) -> ServedModel:
    log.warning("served by ONNX Runtime", model=model.name, chosen=model.choice.runtime, reason=reason)
    return replace(model, runner=None, not_chosen=reason)


def _head(card: Card, folders: Mapping[str, Path]) -> HeldFile | None:
    """Open the file of the stored linear classifier that the card names. Return None if it is missing.

    Returns None on Windows, too, because an open file cannot be replaced there.
    """
    if card.classifier is None or card.classifier.model not in folders or os.name == "nt":
        return None
    try:
        return HeldFile(folders[card.classifier.model] / card.classifier.file.name)
    except OSError:
        return None  # `/explain` reports the reason


def read_model_file(folder: Path, card: Card) -> bytes:
    """Read the model file and check it against the card. Raises UnusableModel."""
    name = card.file.name
    try:
        content = read_regular(folder / name)
    except FileNotFoundError:
        raise UnusableModel(f"its file {name} is missing") from None
    except OSError as error:
        raise UnusableModel(f"its file {name} cannot be read: {error_words(error)}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.file.sha256:
        raise UnusableModel(_mismatch_reason(content, digest, card))
    return content


def _mismatch_reason(content: bytes, digest: str, card: Card) -> str:
    """Return how a model file differs from the card, in words: by its kind, its length or its checksum."""
    other = f"its file {card.file.name} is not the one that the card describes"
    kind = file_kind(content)
    if kind is not None:
        return f"{other}, it is {kind}"
    if len(content) < card.file.bytes and looks_truncated(content):
        return f"{other}, it is cut off: {len(content)} bytes of {card.file.bytes}: download it again"
    return f"{other}: sha256 {digest[:12]}..., the card says {card.file.sha256[:12]}..."


def _load_served_model(folder: Path, card: Card) -> tuple[ServedModel, bytes]:
    """Return the model in ONNX Runtime, and the content of its file."""
    content = read_model_file(folder, card)
    try:
        labels = read_labels(card, folder)
    except OSError as error:
        raise UnusableModel(f"its labels '{card.labels}' cannot be read: {error_words(error)}") from None
    except ValueError as error:
        kind = _text_kind(folder / "labels.txt")
        reason = str(error) if kind is None else f"labels.txt is {kind}"
        raise UnusableModel(f"its labels '{card.labels}' cannot be used: {reason}") from None
    session = OnnxSession(content, card)
    if card.detection is not None:
        return ServedModel(card, labels, session, typical_ns=0, decoder=decoder_of(card)), content
    session.activation = _activation(content, card)
    return ServedModel(card, labels, session, typical_ns=0), content


def _activation(content: bytes, card: Card) -> Activation:
    """Return the activation that the network itself applies to its logits.

    This is the activation in the card. If the card has none, it is the network's last operator, if this is an
    activation. Raises UnusableModel if card and operator contradict each other, because probabilities would
    be wrong.
    """
    applied = output_activation(content, card.output_name("logits"))
    declared = card.outputs.get("activation", applied)
    if applied not in ("none", declared):
        raise UnusableModel(
            f"its last operator is {applied}, its card says outputs.activation {declared} "
            f"(allowed: {applied}, or left out)"
        )
    return declared


def _text_kind(path: Path) -> str | None:
    """Return the kind of a file that should be a card or labels, but is not text.

    Return None if the file is text, if it cannot be read, or if its kind is unknown.
    """
    try:
        kind = file_kind(read_regular(path))
    except OSError:
        return None
    return None if kind is None or kind.startswith(("JSON text", "text (")) else kind


def _kind(error: Exception) -> str:
    """Return the type of an unexpected error. Its message is left out, because it may contain anything."""
    return "not enough memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}"


def _warm_up_session(entry: ModelEntry, limit_s: float) -> ModelEntry:
    """Return the entry with its model's `typical_ns` set.

    If the model does not run, return the entry without the model, but with the reason.
    """
    model = entry.model
    if model is None:
        return entry
    try:
        return replace(entry, model=replace(model, typical_ns=_typical_time(model, limit_s)))
    except UnusableModel as error:
        return replace(entry, model=None, reason=str(error))
    except ModelUnavailable as error:
        return replace(entry, model=None, reason=model.session.failure or str(error))
    except Exception as error:
        log.exception("model cannot be run", model=entry.name)
        return replace(entry, model=None, reason=f"it cannot be run: {_kind(error)}")


def with_warm_runner(entry: ModelEntry, limit_s: float) -> ModelEntry:
    """Return the entry with its model's `runner` warmed up and timed.

    Nothing else should run at the same time, because this would disturb the timing.
    """
    return entry if entry.model is None else replace(entry, model=warm_up_runner(entry.model, limit_s))


def warm_up_runner(model: ServedModel, limit_s: float) -> ServedModel:
    """Return the model with its `runner` warmed up and timed.

    If the runner does not run, return the model without a runner, but with the reason in `not_chosen`.
    """
    runner = model.runner
    if runner is None:
        return model
    runner.activation = model.session.activation
    try:
        _, typical_ns = _timed_runs(runner, model.card.input, None, limit_s, time.perf_counter_ns)
    except ModelUnavailable:
        return _not_chosen(model, f"OpenVINO: {runner.failure}")
    except Exception as error:
        log.exception("model cannot be run", model=model.name)
        return _not_chosen(model, f"OpenVINO: it cannot be run: {_kind(error)}")
    return replace(model, typical_ns=typical_ns)


def release_memory(models: Sequence[ServedModel]) -> None:
    """Give memory that was used for loading and warming up back to the system, where this is possible."""
    if models:
        smallest = min(models, key=lambda model: model.card.macs)
        try:
            smallest.session.release_memory(_noise(smallest.card.input, 0))
        except Exception:
            log.exception("memory cannot be released", model=smallest.name)
    release_free_memory()


def _typical_time(model: ServedModel, limit_s: float) -> int:
    """Run the model on noise, set its session's activation, and return the typical time in nanoseconds.

    A detector's session has no activation to set. Its outputs are decoded, to check that this works. Raises
    UnusableModel and ModelUnavailable.
    """
    names = tuple(model.card.output_shapes)
    # A session runs on the calling thread, whose CPU time does not grow while other threads load models.
    # Windows counts CPU time in steps of 16 ms, too coarse for this.
    clock = time.perf_counter_ns if os.name == "nt" else time.thread_time_ns
    runs, typical_ns = _timed_runs(model.session, model.card.input, names, limit_s, clock)
    if model.decoder is None:
        _settle_activation(model, [run["logits"][0] for run in runs])
    else:
        for run in runs:
            model.decoder.decode({name: run[name][0] for name in names}, 0.0, MAX_CANDIDATES)
        suppression.warm_up()
    return typical_ns


def _timed_runs(
    session: Session,
    spec: InputSpec,
    outputs: Sequence[str] | None,
    limit_s: float,
    clock: Callable[[], int],
) -> tuple[list[Mapping[str, NDArray[np.float32]]], int]:
    """Run the session on two images of noise. Return both outputs, and the median time in nanoseconds.

    The first run takes longest, so it does not count for the median time. If the second run is short, the
    second image is run several times more, and these times count, too.
    """
    results, times = [], []
    for seed in range(2):
        image = _noise(spec, seed)
        start = clock()
        results.append(session.run(image, outputs, limit_s=limit_s))
        times.append(clock() - start)
    del times[0]
    while len(times) < _TIMED_RUNS and sum(times) < _TIMED_NS:
        start = clock()
        session.run(image, outputs)
        times.append(clock() - start)
    return results, int(statistics.median(times))


def _settle_activation(model: ServedModel, logits: Sequence[NDArray[np.float32]]) -> None:
    """Find out from its outputs whether the network already ends in softmax, and note this in the session.

    `logits`: outputs for two images of noise. If they are probability distributions, the network ends in
    softmax. This counts only if the card names no activation and none was found in the file. Raises
    UnusableModel if they are probability distributions, but the card names another activation.
    """
    declared = model.card.outputs.get("activation")
    is_distribution = all(map(_are_probabilities, logits))
    if declared is None:
        if model.session.activation == "none" and is_distribution:
            model.session.activation = "softmax"
        if model.session.activation != "none":
            log.info("activation detected", model=model.name, activation=model.session.activation)
    elif declared != "softmax" and is_distribution:
        raise UnusableModel(
            "output 'logits' is a probability distribution (softmax), but its card says "
            f"outputs.activation {declared} (allowed: softmax, or left out)"
        )


def _are_probabilities(logits: NDArray[np.float32]) -> bool:
    """Return whether the values form a probability distribution.

    They do if the network ends in a softmax, even one that consists of several operators.
    """
    return bool(logits.size > 1 and (logits >= 0).all() and abs(logits.sum(dtype=np.float64) - 1) <= 1e-3)


def _noise(spec: InputSpec, seed: int) -> NDArray[np.float32]:
    """Return a normalized image of noise, float32 (1, channels, height, width).

    A constant image, such as one of zeros, would not show whether the network works: some networks return NaN
    only for constant images, and others return finite numbers only for constant images.
    """
    shape = (1, spec.channels, spec.height, spec.width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    mean, std = (np.array(values, np.float64)[:, None, None] for values in (spec.mean, spec.std))
    with np.errstate(all="ignore"):  # an absurd `std` is noticed by the check of the network's outputs
        return ((pixels - mean) / std).astype(np.float32)
