"""Registry of models: find, verify, load and warm them up; report why one cannot be served."""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import ValidationError

from models.onnx_tools.file_kind import file_kind, looks_truncated
from models.onnx_tools.inspect import output_activation
from models.zoo.card import Activation, Card, InputSpec, read_card
from models.zoo.files import holds_network, not_text, read_regular
from models.zoo.labels import read_labels
from service.errors import ModelUnavailable, NotReady, UnknownModel, UnreadableFolder, error_words
from service.inference.runtime_errors import one_line
from service.inference.session import OnnxSession, SessionError
from service.text.display import shown

LOADING = "still loading"
_WARM_UP_RUNS = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model: card, class labels and session.

    `typical_ns`: median inference time of the warm-up runs, an estimate for planning only.
    """

    card: Card
    labels: tuple[str, ...]
    session: OnnxSession
    typical_ns: int

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
    """A folder of the zoo: its model, or the reason why it is not loaded (yet)."""

    name: str
    folder: Path
    card: Card | None
    model: ServedModel | None = None
    reason: str | None = LOADING

    @property
    def broken(self) -> bool:
        """Whether loading has failed."""
        return self.model is None and self.reason != LOADING

    @property
    def problem(self) -> str | None:
        """Reason why the model is not loaded or its latest run failed; None otherwise."""
        if self.model is None:
            return self.reason
        failure = self.model.session.failure
        return None if failure is None else f"its latest run failed: {failure}"


class UnusableModel(Exception):
    """A model of the zoo cannot be served; the message gives the reason, without paths."""


class Registry:
    """Models of the zoo folders.

    The constructor reads the cards, `load` creates the sessions. Any thread may read meanwhile.
    """

    def __init__(
        self, directories: Iterable[Path], default_model: str, *, warm_up_limit_s: float = 60
    ) -> None:
        """Find the models. Unreadable model folders are skipped with a warning in the log.

        A model whose first run takes longer than `warm_up_limit_s` is broken. Raises FileNotFoundError with
        the missing directories, and UnreadableFolder for a directory that cannot be listed.
        """
        self._warm_up_limit_s = warm_up_limit_s
        self.default_model = default_model
        self._entries: dict[str, ModelEntry] = {}
        self.ready = False
        directories = tuple(directories)
        missing = [str(directory) for directory in directories if not directory.exists()]
        if missing:
            raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder: {', '.join(missing)}")
        for directory in directories:
            for folder in _model_folders(directory):
                entry = _describe(folder)
                self._entries.setdefault(entry.name, entry)

    def load(self) -> None:
        """Load and warm up every model with a valid card; a broken model gets a reason.

        Models are warmed up one at a time, so that the time estimates the latency of a model running alone.
        Afterwards `ready` is true and every model has a session or a reason, whatever happened.
        """
        pending = [entry for entry in self._entries.values() if entry.card is not None]
        try:
            with ThreadPoolExecutor(max_workers=2, thread_name_prefix="load") as executor:
                opened = list(executor.map(_open, pending))
            for entry in opened:
                self._entries[entry.name] = _warmed_up(entry, self._warm_up_limit_s)
        finally:
            for entry in self.entries:
                if entry.model is None and entry.reason == LOADING:
                    self._entries[entry.name] = replace(entry, reason="loading was interrupted (see the log)")
            self.ready = True
        for entry in self.entries:
            if entry.model is None:
                log.error("model not served", model=entry.name, reason=entry.reason)
        if self.default_model not in self._entries:
            log.warning("WEIGHIN_DEFAULT_MODEL: no such model", default_model=self.default_model)

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """All models, sorted by name."""
        return tuple(self._entries[name] for name in sorted(self._entries))

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """The loaded models, sorted by name."""
        return tuple(entry.model for entry in self.entries if entry.model is not None)

    def names(self) -> tuple[str, ...]:
        """Return the names of all models, loaded or not."""
        return tuple(sorted(self._entries))

    def entry(self, name: str) -> ModelEntry:
        """Return the model's entry, loaded or not. Raises UnknownModel."""
        try:
            return self._entries[name]
        except KeyError:
            raise UnknownModel(name, self._entries) from None

    def get(self, name: str | None = None) -> ServedModel:
        """Return the model `name`, or the default model.

        Raises UnknownModel, NotReady and ModelUnavailable.
        """
        entry = self.entry(self.default_model if name is None else name)
        if entry.model is None and entry.reason == LOADING:
            raise NotReady(f"model '{entry.name}': still loading")
        if entry.model is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
        return entry.model

    def content(self, name: str) -> tuple[Card, bytes]:
        """Return card and verified file of a model, loaded or not. Raises UnknownModel, ModelUnavailable."""
        entry = self.entry(name)
        if entry.card is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be used: {entry.reason}")
        try:
            return entry.card, _verified(entry.folder, entry.card)
        except UnusableModel as error:
            raise ModelUnavailable(f"model '{entry.name}' cannot be used: {error}") from None

    def comparable(self) -> tuple[ServedModel, ...]:
        """Return the models with the default model's label set, even if that model is not loaded.

        Raises the errors of `get` if there is none, or if the default model's card cannot be read.
        """
        labels = self.default_labels
        if not self.entry(self.default_model).broken:
            self.get()  # raises NotReady while it is loading
        models = tuple(model for model in self.loaded if model.card.labels == labels)
        return models or (self.get(),)

    @property
    def default_labels(self) -> str:
        """Label set of the default model, loaded or not. Raises UnknownModel, ModelUnavailable."""
        entry = self.entry(self.default_model)
        if entry.card is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
        return entry.card.labels


def _model_folders(directory: Path, *, nested: bool = False) -> Iterator[Path]:
    """Yield the folders with a card or a model in `directory` and in its subfolder `networks`, by name."""
    try:
        folders = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder: {directory}") from None
    except OSError as error:
        reason = f"folder {directory} cannot be read: {error_words(error)}"
        raise UnreadableFolder(f"WEIGHIN_MODEL_DIRS: {reason}") from None
    for folder in folders:
        try:
            os.stat(folder)  # raises for a broken link
            if holds_network(folder):
                yield folder
            elif folder.name == "networks" and folder.is_dir() and not nested:
                yield from _model_folders(folder, nested=True)
        except OSError as error:
            log.warning("folder skipped", folder=shown(str(folder)), reason=error_words(error))


def _describe(folder: Path) -> ModelEntry:
    # A name that is not UTF-8 could neither be sent nor displayed.
    name = os.fsencode(folder.name).decode("utf-8", "backslashreplace")
    try:
        card = read_card(folder)
    except Exception as error:
        return ModelEntry(name, folder, None, reason=_unreadable(name, folder / "card.json", error))
    if card.name != name:
        return ModelEntry(name, folder, None, reason=f"its card names it '{card.name}', its folder '{name}'")
    return ModelEntry(name, folder, card)


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


def _open(entry: ModelEntry) -> ModelEntry:
    assert entry.card is not None
    try:
        return replace(entry, model=_served(entry.folder, entry.card), reason=None)
    except (UnusableModel, SessionError) as error:
        return replace(entry, reason=one_line(str(error)))
    except Exception as error:
        log.exception("model cannot be loaded", model=entry.name)
        return replace(entry, reason=f"it cannot be loaded: {_kind(error)}")


def _verified(folder: Path, card: Card) -> bytes:
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
        raise UnusableModel(_other_file(content, digest, card))
    return content


def _other_file(content: bytes, digest: str, card: Card) -> str:
    """Return the reason why a file differs from the card, with its kind if the content reveals it."""
    other = f"its file {card.file.name} is not the one that the card describes"
    kind = file_kind(content)
    if kind is not None:
        return f"{other}, it is {kind}"
    if len(content) < card.file.bytes and looks_truncated(content):
        return f"{other}, it is cut off: {len(content)} bytes of {card.file.bytes}: download it again"
    return f"{other}: sha256 {digest[:12]}..., the card says {card.file.sha256[:12]}..."


def _served(folder: Path, card: Card) -> ServedModel:
    content = _verified(folder, card)
    try:
        labels = read_labels(card, folder)
    except OSError as error:
        raise UnusableModel(f"its labels '{card.labels}' cannot be read: {error_words(error)}") from None
    except ValueError as error:
        kind = _text_kind(folder / "labels.txt")
        reason = str(error) if kind is None else f"labels.txt is {kind}"
        raise UnusableModel(f"its labels '{card.labels}' cannot be used: {reason}") from None
    session = OnnxSession(content, card)
    session.activation = _activation(content, card)
    return ServedModel(card, labels, session, typical_ns=0)


def _activation(content: bytes, card: Card) -> Activation:
    """Return the activation of the network's output, from its card or its last operator.

    Raises UnusableModel if they contradict each other, because probabilities would be wrong.
    """
    applied = output_activation(content, "logits")
    declared = card.outputs.get("activation", applied)
    if applied not in ("none", declared):
        raise UnusableModel(
            f"its last operator is {applied}, its card says outputs.activation {declared} "
            f"(allowed: {applied}, or left out)"
        )
    return declared


def _text_kind(path: Path) -> str | None:
    """Return the kind of a file that should be a card or labels but is not text; None if unknown."""
    try:
        kind = file_kind(read_regular(path))
    except OSError:
        return None
    return None if kind is None or kind.startswith(("JSON text", "text (")) else kind


def _kind(error: Exception) -> str:
    """Return the kind of an unexpected error, without its message, which may contain anything."""
    return "not enough memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}"


def _warmed_up(entry: ModelEntry, limit_s: float) -> ModelEntry:
    """Return the entry with `typical_ns` set, or without model and with the reason why it does not run."""
    model = entry.model
    if model is None:
        return entry
    try:
        return replace(entry, model=replace(model, typical_ns=_warm_up(model, limit_s)))
    except UnusableModel as error:
        return replace(entry, model=None, reason=str(error))
    except ModelUnavailable as error:
        return replace(entry, model=None, reason=model.session.failure or str(error))
    except Exception as error:
        log.exception("model cannot be run", model=entry.name)
        return replace(entry, model=None, reason=f"it cannot be run: {_kind(error)}")


def _warm_up(model: ServedModel, limit_s: float) -> int:
    images = [_noise(model.card.input, seed) for seed in range(2)]
    names = tuple(model.card.output_shapes)
    logits = [model.session.run(image, names, limit_s=limit_s)["logits"][0] for image in images]
    declared = model.card.outputs.get("activation")
    distribution = all(map(_are_probabilities, logits))
    if declared is None:
        if model.session.activation == "none" and distribution:
            model.session.activation = "softmax"
        if model.session.activation != "none":
            log.info("activation detected", model=model.name, activation=model.session.activation)
    elif declared != "softmax" and distribution:
        raise UnusableModel(
            "output 'logits' is a probability distribution (softmax), but its card says "
            f"outputs.activation {declared} (allowed: softmax, or left out)"
        )
    image = images[0]
    return int(statistics.median(_timed(model.session, image) for _ in range(_WARM_UP_RUNS)))


def _are_probabilities(logits: NDArray[np.float32]) -> bool:
    """Return whether the values are a probability distribution; a graph may express softmax otherwise."""
    return bool(logits.size > 1 and (logits >= 0).all() and abs(logits.sum(dtype=np.float64) - 1) <= 1e-3)


def _noise(spec: InputSpec, seed: int) -> NDArray[np.float32]:
    """Return a normalized image of noise, float32 (1, channels, height, width).

    Noise, not zeros: a network may work on pictures but return NaN for a constant input, or vice versa.
    """
    shape = (1, spec.channels, spec.height, spec.width)
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    mean, std = (np.array(values, np.float64)[:, None, None] for values in (spec.mean, spec.std))
    with np.errstate(all="ignore"):  # an absurd `std` shows in the network's outputs
        return ((pixels - mean) / std).astype(np.float32)


def _timed(session: OnnxSession, image: NDArray[np.float32]) -> int:
    start = time.perf_counter_ns()
    session.run(image)
    return time.perf_counter_ns() - start
