"""Which models there are, which of them are loaded, why one is not, and how one replaces another."""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
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
from service.inference.linear_head import HeldFile
from service.inference.runtime_errors import one_line
from service.inference.session import OnnxSession, SessionError
from service.text.display import shown

LOADING = "still loading"
CHANGING = "its folder is still changing"
_WARM_UP_RUNS = 5
_MANY_LOOKS = 4
"""Looks in a row that find a folder changed, until that is reported."""

Signature = tuple[tuple[str, int, int, int], ...]
"""The files of a folder: name, time of modification in nanoseconds, size, inode."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A loaded model: card, class labels and session.

    `typical_ns` is the median inference time of its warm-up runs: an estimate for planning, not a figure.
    `head` is the file of the card's `classifier`, where there is one and the system can hold it.
    """

    card: Card
    labels: tuple[str, ...]
    session: OnnxSession
    typical_ns: int
    head: HeldFile | None = None

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
    refused: str | None = None
    """Why what is in the folder by now is not served, but the version before it: `card` and `model`."""

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

    Cards are read at construction; `load` then makes the sessions, and `refresh` takes changes of the folders
    in. Safe to read from any thread meanwhile: what a method has returned stays as it is, and a `ServedModel`
    can be used until its last reference is gone, whatever its folder has become.
    """

    def __init__(
        self,
        directories: Iterable[Path],
        default_model: str,
        *,
        added: Path | None = None,
        warm_up_limit_s: float = 60,
    ) -> None:
        """Find the models. Unreadable model folders are skipped with a warning in the log.

        `added`: the folder of added models, searched last; it may be missing. A model whose first run takes
        longer than `warm_up_limit_s` is broken. Raises FileNotFoundError, which names the directories that do
        not exist, and UnreadableFolder for one that cannot be listed.
        """
        self._warm_up_limit_s = warm_up_limit_s
        self.default_model = default_model
        self.added = added
        self._entries: Mapping[str, ModelEntry] = {}
        self._changing = threading.Lock()
        self._logged: set[tuple[str, str]] = set()
        self.ready = False
        self._directories = tuple(directories)
        missing = [str(directory) for directory in self._directories if not directory.exists()]
        if missing:
            raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder: {', '.join(missing)}")
        for directory in self._directories:
            next(_model_folders(directory), None)  # raises UnreadableFolder
        self._seen = self._look()
        """The folder of each model at the last look; two equal ones in a row: nobody writes there."""
        self._tried = dict(self._seen)
        """The folder of each model when it was last read."""
        self._restless: dict[str, int] = {}
        self._entries = {name: _describe(folder) for name, (folder, _) in self._seen.items()}

    def load(self) -> None:
        """Load and warm up every model with a valid card; a broken model gets a reason.

        Models are warmed up one at a time, so that the time estimates the latency of a model running alone.
        Afterwards `ready` is true and every model has a session or a reason, whatever happened.
        """
        with self._changing:
            pending = [entry for entry in self._entries.values() if entry.card is not None]
            open_entry = partial(_open, folders={entry.name: entry.folder for entry in self.entries})
            try:
                with ThreadPoolExecutor(max_workers=2, thread_name_prefix="load") as executor:
                    opened = list(executor.map(open_entry, pending))
                for entry in opened:
                    self._put(_warmed_up(entry, self._warm_up_limit_s))
            finally:
                for entry in self.entries:
                    if entry.model is None and entry.reason == LOADING:
                        self._put(replace(entry, reason="loading it was interrupted: see the log"))
                self.ready = True
        for entry in self.entries:
            if entry.model is None:
                log.error("model not served", model=entry.name, reason=entry.reason)
        if self.default_model not in self._entries:
            log.warning("WEIGHIN_DEFAULT_MODEL: no such model", default_model=self.default_model)

    def refresh(self, name: str | None = None) -> None:
        """Look at the folders, and take in what has changed and was the same at the last look.

        A changed model is loaded and warmed up beside the old one and then takes its place; one that cannot
        be served leaves the old one there, with the reason in `refused`. A folder that is gone takes its
        model along. With a `name` only that model is looked at, and taken in at once.
        """
        with self._changing:
            found = self._look()
            before = self._seen
            if name is None:
                self._seen = found
            for each in sorted(found.keys() | self._entries.keys() if name is None else {name}):
                now = found.get(each)
                if now == self._tried.get(each):
                    self._rest(each)
                elif name is None and now != before.get(each):
                    self._note_change(each)
                else:
                    self._rest(each)
                    self._take_in(each, now)

    def _look(self) -> dict[str, tuple[Path, Signature]]:
        """The folder that serves each name, the first of that name, and what is in it."""
        found: dict[str, tuple[Path, Signature]] = {}
        for directory in (*self._directories, *(() if self.added is None else (self.added,))):
            try:
                for folder, error in _model_folders(directory):
                    name = _name(folder)
                    if error is None:
                        found.setdefault(name, (folder, _signature(folder)))
                        continue
                    self._log_once("folder skipped", folder, error_words(error))
                    if name in self._entries and self._entries[name].folder == folder:
                        found.setdefault(name, self._tried[name])  # it may be there; nobody can tell
            except FileNotFoundError:
                continue
            except UnreadableFolder as error:
                self._log_once("folder of models skipped", directory, error.detail)
                for name, entry in self._entries.items():
                    if directory in entry.folder.parents:
                        found.setdefault(name, self._tried[name])
        return found

    def _take_in(self, name: str, now: tuple[Path, Signature] | None) -> None:
        """Bring the entry of that name to what its folder is now; None: there is none."""
        old = self._entries.get(name)
        if now is None:
            self._tried.pop(name, None)
            self._entries = {key: entry for key, entry in self._entries.items() if key != name}
            log.info("model removed", model=name)
            return
        folder, signature = now
        entry = _describe(folder)
        if entry.card is not None:
            same = _unchanged(old, entry)
            if same is None:
                folders = {other.name: other.folder for other in self.entries} | {name: folder}
                same = _warmed_up(_open(entry, folders), self._warm_up_limit_s)
            entry = same
        if _signature(folder) != signature:
            return  # it was changed meanwhile: the next look tells
        self._tried[name] = now
        if entry.model is None and old is not None and old.model is not None:
            if entry.reason != old.refused:
                log.warning(
                    "update refused, the version before it is served", model=name, reason=entry.reason
                )
            entry = replace(old, refused=entry.reason)
        elif entry.model is None:
            log.error("model not served", model=name, reason=entry.reason)
        elif old is None or entry.model is not old.model:
            log.info("model loaded", model=name, version=entry.model.version)
        self._put(entry)

    def _put(self, entry: ModelEntry) -> None:
        # A new dictionary, so that whoever reads the old one sees one moment of it.
        self._entries = {**self._entries, entry.name: entry}

    def _note_change(self, name: str) -> None:
        """Say that a folder is being written to, once that has lasted."""
        self._restless[name] = self._restless.get(name, 0) + 1
        entry = self._entries.get(name)
        if self._restless[name] == _MANY_LOOKS and entry is not None and entry.model is not None:
            self._put(replace(entry, refused=CHANGING))

    def _rest(self, name: str) -> None:
        self._restless.pop(name, None)
        entry = self._entries.get(name)
        if entry is not None and entry.refused == CHANGING:
            self._put(replace(entry, refused=None))

    def _log_once(self, event: str, folder: Path, reason: str) -> None:
        if (str(folder), reason) not in self._logged:
            self._logged.add((str(folder), reason))
            log.warning(event, folder=shown(str(folder)), reason=reason)

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Every model found, by name."""
        entries = self._entries
        return tuple(entries[name] for name in sorted(entries))

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """The loaded models, sorted by name."""
        return tuple(entry.model for entry in self.entries if entry.model is not None)

    def versions(self) -> dict[str, str]:
        """The version of each model that has a card, served or not: the SHA-256 of its file."""
        return {
            name: entry.card.file.sha256 for name, entry in self._entries.items() if entry.card is not None
        }

    def doubtful(self) -> dict[str, tuple[str, ...]]:
        """The assumed facts on which predictions depend, of each model that has some."""
        cards = (entry.card for entry in self.entries if entry.card is not None)
        return {card.name: card.doubtful for card in cards if card.doubtful}

    def names(self) -> tuple[str, ...]:
        """Return the names of all models, loaded or not."""
        return tuple(sorted(self._entries))

    def entry(self, name: str) -> ModelEntry:
        """The model's entry, served or not. UnknownModel for a name that is not there."""
        entries = self._entries
        try:
            return entries[name]
        except KeyError:
            raise UnknownModel(name, entries) from None

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


def _model_folders(directory: Path, *, nested: bool = False) -> Iterator[tuple[Path, OSError | None]]:
    """The folders in `directory` that hold a card or a model, by name; those in its folder `networks` too.

    One that cannot be looked into comes with the error. A name that begins with a dot is no model's: such a
    folder is being written, and gets its name when it is complete.
    """
    try:
        folders = sorted(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder: {directory}") from None
    except OSError as error:
        reason = f"folder {directory} cannot be read: {error_words(error)}"
        raise UnreadableFolder(f"WEIGHIN_MODEL_DIRS: {reason}") from None
    for folder in folders:
        if folder.name.startswith("."):
            continue
        try:
            os.stat(folder)  # raises for a broken link
            if holds_network(folder):
                yield folder, None
            elif folder.name == "networks" and folder.is_dir() and not nested:
                yield from _model_folders(folder, nested=True)
        except OSError as error:
            yield folder, error


def _signature(folder: Path) -> Signature:
    """What is in the folder, as far as that can be told without reading it."""
    files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    facts = entry.stat()
                except OSError:
                    facts = entry.stat(follow_symlinks=False)  # a link that leads nowhere
                files.append((entry.name, facts.st_mtime_ns, facts.st_size, facts.st_ino))
    except OSError as error:
        return ((type(error).__name__, 0, 0, 0),)
    return tuple(sorted(files))


def _name(folder: Path) -> str:
    # A name in bytes that are not UTF-8 could neither be sent nor shown.
    return os.fsencode(folder.name).decode("utf-8", "backslashreplace")


def _describe(folder: Path, *, named: bool = True) -> ModelEntry:
    """Read the folder's card, which `named` requires to have the folder's name."""
    name = _name(folder)
    try:
        card = read_card(folder)
    except Exception as error:
        return ModelEntry(name, folder, None, reason=_unreadable(name, folder / "card.json", error))
    if named and card.name != name:
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


def load_model(folder: Path, *, warm_up_limit_s: float = 60) -> ServedModel:
    """Load and warm up the model in a folder of any name. ModelUnavailable says why it cannot be served."""
    entry = _describe(folder, named=False)
    if entry.card is not None:
        entry = _warmed_up(_open(entry, {}), warm_up_limit_s)
    if entry.model is None:
        raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
    return entry.model


def _unchanged(old: ModelEntry | None, entry: ModelEntry) -> ModelEntry | None:
    """The entry with the model that is loaded, if the folder's files still are those that it is of."""
    assert entry.card is not None
    if old is None or old.model is None or old.model.card != entry.card:
        return None
    try:
        _verified(entry.folder, entry.card)
        if read_labels(entry.card, entry.folder) != old.model.labels:
            return None
    except (UnusableModel, OSError, ValueError):
        return None  # loading it anew finds the words for that
    return replace(entry, model=old.model, reason=None)


def _open(entry: ModelEntry, folders: Mapping[str, Path]) -> ModelEntry:
    """The entry with its model loaded, or the reason why not. `folders`: of all models, by name."""
    assert entry.card is not None
    try:
        model = _served(entry.folder, entry.card)
        return replace(entry, model=replace(model, head=_head(entry.card, folders)), reason=None)
    except (UnusableModel, SessionError) as error:
        return replace(entry, reason=one_line(str(error)))
    except Exception as error:
        log.exception("model cannot be loaded", model=entry.name)
        return replace(entry, reason=f"it cannot be loaded: {_kind(error)}")


def _head(card: Card, folders: Mapping[str, Path]) -> HeldFile | None:
    """The file of the card's classifier; None where it is missing, or open files cannot be renamed."""
    if card.classifier is None or card.classifier.model not in folders or os.name == "nt":
        return None
    try:
        return HeldFile(folders[card.classifier.model] / card.classifier.file.name)
    except OSError:
        return None  # `/explain` finds the words for that


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
    """What the network applies to its logits, by its card or by its last operator. UnusableModel where they
    contradict each other: its probabilities would be wrong."""
    applied = output_activation(content, card.output_name("logits"))
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
