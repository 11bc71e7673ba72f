"""Which models there are, which of them are loaded, and why one is not."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import structlog
from pydantic import ValidationError

from models.zoo.card import Card, read_card
from models.zoo.labels import read_labels
from service.errors import ModelUnavailable, NotReady, UnknownModel
from service.session import OnnxSession, SessionError

LOADING = "it is still being loaded"
_WARM_UP_RUNS = 5

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that answers: its card, the names of its classes and its session.

    `typical_ns` is the median inference time of its warm-up runs: an estimate for planning, not a figure.
    """

    card: Card
    labels: tuple[str, ...]
    session: OnnxSession
    typical_ns: int

    @property
    def name(self) -> str:
        """The name that clients use."""
        return self.card.name


@dataclass(frozen=True)
class ModelEntry:
    """A folder of the zoo: the model it holds, or the reason why there is none (yet)."""

    name: str
    folder: Path
    card: Card | None
    model: ServedModel | None = None
    reason: str | None = LOADING


class UnusableModel(Exception):
    """A folder of the zoo cannot be served; the message says why, without paths."""


class Registry:
    """The models found in some zoo folders.

    Cards are read at construction; `load` then makes the sessions. Safe to read from any thread meanwhile.
    """

    def __init__(self, directories: Iterable[Path], default_model: str) -> None:
        """Find the models. FileNotFoundError names a directory that does not exist."""
        self.default_model = default_model
        self._entries: dict[str, ModelEntry] = {}
        self.ready = False
        for directory in directories:
            if not directory.is_dir():
                raise FileNotFoundError(f"no such folder of models: {directory}")
            for folder in sorted(directory.iterdir()):
                if (folder / "card.json").is_file() or (folder / "model.onnx").is_file():
                    self._entries.setdefault(folder.name, _describe(folder))

    def load(self) -> None:
        """Load and warm up every model that has a valid card; a broken one keeps its reason.

        Warming up runs one model at a time: its time is an estimate of what the model costs alone.
        """
        pending = [entry for entry in self._entries.values() if entry.card is not None]
        with ThreadPoolExecutor(max_workers=2, thread_name_prefix="load") as executor:
            for entry, opened in zip(pending, executor.map(_open, pending), strict=True):
                self._entries[entry.name] = opened
        for entry in self._entries.values():
            if entry.model is None:
                log.error("model not served", model=entry.name, reason=entry.reason)
            else:
                model = replace(entry.model, typical_ns=_warm_up(entry.model))
                self._entries[entry.name] = replace(entry, model=model)
        if self.default_model not in self._entries:
            log.warning("the default model does not exist", default_model=self.default_model)
        self.ready = True

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Every model found, by name."""
        return tuple(self._entries[name] for name in sorted(self._entries))

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """The models that answer, by name."""
        return tuple(entry.model for entry in self.entries if entry.model is not None)

    def names(self) -> tuple[str, ...]:
        """The names of all models found, served or not."""
        return tuple(sorted(self._entries))

    def entry(self, name: str) -> ModelEntry:
        """The model's entry, served or not. UnknownModel for a name that is not there."""
        try:
            return self._entries[name]
        except KeyError:
            known = ", ".join(self.names()) or "none"
            raise UnknownModel(f"no model '{name[:100]}'; there are: {known}") from None

    def get(self, name: str | None = None) -> ServedModel:
        """The model of that name, or the default one. UnknownModel, NotReady or ModelUnavailable."""
        entry = self.entry(self.default_model if name is None else name)
        if entry.model is None and entry.reason == LOADING:
            raise NotReady(f"model '{entry.name}' is still being loaded")
        if entry.model is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
        return entry.model

    def content(self, name: str) -> tuple[Card, bytes]:
        """The card and the verified file of a model, loaded or not. UnknownModel or ModelUnavailable."""
        entry = self.entry(name)
        if entry.card is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be used: {entry.reason}")
        try:
            return entry.card, _verified(entry.folder, entry.card)
        except UnusableModel as error:
            raise ModelUnavailable(f"model '{entry.name}' cannot be used: {error}") from None

    def comparable(self) -> tuple[ServedModel, ...]:
        """The models that share the default model's label set."""
        labels = self.get().card.labels
        return tuple(model for model in self.loaded if model.card.labels == labels)


def _describe(folder: Path) -> ModelEntry:
    try:
        card = read_card(folder)
    except FileNotFoundError:
        return ModelEntry(folder.name, folder, None, reason="it has no card.json")
    except (ValidationError, OSError) as error:
        return ModelEntry(folder.name, folder, None, reason=f"its card.json is not valid: {_first(error)}")
    if card.name != folder.name:
        reason = f"its card names it '{card.name}', its folder '{folder.name}'"
        return ModelEntry(folder.name, folder, None, reason=reason)
    return ModelEntry(card.name, folder, card)


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "it cannot be read"
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return f"{where}: {first['msg']}"


def _open(entry: ModelEntry) -> ModelEntry:
    assert entry.card is not None
    try:
        model = _served(entry.folder, entry.card)
    except (UnusableModel, SessionError) as error:
        return replace(entry, reason=str(error))
    return replace(entry, model=model, reason=None)


def _verified(folder: Path, card: Card) -> bytes:
    """The content of the model's file, if it is the one that the card describes."""
    path = folder / card.file.name
    try:
        content = path.read_bytes()
    except OSError:
        raise UnusableModel(f"its file {card.file.name} is missing or cannot be read") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.file.sha256:
        raise UnusableModel(
            f"its file {card.file.name} is not the one that the card describes: "
            f"sha256 {digest[:12]}..., the card says {card.file.sha256[:12]}..."
        )
    return content


def _served(folder: Path, card: Card) -> ServedModel:
    content = _verified(folder, card)
    try:
        labels = read_labels(card, folder)
    except (OSError, ValueError) as error:
        raise UnusableModel(f"its labels '{card.labels}' cannot be used: {_without_paths(error)}") from None
    return ServedModel(card, labels, OnnxSession(content, card), typical_ns=0)


def _without_paths(error: Exception) -> str:
    return "there is no such file" if isinstance(error, OSError) else str(error)


def _warm_up(model: ServedModel) -> int:
    spec = model.card.input
    image = np.zeros((1, spec.channels, spec.height, spec.width), np.float32)
    model.session.run(image)
    return int(statistics.median(_timed(model.session, image) for _ in range(_WARM_UP_RUNS)))


def _timed(session: OnnxSession, image: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> int:
    start = time.perf_counter_ns()
    session.run(image)
    return time.perf_counter_ns() - start
