"""Which models there are, which of them are loaded, and why one is not."""

from __future__ import annotations

import errno
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

from models.zoo.card import Card, InputSpec, read_card
from models.zoo.files import read_regular
from models.zoo.labels import read_labels
from service.errors import ModelUnavailable, NotReady, UnknownModel, WeighinError
from service.session import OnnxSession, SessionError
from service.text import encodable, shown

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

    @property
    def problem(self) -> str | None:
        """Why there is no model, or why its latest run failed; None where all is well."""
        if self.model is None:
            return self.reason
        failure = self.model.session.failure
        return None if failure is None else f"its latest run failed: {failure}"


class UnreadableModels(WeighinError):
    """A folder of models cannot be listed."""

    slug = "unreadable-models"


class UnusableModel(Exception):
    """A folder of the zoo cannot be served; the message says why, without paths."""


class Registry:
    """The models found in some zoo folders.

    Cards are read at construction; `load` then makes the sessions. Safe to read from any thread meanwhile.
    """

    def __init__(self, directories: Iterable[Path], default_model: str) -> None:
        """Find the models; a folder that cannot be looked into is left out, with a line in the log.

        Raises FileNotFoundError, which names the directories that do not exist, and UnreadableModels for one
        that cannot be listed.
        """
        self.default_model = default_model
        self._entries: dict[str, ModelEntry] = {}
        self.ready = False
        directories = tuple(directories)
        missing = [str(directory) for directory in directories if not directory.exists()]
        if missing:
            raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder of models: {', '.join(missing)}")
        for directory in directories:
            for folder in _model_folders(directory):
                if folder.name not in self._entries:
                    self._entries[folder.name] = _describe(folder)

    def load(self) -> None:
        """Load and warm up every model that has a valid card; a broken one keeps its reason.

        Warming up runs one model at a time: its time is an estimate of what the model costs alone. Whatever
        happens, `ready` is true afterwards and every model has a session or a reason.
        """
        pending = [entry for entry in self._entries.values() if entry.card is not None]
        try:
            with ThreadPoolExecutor(max_workers=2, thread_name_prefix="load") as executor:
                opened = list(executor.map(_open, pending))
            for entry in opened:
                self._entries[entry.name] = _warmed_up(entry)
        finally:
            for entry in self.entries:
                if entry.model is None and entry.reason == LOADING:
                    self._entries[entry.name] = replace(
                        entry, reason="loading it was interrupted: see the log"
                    )
            self.ready = True
        for entry in self.entries:
            if entry.model is None:
                log.error("model not served", model=entry.name, reason=entry.reason)
        if self.default_model not in self._entries:
            log.warning("WEIGHIN_DEFAULT_MODEL: no such model", default_model=self.default_model)

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
        """The models that share the default model's label set, whether that one is served or not.

        Raises as `get` does when there is none, or the default model's card cannot be read.
        """
        entry = self.entry(self.default_model)
        if entry.card is None or (entry.model is None and entry.reason == LOADING):
            self.get()
            raise AssertionError("a model without card or session is never returned")
        labels = entry.card.labels
        models = tuple(model for model in self.loaded if model.card.labels == labels)
        return models or (self.get(),)


def _model_folders(directory: Path) -> Iterator[Path]:
    """The folders in `directory` that hold a card or a model, by name."""
    try:
        folders = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder of models: {directory}") from None
    except OSError as error:
        reason = f"folder of models {directory} cannot be read: {_words(error)}"
        raise UnreadableModels(f"WEIGHIN_MODEL_DIRS: {reason}") from None
    for folder in folders:
        if not encodable(folder.name):
            log.warning("model folder skipped: name is not UTF-8", folder=shown(folder.name))
            continue
        try:
            os.stat(folder)  # of a link: what it leads to
            if _exists(folder / "card.json") or _exists(folder / "model.onnx"):
                yield folder
        except OSError as error:
            log.warning("folder skipped", folder=shown(str(folder)), reason=_words(error))


def _exists(path: Path) -> bool:
    """Whether there is something of that name, a broken link included. OSError where that cannot be told."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _describe(folder: Path) -> ModelEntry:
    try:
        card = read_card(folder)
    except FileNotFoundError:
        return ModelEntry(folder.name, folder, None, reason="it has no card.json")
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        reason = f"its card.json is not valid: {where}: {first['msg']}"
        return ModelEntry(folder.name, folder, None, reason=reason)
    except OSError as error:
        reason = f"its card.json cannot be read: {_words(error)}"
        return ModelEntry(folder.name, folder, None, reason=reason)
    except Exception as error:
        log.exception("card cannot be read", model=folder.name)
        return ModelEntry(folder.name, folder, None, reason=f"its card.json cannot be read: {_kind(error)}")
    if card.name != folder.name:
        reason = f"its card names it '{card.name}', its folder '{folder.name}'"
        return ModelEntry(folder.name, folder, None, reason=reason)
    return ModelEntry(card.name, folder, card)


def _open(entry: ModelEntry) -> ModelEntry:
    assert entry.card is not None
    try:
        return replace(entry, model=_served(entry.folder, entry.card), reason=None)
    except (UnusableModel, SessionError) as error:
        return replace(entry, reason=str(error))
    except Exception as error:
        log.exception("model cannot be loaded", model=entry.name)
        return replace(entry, reason=f"it cannot be loaded: {_kind(error)}")


def _verified(folder: Path, card: Card) -> bytes:
    """The content of the model's file, if it is the one that the card describes."""
    name = card.file.name
    try:
        content = read_regular(folder / name)
    except FileNotFoundError:
        raise UnusableModel(f"its file {name} is missing") from None
    except OSError as error:
        raise UnusableModel(f"its file {name} cannot be read: {_words(error)}") from None
    digest = hashlib.sha256(content).hexdigest()
    if digest != card.file.sha256:
        raise UnusableModel(
            f"its file {name} is not the one that the card describes: "
            f"sha256 {digest[:12]}..., the card says {card.file.sha256[:12]}..."
        )
    return content


def _served(folder: Path, card: Card) -> ServedModel:
    content = _verified(folder, card)
    try:
        labels = read_labels(card, folder)
    except OSError as error:
        raise UnusableModel(f"its labels '{card.labels}' cannot be read: {_words(error)}") from None
    except ValueError as error:
        raise UnusableModel(f"its labels '{card.labels}' cannot be used: {error}") from None
    return ServedModel(card, labels, OnnxSession(content, card), typical_ns=0)


def _words(error: OSError) -> str:
    """What the operating system says, in lower case and without paths."""
    return (error.strerror or os.strerror(error.errno or errno.EIO)).lower()


def _kind(error: Exception) -> str:
    """What kind of an error nobody expected; its message may hold anything, so that is only logged."""
    return "not enough memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}"


def _warmed_up(entry: ModelEntry) -> ModelEntry:
    """The entry with its model's typical time, or with the reason why the model does not run."""
    model = entry.model
    if model is None:
        return entry
    try:
        return replace(entry, model=replace(model, typical_ns=_warm_up(model)))
    except ModelUnavailable as error:
        return replace(entry, model=None, reason=model.session.failure or str(error))
    except Exception as error:
        log.exception("model cannot be run", model=entry.name)
        return replace(entry, model=None, reason=f"it cannot be run: {_kind(error)}")


def _warm_up(model: ServedModel) -> int:
    image = _noise(model.card.input)
    model.session.run(image, tuple(model.card.outputs))
    return int(statistics.median(_timed(model.session, image) for _ in range(_WARM_UP_RUNS)))


def _noise(spec: InputSpec) -> NDArray[np.float32]:
    """A picture of noise as the network gets it, float32 (1, channels, height, width).

    Not zeros: a network may be right on pictures and give NaN for a flat input, or the other way round.
    """
    shape = (1, spec.channels, spec.height, spec.width)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mean, std = (np.array(values, np.float64)[:, None, None] for values in (spec.mean, spec.std))
    with np.errstate(all="ignore"):  # what comes of an absurd `std` is seen in the network's outputs
        return ((pixels - mean) / std).astype(np.float32)


def _timed(session: OnnxSession, image: NDArray[np.float32]) -> int:
    start = time.perf_counter_ns()
    session.run(image)
    return time.perf_counter_ns() - start
