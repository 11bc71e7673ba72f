"""Add, replace and delete models that users add, and update the registry at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Collection, Iterator
from dataclasses import replace as changed
from pathlib import Path

from service import errors
from service.api.body.model import Upload
from service.inference.loading import ModelEntry
from service.inference.registry import Registry
from service.inference.runtimes.choice import Requested
from service.own_models.add import Added, Bounds, remove
from service.own_models.apart import add_apart
from service.own_models.facts import in_form_words
from service.own_models.replicas import SharedModels

_BOUNDS = Bounds()
CATCH_UP_WITHIN_S = 10.0
"""Maximum seconds for which a request waits until models that other replicas have changed are loaded."""
MOST_AT_ONCE = 2
"""Maximum number of models that are uploaded at the same time."""

ModelsInUse = Callable[[], Awaitable[Collection[str]]]


class ModelChanger:
    """Adds, replaces and deletes models that users add, and updates the registry at once.

    A child process reads each file, with the limits `bounds` on time and memory. Model folders are replaced
    one at a time.
    """

    def __init__(
        self,
        registry: Registry,
        gallery_models: ModelsInUse,
        shared: SharedModels | None = None,
        *,
        bounds: Bounds = _BOUNDS,
    ) -> None:
        """`shared` shares the models with the replicas that use the same database.

        If `shared` is None, the models are not shared.
        """
        assert registry.added is not None
        self.root: Path = registry.added
        self._registry = registry
        self._gallery_models = gallery_models
        self._shared = SharedModels(registry, None) if shared is None else shared
        self._bounds = bounds
        self._coming = 0
        self._choosing = False
        self._turn, self._deleting = asyncio.Lock(), asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    def check_ready(self) -> None:
        """Raise NotReady until the registry has loaded the models."""
        if not self._registry.ready:
            raise errors.NotReady("models are still being loaded")

    async def catch_up(self) -> None:
        """Load the models that other replicas have changed so far.

        Changes are loaded in runs, one run at a time, so that only one thread is used. A request waits for a
        run that begins after the request arrived. All requests that arrive before this run begins share it.

        Raises NotReady and StorageUnavailable. Raises Busy if the run has not ended after CATCH_UP_WITHIN_S
        seconds.
        """
        self.check_ready()
        if self._next is None:
            self._next = asyncio.create_task(self._catch_up())
            self._next.add_done_callback(_note_error)
        try:
            await asyncio.wait_for(asyncio.shield(self._next), CATCH_UP_WITHIN_S)
        except TimeoutError:
            raise errors.Busy(
                "models: changes of other replicas are being taken up (try again in a few seconds)"
            ) from None

    async def _catch_up(self) -> None:
        async with self._turn:
            self._next = None  # changes that are committed from now on need another run
            await asyncio.to_thread(self._shared.catch_up)

    def check_own(self, name: str) -> None:
        """Raise ModelInUse if the model exists outside the folder of added models."""
        if name in self._registry.names() and self._registry.entry(name).folder.parent != self.root:
            raise errors.ModelInUse(
                f"model '{name}': in a folder of WEIGHIN_MODEL_DIRS, which is not changed over HTTP "
                "(allowed: another name, or change the folder yourself)"
            )

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Hold one of MOST_AT_ONCE places for uploads during the context. Raises Busy if all are taken."""
        if self._coming >= MOST_AT_ONCE:
            raise errors.Busy(f"models: {self._coming} are being added (allowed: {MOST_AT_ONCE} at a time)")
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def choose_runtime(self, name: str, requested: Requested | None) -> ModelEntry:
        """Choose the runtime of a model's predictions with `Registry.choose_runtime`.

        Raises the errors of `Registry.choose_runtime` and of `catch_up`. Raises Busy while another choice is
        being made: each choice compiles a model, so only one is made at a time.
        """
        if self._registry.ready:
            await self.catch_up()
        if requested is not None:
            self._registry.entry(name)  # raises UnknownModel
        self.check_ready()
        if self._choosing:
            raise errors.Busy("runtime: another choice is being made (allowed: one at a time)")
        self._choosing = True
        try:
            return await asyncio.to_thread(self._shared.choose_runtime, name, requested)
        finally:
            self._choosing = False

    async def add(self, upload: Upload, *, replace: bool) -> Added:
        """Add the model of an upload and serve it.

        `replace`: whether an added model of the same name may be replaced. If the registry refuses the new
        model, the previous model of this name is restored.

        Raises RefusedModel, ModelExists, Busy and StorageUnavailable.
        """
        try:
            added = await asyncio.to_thread(self._add, upload, replace=replace)
        except errors.RefusedModel as error:
            raise errors.RefusedModel(in_form_words(str(error))) from None
        except errors.ModelExists as error:
            raise errors.ModelExists(_put_instead(str(error))) from None
        return changed(added, warnings=tuple(map(in_form_words, added.warnings)))

    def _add(self, upload: Upload, *, replace: bool) -> Added:
        placed: list[str] = []

        def accept(added: Added) -> None:
            name = added.card.name
            placed.append(name)
            self._registry.refresh(name)
            entry = self._registry.entry(name)
            if entry.folder != added.folder:
                raise exists(name)
            if entry.model is None or entry.refused is not None:
                why = entry.refused or entry.reason
                raise errors.RefusedModel(f"model '{name}': cannot be served: {why}")
            self._shared.store(added.folder, replace=replace)

        try:
            return add_apart(
                upload.file, upload.options, to=self.root, replace=replace, bounds=self._bounds,
                lock=self._shared.changing(), accept=accept, announce=self._shared.announce,
            )  # fmt: skip
        except BaseException:
            for name in placed:
                self._registry.refresh(name)
            raise

    async def delete(self, name: str) -> None:
        """Delete the model, even if only other replicas can serve it.

        Raises NotReady, Busy, ModelInUse, UnknownModel and StorageUnavailable.
        """
        await self.catch_up()
        if name not in self._registry.names() and not await asyncio.to_thread(self._shared.has, name):
            self._registry.entry(name)  # raises UnknownModel
        self.check_own(name)
        if name == self._registry.default_model:
            raise errors.ModelInUse(
                f"model '{name}': it is WEIGHIN_DEFAULT_MODEL (allowed: PUT another file, or set "
                "another default model)"
            )
        if name in await self._gallery_models():
            raise errors.ModelInUse(
                f"model '{name}': the gallery needs it (allowed: PUT another file, or re-index the "
                "gallery with another model first: POST /gallery/reindex?model=NAME)"
            )
        async with self._deleting:
            await asyncio.to_thread(self._delete, name)

    def _delete(self, name: str) -> None:
        with self._shared.changing():
            self.check_own(name)
            for card in (entry.card for entry in self._registry.entries):
                uses = card is not None and card.classifier is not None and card.classifier.model == name
                if card is not None and uses and card.name != name:
                    raise errors.ModelInUse(
                        f"model '{name}': '{card.name}' uses its last linear layer "
                        f"(allowed: delete '{card.name}' first)"
                    )
            if not self._shared.remove(name) or os.path.lexists(self.root / name):
                remove(name, root=self.root)
            self._registry.refresh(name)
            self._registry.forget_runtime(name)


def _note_error(task: asyncio.Task[None]) -> None:
    """Retrieve the error of a task.

    Otherwise, asyncio would log the error if no request waits for the task any more.
    """
    if not task.cancelled():
        task.exception()


def exists(name: str) -> errors.ModelExists:
    """Return the error for a model name that is already taken."""
    return errors.ModelExists(f"model '{name}': exists (allowed: another name, or PUT /models/{name})")


def _put_instead(words: str) -> str:
    """Return the message `words` with another text in "(allowed: ...)": what the HTTP API offers.

    `words`: the message of a ModelExists error. It ends in "(allowed: ...)", which may name options of the
    command line.
    """
    return f"{words.partition(' (allowed:')[0]} (allowed: another name, or PUT /models/NAME)"
