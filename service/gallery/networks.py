"""Find the network of each embedder, which is the served model or the copy that the gallery keeps."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from models.zoo.card import write_card
from service.errors import ModelUnavailable, NotReady, StorageUnavailable, UnknownModel, error_words
from service.gallery.embed import dimensions_of, embedder_of, embedder_of_card, model_name
from service.gallery.records import EmbeddersChanged, GalleryState
from service.inference.loading import ServedModel, load_model
from service.inference.registry import Registry

_OPENED_WITHIN_S = 10.0
_RETRY_S = 5.0

KEPT_FOLDER = "gallery-model"
"""Folder in the data directory that has a copy of each network that the gallery needs."""

log = structlog.get_logger(__name__)


class NetworkCopies(Protocol):
    """Copies of networks in a database that replicas share. The name of a copy is its network's embedder.

    Methods raise StorageUnavailable.
    """

    def save_copy(self, name: str, folder: Path) -> None:
        """Store the files of a folder as the copy `name`, unless this copy exists already. Raises OSError."""

    def fetch_copy(self, name: str, folder: Path) -> bool:
        """Write the files of the copy `name` to an empty folder. Return False if there is no such copy.

        Raises ModelUnavailable if the copy is damaged.
        """

    def drop_copies(self, needed: Collection[str]) -> None:
        """Delete the copies whose names are not in `needed`, except copies that were stored recently."""


class Networks:
    """Finds the networks of the gallery's embedders.

    Embeddings of two networks cannot be compared. So the network that embedded the gallery stays loaded even
    if another model takes its name, and a copy of its folder is kept for the next start. If replicas share a
    database, a copy is also stored in this database, for replicas that do not have the folder. This is done
    before the first image is stored in the gallery.
    """

    def __init__(
        self, registry: Registry, default: str, folder: Path, copies: NetworkCopies | None = None
    ) -> None:
        """Opens no network.

        `default`: name of the model for a new gallery. `folder`: where this machine's copies are kept.
        `copies`: copies in the database that replicas share, or None if no database is shared.
        """
        self._registry = registry
        self._default = default
        self._folder = folder
        self._copies = copies
        self._opening = asyncio.Lock()
        self._tried: dict[str, float] = {}
        self._used: dict[str, ServedModel] = {}
        self._unsaved: set[str] = set()
        """Embedders whose copies could not be stored in the shared database when they were opened."""
        self._opened = asyncio.Event()

    def named(self, name: str) -> ServedModel:
        """Return the served model with this name, which must have embeddings.

        Raises UnknownModel, NotReady, ModelUnavailable, and InvalidParameter for a model without embeddings.
        """
        model = self._registry.get(name)
        dimensions_of(model)
        return model

    async def active(self, state: GalleryState) -> ServedModel:
        """Return the active network, or the default model if the gallery has no active network yet.

        Raises NotReady while models are being loaded, and ModelUnavailable if they are loaded and the network
        is not there. Raises StorageUnavailable if the network cannot be copied from the shared database.
        """
        return self._default_model() if state.embedder is None else await self._loaded(state.embedder)

    async def needed(self, state: GalleryState) -> tuple[ServedModel, ...]:
        """Return the networks that embed a new image. Raises the errors of `active`."""
        if not state.embedders:
            return (self._default_model(),)
        return tuple([await self._loaded(embedder) for embedder in state.embedders])

    def of(self, embedder: str) -> ServedModel:
        """Return the network of an embedder: the served model, or the gallery's copy if it is not served.

        Raises NotReady while the network is being loaded, and ModelUnavailable if it is neither served nor
        copied.
        """
        served = self._served(embedder)
        if served is not None:
            self._used[embedder] = served
            return served
        used = self._used.get(embedder)
        if used is not None:
            return used
        if not self._opened.is_set():
            raise NotReady("the gallery's model is still being loaded")
        raise ModelUnavailable(self._lost(embedder))

    def is_replaced(self, embedder: str) -> bool:
        """Return whether the embedder's model was replaced or removed.

        The result is False while models are being loaded.
        """
        try:
            return self._served(embedder) is None
        except NotReady:
            return False

    def name_of(self, state: GalleryState) -> str:
        """Return the name of the active network, be it served or not."""
        return self._default if state.embedder is None else model_name(state.embedder)

    async def open(self, state: GalleryState) -> None:
        """Open the network of each embedder in `state`: the served model or, if it is not served, its copy.

        A served model is copied unless there is a copy already. Call this once the models are loaded.
        """
        try:
            for embedder in state.embedders:
                await asyncio.to_thread(self._open, embedder)
        except StorageUnavailable as error:
            log.warning("the gallery's model cannot be copied from the database", reason=error.detail)
        finally:
            self._opened.set()

    async def save_copies(self) -> None:
        """Store in the shared database the copies that `open` could not store there. Retry until it works."""
        while self._unsaved:
            await asyncio.sleep(_RETRY_S)
            for embedder in tuple(self._unsaved):
                model = self._used.get(embedder)
                self._unsaved.discard(embedder)
                if model is not None:
                    await asyncio.to_thread(self._keep_or_note, model)

    def keep(self, model: ServedModel) -> None:
        """Copy the model's file, card and labels to this machine's folder and the shared database.

        If a copy exists already, it is not replaced. If the folder cannot be written, this is only logged.
        Raises EmbeddersChanged if another version has replaced the model meanwhile. Raises ModelUnavailable
        if the model's folder is empty, or has new content that is not served. Raises StorageUnavailable if
        replicas share a database and the copy cannot be stored there.
        """
        embedder = embedder_of(model)
        target = self._folder / embedder
        content = None
        if not target.is_dir():
            try:
                card, content = self._registry.content(model.name)
            except (UnknownModel, ModelUnavailable) as error:
                raise ModelUnavailable(
                    f"gallery: no copy of model '{model.name}' can be kept: {error.detail}; without a copy "
                    "its embeddings are lost after a restart (mend its folder and try again)"
                ) from None
            if embedder_of_card(card) != embedder:
                raise EmbeddersChanged
            try:
                _write_copy(target, model, content)
            except OSError as error:
                log.warning("the gallery's model cannot be kept", model=model.name, reason=error_words(error))
        if self._copies is not None:
            try:
                self._save_copy(self._copies, model, target, content)
            except OSError as error:
                raise StorageUnavailable(
                    f"the gallery's model cannot be copied to the database: {error_words(error)}"
                ) from None
        self._used[embedder] = model

    def _save_copy(
        self, copies: NetworkCopies, model: ServedModel, target: Path, content: bytes | None
    ) -> None:
        """Store a model's copy in `copies`, from the folder `target`, or from `content` if that is missing.

        `content`: the bytes of the model's file, or None if `target` existed already. Raises OSError.
        """
        if content is None or target.is_dir():
            copies.save_copy(embedder_of(model), target)
            return
        with tempfile.TemporaryDirectory(prefix="weighin-") as folder:
            _write_files(Path(folder), model, content)
            copies.save_copy(embedder_of(model), Path(folder))

    def _keep_or_note(self, model: ServedModel) -> None:
        """Call `keep` and log its errors. If another attempt may succeed, remember the embedder for it."""
        try:
            self.keep(model)
        except EmbeddersChanged:
            pass
        except (ModelUnavailable, StorageUnavailable) as error:
            log.warning("the gallery's model cannot be kept", model=model.name, reason=error.detail)
            if isinstance(error, StorageUnavailable):
                self._unsaved.add(embedder_of(model))

    def release(self, needed: Collection[str]) -> None:
        """Forget the networks that this process used and that are not in `needed`. Delete their copies."""
        for embedder in self._used.keys() - set(needed):
            self._used.pop(embedder, None)
            shutil.rmtree(self._folder / embedder, ignore_errors=True)
        if self._copies is not None:
            self._copies.drop_copies(needed)

    def _served(self, embedder: str) -> ServedModel | None:
        """Return the embedder's network if it is served, or None if it is not.

        Raises NotReady while the network is being loaded.
        """
        try:
            model = self._registry.get(model_name(embedder))
        except (UnknownModel, ModelUnavailable):
            return None
        return model if embedder_of(model) == embedder else None

    async def _loaded(self, embedder: str) -> ServedModel:
        try:
            return self.of(embedder)
        except NotReady:
            if not self._registry.ready:
                raise
            # The models are loaded, so the gallery's copy will be loaded in a moment.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._opened.wait(), _OPENED_WITHIN_S)
        except ModelUnavailable:
            if self._copies is None:
                raise
            # Another replica activated the network, and this replica does not serve it.
            async with self._opening:
                if embedder not in self._used and time.monotonic() >= self._tried.get(embedder, 0.0):
                    await asyncio.to_thread(self._open, embedder)
                    self._tried[embedder] = time.monotonic() + _RETRY_S
        return self.of(embedder)

    def _open(self, embedder: str) -> None:
        with contextlib.suppress(NotReady):
            served = self._served(embedder)
            if served is not None:
                self._used[embedder] = served
                self._keep_or_note(served)
                return
        try:
            self._fetch(embedder)
            model = load_model(self._folder / embedder)
        except ModelUnavailable as error:
            log.warning("the gallery's own copy of its model cannot be used", reason=str(error))
            return
        if embedder_of(model) == embedder:
            self._used[embedder] = model
            log.info("the gallery's model was replaced: its own copy is used", model=model.name)
            self._keep_or_note(model)

    def _fetch(self, embedder: str) -> None:
        """Copy a network from the shared database to this machine, unless a copy is here already.

        Nothing is done if the database does not have the network. Raises ModelUnavailable and
        StorageUnavailable.
        """
        target = self._folder / embedder
        if self._copies is None or target.is_dir():
            return
        try:
            if _write_folder(target, partial(self._copies.fetch_copy, embedder)):
                log.info("the gallery's model was copied from the database", embedder=embedder)
        except OSError as error:
            raise StorageUnavailable(
                f"the gallery's model cannot be copied from the database: {error_words(error)}"
            ) from None

    def _lost(self, embedder: str) -> str:
        name = model_name(embedder)
        if name in self._registry.names():
            why, other = f"another file of model '{name}', or with other preprocessing, than is served", name
        else:
            why, other = f"model '{name}', which is not served here", "NAME"
        return (
            f"the gallery was embedded by {why}, and its copy of that file is gone: serve it again, or "
            f"re-index: weighin gallery reindex --model {other}"
        )

    def _default_model(self) -> ServedModel:
        try:
            return self.named(self._default)
        except UnknownModel as error:
            raise ModelUnavailable(f"gallery: no model: {error.detail}") from None


def _write_copy(target: Path, model: ServedModel, content: bytes) -> None:
    """Write a folder with the model's file, card and labels atomically. Raises OSError."""

    def write(folder: Path) -> bool:
        _write_files(folder, model, content)
        return True

    _write_folder(target, write)


def _write_files(folder: Path, model: ServedModel, content: bytes) -> None:
    (folder / model.card.file.name).write_bytes(content)
    write_card(folder, model.card)
    labels = "".join(f"{label}\n" for label in model.labels)
    (folder / "labels.txt").write_text(labels, encoding="utf-8")


def _write_folder(target: Path, write: Callable[[Path], bool]) -> bool:
    """Let `write` fill a temporary folder, and move the folder to `target` atomically.

    If `write` returns False, the temporary folder is removed instead, and the result is False. Raises
    OSError.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=".", dir=target.parent))
    try:
        if not write(aside):
            return False
        for path in (*aside.iterdir(), aside):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        try:
            aside.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process was faster
                raise
        return True
    finally:
        shutil.rmtree(aside, ignore_errors=True)
