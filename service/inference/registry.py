"""Registry of the zoo's models: find them, load them, and reload them when their folders change."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path

import structlog

from models.zoo.card import Card, Task
from models.zoo.display import shown
from models.zoo.files import holds_network
from service.errors import (
    MOST_NAMES,
    InvalidParameter,
    ModelUnavailable,
    NotReady,
    OtherTask,
    StorageUnavailable,
    UnknownModel,
    UnreadableFolder,
    error_words,
)
from service.inference.cpu import core_budget
from service.inference.loading import (
    LOADING,
    ModelEntry,
    ServedModel,
    UnusableModel,
    folder_name,
    load_entry,
    read_entry,
    read_model_file,
    release_memory,
    reuse_model,
    warm_up_runner,
    with_runner,
    with_warm_runner,
)
from service.inference.runtimes.base import Session
from service.inference.runtimes.choice import Requested, RuntimeChoices, Serving, runtime_choices
from service.inference.runtimes.opening import open_session
from service.inference.runtimes.openvino import FloatPrecision
from service.inference.runtimes.weighing import Conditions, Weighing
from service.settings import Settings

_WRONG_TASK: dict[Task, str] = {
    "image-classification": "model '{name}': detects objects, it does not classify images (use POST /detect)",
    "object-detection": "model '{name}': classifies images, it does not detect objects (use POST /classify)",
}
FOLDER_CHANGING = "its folder is still changing"
_CHANGED_SCANS_LIMIT = 4
"""Number of consecutive scans that must find a folder changed before it is reported as changing."""

Signature = tuple[tuple[str, int, int, int], ...]
"""The files of a folder: name, time of modification in nanoseconds, size, inode."""

log = structlog.get_logger(__name__)


class Registry:
    """Models of the zoo folders.

    The constructor reads the cards, `load` opens the sessions, and `refresh` reloads changed folders. Methods
    that return entries or models are thread-safe, and what they return does not change later. A `ServedModel`
    stays usable after its folder was changed or deleted.
    """

    def __init__(
        self,
        directories: Iterable[Path],
        default_model: str,
        *,
        default_detector: str | None = None,
        added: Path | None = None,
        choices: RuntimeChoices | None = None,
        warm_up_limit_s: float = 60,
    ) -> None:
        """Find the models. Unreadable model folders are skipped with a warning in the log.

        `added`: the folder of added models. It is searched last, and may be missing. `choices` decides the
        runtime of each model. If it is None, ONNX Runtime runs all models. A model whose first run takes
        longer than `warm_up_limit_s` is broken. Raises FileNotFoundError with the names of the `directories`
        that do not exist, and UnreadableFolder if a directory cannot be listed.
        """
        self._warm_up_limit_s = warm_up_limit_s
        self.default_model = default_model
        self.default_detector = default_detector
        self.added = added
        self._choices = choices or RuntimeChoices()
        self._entries: Mapping[str, ModelEntry] = {}
        self._update_lock = threading.Lock()
        self._logged: set[tuple[str, str]] = set()
        self.ready = False
        self._loading: list[Future[ModelEntry]] = []
        self._begun: set[str] = set()
        self._directories = tuple(directories)
        missing = [str(directory) for directory in self._directories if not directory.exists()]
        if missing:
            raise FileNotFoundError(f"WEIGHIN_MODEL_DIRS: no such folder: {', '.join(missing)}")
        for directory in self._directories:
            next(_model_folders(directory), None)  # raises UnreadableFolder
        self._last_scan = self._scan()
        """Folder and signature of each model. A folder with the same signature in two scans counts as
        completely written."""
        self._last_read = dict(self._last_scan)
        """Folder and signature of each model when it was last read."""
        self._changed_scans: dict[str, int] = {}
        self._entries = {name: read_entry(folder) for name, (folder, _) in self._last_scan.items()}

    def start_loading(self, unless: Callable[[Path], bool] = lambda _: False) -> None:
        """Begin to load the models on separate threads, one per core. Call `load` later.

        `unless` is called with the folder of each model. If it returns true, the model is not loaded now, but
        by `load`. ONNX Runtime does not hold the interpreter's lock, so other work can continue meanwhile.
        """
        folders = {entry.name: entry.folder for entry in self.entries}
        cards = {
            entry.name: entry.card
            for entry in self.entries
            if entry.card is not None
            and entry.model is None
            and entry.name not in self._begun
            and not unless(entry.folder)
        }
        self._begun |= cards.keys()
        largest_first = sorted(cards, key=lambda name: cards[name].file.bytes, reverse=True)
        executor = ThreadPoolExecutor(max_workers=core_budget(), thread_name_prefix="load")
        self._loading += [
            executor.submit(load_entry, self._entries[name], folders, self._choices, self._warm_up_limit_s)
            for name in largest_first
        ]
        executor.shutdown(wait=False)  # its threads end after the last model

    def stop_loading(self) -> None:
        """Stop the loading that `start_loading` began, because the service's start has failed.

        Models that are being loaded now are still loaded to the end.
        """
        for future in self._loading:
            future.cancel()

    def load(
        self, before_ready: Callable[[], None] = lambda: None, before_rest: Callable[[], None] = lambda: None
    ) -> None:
        """Load and warm up every model that has a valid card.

        The entry of a model that cannot be loaded gets the reason.

        Afterwards `ready` is true and every model has a session or a reason, even if this method raises.
        `start_loading` may have left out some models; `before_rest` is called before these models begin to
        load. `before_ready` is called when all models are loaded. Both functions may call `refresh`.
        """
        try:
            before_rest()
            self._load()
            before_ready()
        finally:
            self.ready = True
        for entry in self.entries:
            if entry.model is None:
                log.error("model not served", model=entry.name, reason=entry.reason)
        if self.default_model not in self._entries:
            log.warning("WEIGHIN_DEFAULT_MODEL: no such model", default_model=self.default_model)
        self._warn_of_default_tasks()

    def _load(self) -> None:
        with self._update_lock:
            try:
                self.start_loading()
                wait(self._loading)  # nothing else may run while a runner is timed
                for future in self._loading:
                    if future.exception() is None:
                        self._put(with_warm_runner(future.result(), self._warm_up_limit_s))
                for future in self._loading:
                    future.result()  # raises errors that did not become a reason, such as an unwritable log
            finally:
                self._loading, self._begun = [], set()
                for entry in self.entries:
                    if entry.model is None and entry.reason == LOADING:
                        self._put(replace(entry, reason="loading it was interrupted: see the log"))
            release_memory(self.loaded)

    def _warn_of_default_tasks(self) -> None:
        """Log if the default model is no classifier, or if the default detector is missing or no detector."""
        entry = self._entries.get(self.default_model)
        if entry is not None and entry.card is not None and entry.card.detection is not None:
            log.warning("WEIGHIN_DEFAULT_MODEL: not a classifier", default_model=self.default_model)
        if self.default_detector is None:
            return
        entry = self._entries.get(self.default_detector)
        if entry is None and self.detectors():
            log.warning("WEIGHIN_DEFAULT_DETECTOR: no such model", default_detector=self.default_detector)
        elif entry is not None and entry.card is not None and entry.card.detection is None:
            log.warning("WEIGHIN_DEFAULT_DETECTOR: not a detector", default_detector=self.default_detector)

    def refresh(self, name: str | None = None) -> None:
        """Scan the folders, and reload the models whose folders have changed.

        A changed model is reloaded only after a second scan finds its folder in the same state, because it
        may still be being written. A new version is warmed up before it replaces the old one. If the new
        version cannot be served, the old one stays and `refused` gives the reason. Models of deleted folders
        are removed. With `name`, only this model is reloaded, without waiting for a second scan.
        """
        with self._update_lock:
            scan = self._scan()
            previous = self._last_scan
            if name is None:
                self._last_scan = scan
            for model in sorted(scan.keys() | self._entries.keys() if name is None else {name}):
                current = scan.get(model)
                if current == self._last_read.get(model):
                    self._clear_changing(model)
                elif name is None and current != previous.get(model):
                    self._count_changed_scan(model)
                else:
                    self._clear_changing(model)
                    self._reload(model, current)

    def choose_runtime(self, name: str, requested: Requested | None) -> ModelEntry:
        """Run the predictions of a model in the requested runtime, and save the choice.

        If `requested` is None, the choice of earlier requests is discarded, so that the model's card or the
        setting decides; this is allowed even for a model that is broken or missing. If the requested runtime
        is `auto`, an earlier weighing is discarded, so that the model is weighed again. Requests in progress
        end in the session in which they began. Raises UnknownModel, NotReady, ModelUnavailable and
        StorageUnavailable, and InvalidParameter if the runtime cannot run the model.
        """
        with self._update_lock:
            forgotten = self._forgotten(name) if requested is None else None
            if forgotten is not None:
                return forgotten
            model = self.get(name)
            choice = self._choices.after(model.card, requested)
            weigh_again = requested is not None and choice.runtime == "auto"
            if weigh_again:
                self._choices.keep(name, requested)  # discards the weighing
            if weigh_again or choice != model.choice or model.not_chosen is not None:
                model = with_runner(model, choice, self._choices, partial(self.open_in_openvino, model))
                model = warm_up_runner(model, self._warm_up_limit_s)
            if requested is not None and choice.runtime == "openvino" and model.not_chosen is not None:
                raise InvalidParameter(f"runtime '{choice.runtime}': {model.not_chosen}")
            if not weigh_again:
                self._choices.keep(name, requested)
            entry = replace(self._entries[name], model=model)
            self._put(entry)
        log.info("runtime chosen", model=name, runtime=model.predictor.label, origin=choice.origin)
        return entry

    def _forgotten(self, name: str) -> ModelEntry | None:
        """Discard the runtime that a request chose for a broken or missing model; return the model's entry.

        Returns None if no request chose a runtime for the model, or if the model is neither broken nor
        missing.
        """
        entry = self._entries.get(name)
        if self._choices.requested(name) is None or (entry is not None and not entry.broken):
            return None
        self._choices.keep(name, None)
        return entry or ModelEntry(
            name, Path(name), None, reason="no such model; its chosen runtime is forgotten"
        )

    def requested(self, name: str) -> Requested | None:
        """Return the runtime that a request chose for a model, or None if no request chose one."""
        return self._choices.requested(name)

    def forget_runtime(self, name: str) -> None:
        """Discard the runtime that a request chose for a model.

        Otherwise, a later model of this name would run in it.
        """
        try:
            self._choices.keep(name, None)
        except StorageUnavailable as error:
            log.warning("chosen runtime is not forgotten", model=name, reason=error.detail)

    def open_in_openvino(self, model: ServedModel, *, floats: FloatPrecision | None = None) -> Session:
        """Load a served model in OpenVINO.

        Raises UnknownModel, and SessionError if OpenVINO cannot load the model. Raises ModelUnavailable if
        the model's file cannot be read, or is another version than the served one.
        """
        card, content = self.content(model.name)
        if card.file.sha256 != model.version:
            raise ModelUnavailable(f"model '{model.name}' cannot be used: its file has changed")
        return open_session("openvino", content, model.card, streams=self._choices.streams, floats=floats)

    def conditions(self, card: Card) -> Conditions:
        """Return the conditions under which the model of a card is weighed."""
        return self._choices.conditions(card)

    def keep_weighing(self, model: ServedModel, weighing: Weighing, opened: Session | None) -> None:
        """Save the weighing of a model, and run the model's predictions in the runtime that it favours.

        `model`: the model as it was weighed. If it has been reloaded since, or if a request has chosen its
        runtime since, nothing changes. `opened`: the model's session in OpenVINO, with the type of floats
        that was chosen for the model. It is None if OpenVINO cannot open the model.
        """
        with self._update_lock:
            entry = self._entries.get(model.name)
            if entry is None or entry.model is not model:
                log.info("weighing discarded", model=model.name, reason="the model or its runtime changed")
                return
            self._choices.keep_weighing(weighing)
            if model.choice.runtime == "openvino":  # the weighing changes nothing: OpenVINO was chosen
                self._put(replace(entry, model=replace(model, weighing=weighing)))
                return

            def opening(*, floats: FloatPrecision | None) -> Session:
                return self.open_in_openvino(model, floats=floats) if opened is None else opened

            runs = with_runner(model, model.choice, self._choices, opening)
            runs = warm_up_runner(runs, self._warm_up_limit_s)
            self._put(replace(entry, model=runs))
        log.info("runtime weighed", model=model.name, runtime=runs.predictor.label, result=str(runs.weighing))

    def _scan(self) -> dict[str, tuple[Path, Signature]]:
        """Return the folder and its signature for each model name.

        Of several folders with the same name, the first one counts.
        """
        scan: dict[str, tuple[Path, Signature]] = {}
        for directory in (*self._directories, *(() if self.added is None else (self.added,))):
            try:
                for folder, error in _model_folders(directory):
                    name = folder_name(folder)
                    if error is None:
                        scan.setdefault(name, (folder, _signature(folder)))
                        continue
                    self._log_once("folder skipped", folder, error_words(error))
                    if name in self._entries and self._entries[name].folder == folder:
                        scan.setdefault(name, self._last_read[name])  # unreadable folders count as unchanged
            except FileNotFoundError:
                continue
            except UnreadableFolder as error:
                self._log_once("folder of models skipped", directory, error.detail)
                for name, entry in self._entries.items():
                    if directory in entry.folder.parents:
                        scan.setdefault(name, self._last_read[name])
        return scan

    def _reload(self, name: str, current: tuple[Path, Signature] | None) -> None:
        """Reload the entry `name` from its folder.

        `current`: the folder with its present signature. If it is None, the folder is gone, and the entry is
        removed.
        """
        old = self._entries.get(name)
        if current is None:
            self._last_read.pop(name, None)
            self._entries = {key: entry for key, entry in self._entries.items() if key != name}
            log.info("model removed", model=name)
            return
        folder, signature = current
        entry = read_entry(folder)
        if entry.card is not None:
            loaded = reuse_model(old, entry)
            if loaded is None:
                folders = {other.name: other.folder for other in self.entries} | {name: folder}
                loaded = load_entry(entry, folders, self._choices, self._warm_up_limit_s)
                loaded = with_warm_runner(loaded, self._warm_up_limit_s)
            entry = loaded
        if _signature(folder) != signature:
            return  # changed while loading: the next scan retries
        self._last_read[name] = current
        if entry.model is None and old is not None and old.model is not None:
            if entry.reason != old.refused:
                log.warning("update refused, previous version still served", model=name, reason=entry.reason)
            entry = replace(old, refused=entry.reason)
        elif entry.model is None:
            log.error("model not served", model=name, reason=entry.reason)
        elif old is None or entry.model is not old.model:
            log.info("model loaded", model=name, version=entry.model.version)
        self._put(entry)

    def refuse(self, name: str, reason: str | None, *, before: str | None = None) -> None:
        """Report why a newer version of a model is not served.

        Use this for a version that is not in the model's folder. If `reason` is None, the present report is
        withdrawn, but only if its reason equals `before`.
        """
        with self._update_lock:
            entry = self._entries.get(name)
            if entry is not None and (reason is not None or entry.refused == before):
                self._put(replace(entry, refused=reason))

    def _put(self, entry: ModelEntry) -> None:
        # Copy on write: concurrent readers keep a consistent snapshot.
        self._entries = {**self._entries, entry.name: entry}

    def _count_changed_scan(self, name: str) -> None:
        """Count a scan that found the folder changed.

        After _CHANGED_SCANS_LIMIT such scans in a row, the folder is reported as changing.
        """
        self._changed_scans[name] = self._changed_scans.get(name, 0) + 1
        entry = self._entries.get(name)
        if (
            self._changed_scans[name] == _CHANGED_SCANS_LIMIT
            and entry is not None
            and entry.model is not None
        ):
            self._put(replace(entry, refused=FOLDER_CHANGING))

    def _clear_changing(self, name: str) -> None:
        """Reset the count of changed scans, and no longer report the folder as changing."""
        self._changed_scans.pop(name, None)
        entry = self._entries.get(name)
        if entry is not None and entry.refused == FOLDER_CHANGING:
            self._put(replace(entry, refused=None))

    def _log_once(self, event: str, folder: Path, reason: str) -> None:
        if (str(folder), reason) not in self._logged:
            self._logged.add((str(folder), reason))
            log.warning(event, folder=shown(str(folder)), reason=reason)

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """All models that were found, sorted by name."""
        entries = self._entries
        return tuple(entries[name] for name in sorted(entries))

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """The loaded models, sorted by name."""
        return tuple(entry.model for entry in self.entries if entry.model is not None)

    def versions(self) -> dict[str, str]:
        """Return the version (SHA-256 of the model file) of each model that has a card, served or not."""
        return {
            name: entry.card.file.sha256 for name, entry in self._entries.items() if entry.card is not None
        }

    def servings(self) -> dict[str, Serving]:
        """Return the runtime and precision in which the predictions of each model with a card are computed.

        For a model that is not loaded, return the runtime and precision in which its predictions would be
        computed.
        """
        return {
            entry.name: self._serving(entry, entry.card) for entry in self.entries if entry.card is not None
        }

    def servings_elsewhere(self) -> dict[str, Serving]:
        """Return the runtime and the precision that are expected for each model on other machines.

        If OpenVINO was chosen for a model, OpenVINO is expected. Its precision is then unknown, because it
        depends on the CPU. For all other models, also those with the choice `auto`, ONNX Runtime is assumed.
        """
        cards = (entry.card for entry in self.entries if entry.card is not None)
        return {
            card.name: Serving("openvino", None)
            if self._choices.of(card).runtime == "openvino"
            else Serving("onnxruntime", card.precision)
            for card in cards
        }

    def served_cards(self) -> dict[str, Card]:
        """Return the card of each model, with the accuracy and agreement of the model as it is served.

        An unknown accuracy is left out. The accuracy is unknown if all of these hold: OpenVINO serves the
        model; its answers may differ from those of ONNX Runtime; the two runtimes have not been compared on
        enough pictures.
        """
        return {
            entry.name: self._serving(entry, entry.card).card(entry.card)
            for entry in self.entries
            if entry.card is not None
        }

    def _serving(self, entry: ModelEntry, card: Card) -> Serving:
        return self._choices.serving(card) if entry.model is None else entry.model.serving

    def doubtful(self) -> dict[str, tuple[str, ...]]:
        """Return, for each model, the facts in its card that are only assumed and that predictions depend on.

        Models without such facts are left out.
        """
        cards = (entry.card for entry in self.entries if entry.card is not None)
        return {card.name: card.doubtful for card in cards if card.doubtful}

    def names(self) -> tuple[str, ...]:
        """Return the names of all models, loaded or not."""
        return tuple(sorted(self._entries))

    def detectors(self) -> tuple[str, ...]:
        """Return the names of all detectors, loaded or not."""
        cards = (entry.card for entry in self.entries if entry.card is not None)
        return tuple(card.name for card in cards if card.detection is not None)

    def entry(self, name: str | None, task: Task | None = None) -> ModelEntry:
        """Return the entry of the model `name`, served or not.

        If `name` is None, return the entry of the task's default model. Raises UnknownModel.
        """
        entries = self._entries
        if name is None and task == "object-detection":
            return self._detector_entry()
        name = self.default_model if name is None else name
        try:
            return entries[name]
        except KeyError:
            raise UnknownModel(name, entries) from None

    def _detector_entry(self) -> ModelEntry:
        """Return the entry of the default detector. Raises UnknownModel."""
        name = self.default_detector or ""
        if name in self._entries:
            return self._entries[name]
        detectors = self.detectors()
        raise UnknownModel(
            name,
            detectors,
            "WEIGHIN_DEFAULT_DETECTOR: no such model "
            f"(detectors: {', '.join(detectors[:MOST_NAMES]) or 'none; weighin add adds one'})",
        )

    def get(self, name: str | None = None, task: Task | None = None) -> ServedModel:
        """Return the model `name`. If `name` is None, return the default model of the task.

        Raises UnknownModel, NotReady and ModelUnavailable. Raises OtherTask if the model has another task.
        """
        entry = self.entry(name, task)
        if task is not None and entry.card is not None:
            check_task(entry.card, task)
        if entry.model is None and entry.reason == LOADING:
            raise NotReady(f"model '{entry.name}': still loading")
        if entry.model is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
        return entry.model

    def content(self, name: str) -> tuple[Card, bytes]:
        """Return the card and the verified file of a model, loaded or not.

        Raises UnknownModel and ModelUnavailable.
        """
        entry = self.entry(name)
        if entry.card is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be used: {entry.reason}")
        try:
            return entry.card, read_model_file(entry.folder, entry.card)
        except UnusableModel as error:
            raise ModelUnavailable(f"model '{entry.name}' cannot be used: {error}") from None

    def comparable(self) -> tuple[ServedModel, ...]:
        """Return the loaded models that have the same label set as the default model.

        If the default model could not be loaded, the result has only the others with its label set. Raises
        NotReady while the default model is loading. Raises ModelUnavailable if the default model's card
        cannot be read, or if no loaded model has its label set, and UnknownModel if there is no default
        model.
        """
        labels = self.default_labels
        if not self.entry(self.default_model).broken:
            self.get()  # raises NotReady while the default model is loading
        models = tuple(model for model in self.loaded if model.card.labels == labels)
        return models or (self.get(),)

    @property
    def default_labels(self) -> str:
        """Label set of the default model, loaded or not. Raises UnknownModel, ModelUnavailable."""
        entry = self.entry(self.default_model)
        if entry.card is None:
            raise ModelUnavailable(f"model '{entry.name}' cannot be served: {entry.reason}")
        return entry.card.labels


def open_registry(settings: Settings) -> Registry:
    """Find the models of a service with these settings.

    Raises the errors of `Registry`, and InvalidParameter if the runtime in the settings cannot be used.
    """
    return Registry(
        settings.model_dirs,
        settings.default_model,
        default_detector=settings.default_detector,
        added=settings.added_models,
        choices=runtime_choices(settings),
    )


def check_task(card: Card, task: Task) -> None:
    """Raise OtherTask, whose message names the right route, if the model's task is not `task`."""
    if card.task != task:
        raise OtherTask(_WRONG_TASK[task].format(name=card.name))


def _model_folders(directory: Path, *, nested: bool = False) -> Iterator[tuple[Path, OSError | None]]:
    """Yield the folders in `directory` and in `directory`/networks that contain a card or a model.

    The folders are ordered by name. Each folder is yielded with None, or with the error if it cannot be read.
    Folders whose names begin with a dot are skipped, because they are still being written.
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
    """Return name, modification time, size and inode of each file of a folder."""
    files = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = entry.stat()
                except OSError:
                    status = entry.stat(follow_symlinks=False)  # a broken link
                files.append((entry.name, status.st_mtime_ns, status.st_size, status.st_ino))
    except OSError as error:
        return ((type(error).__name__, 0, 0, 0),)
    return tuple(sorted(files))
