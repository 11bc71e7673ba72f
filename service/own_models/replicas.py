"""Share added models among the replicas on one database.

The models that were added at this replica are stored in the database. All other models in the database are
copied to this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
from filelock import FileLock, Timeout

from models.zoo.files import holds_network, read_regular, write_whole
from service.errors import (
    DatabaseUnreachable,
    InvalidParameter,
    ModelUnavailable,
    NotReady,
    StorageUnavailable,
    WeighinError,
    error_words,
)
from service.inference.loading import ModelEntry
from service.inference.registry import Registry
from service.inference.runtimes.choice import Requested
from service.own_models.add import check_name
from service.own_models.folders import MARKER, move_in, remove, workplace
from service.own_models.store import ModelStore, Stored, digest_of_folder
from service.own_models.trial import Bounds, TrialFailed, serve_once

LOOK_EVERY_S = 1.0
"""Seconds between two queries for changes of other replicas."""

START_WITHIN_S = 45.0
"""Maximum seconds for which a starting replica waits for a database that cannot be reached.

A container is reported as unhealthy after 60 s."""

_RETRY_S, _RETRY_AT_MOST_S = 2.0, 60.0
_TRY_AGAIN_S = 600.0
"""Seconds after which a model that could not be served here is tried again.

Memory or time may have been short at the first try."""
_BOUNDS = Bounds()
_COPYING = ".-copying-"
"""Prefix of the folders into which models are copied from the database. No model's name has this prefix."""
_LOCK_WAIT_S = 60.0
_CLOSE_WITHIN_S = 10.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Marker:
    """Content of the marker file in a model's folder.

    `digest`: the digest of the folder's other files. `committed`: whether the database has stored these
    files.
    """

    digest: str
    committed: bool


@dataclass(frozen=True)
class _Unfit:
    """A version of a model that could not be served here, with the reason.

    It is not tried again before `until` (by `time.monotonic`).
    """

    digest: str
    reason: str
    until: float


class SharedModels:
    """Keeps the folder of added models equal to the models in the database.

    Every folder that was copied from the database, or is stored in it, contains a marker file. Folders
    without a marker are this machine's own: they are neither stored nor changed. Call `start` once and
    `close` at the end. If there is no store, nothing is shared.
    """

    def __init__(self, registry: Registry, store: ModelStore | None, *, bounds: Bounds = _BOUNDS) -> None:
        """Does not connect to the database.

        `store`: the models in the database, or None if no database is shared. `bounds`: bounds of the child
        process that first tries each model of another replica.
        """
        assert registry.added is not None
        self._bounds = bounds
        self._root: Path = registry.added
        self._registry = registry
        self._store = store
        self._lock = threading.Lock()
        self._following = threading.Lock()
        self._seen = 0
        """Number of a change: it and all changes before it were also made here, or are noted in `_open`."""
        self._broke_off = True
        """Whether the last attempt to copy changes was interrupted."""
        self._open: dict[tuple[str, str], str] = {}
        """Models and runtimes that differ here from the database, by kind and name, each with the reason.

        The reason is empty if it does not belong in `problem`."""
        self._declined: dict[str, int] = {}
        self._unfit: dict[str, _Unfit] = {}
        self._retry_at, self._retry_s = 0.0, _RETRY_S
        self._problem: str | None = None
        self._refusals: dict[str, str] = {}
        self._logged: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weighin-replicas", daemon=True)

    @property
    def problem(self) -> str | None:
        """Why this replica cannot copy models at the moment, in words for clients. It is None if it can."""
        return self._problem

    @property
    def refusals(self) -> dict[str, str]:
        """The models in the database that are not served here, by name, each with the reason."""
        return dict(self._refusals)

    def start(self) -> None:
        """Start the thread that looks for changes of other replicas."""
        if self._store is not None:
            self._thread.start()

    def stop(self) -> None:
        """Tell the thread to stop looking for changes, and return without waiting for it.

        The thread first finishes a model that it is copying.
        """
        self._stop.set()

    def close(self) -> None:
        """Stop looking for changes. If a model is being copied, wait for it, but at most ten seconds."""
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self.look()

    def correct(self) -> None:
        """Remove or replace the folders of models that other replicas deleted or replaced.

        Call this before models are loaded: a model may have been deleted because it crashes the process that
        loads it. Errors are logged and not raised, and `look` tries again.
        """
        names = self._marked()
        if self._store is None or not names:
            return
        try:
            with self._following:
                stored = {row.name: row for row in self._store.all() if row.kind == "model"}
                for name in sorted(names):
                    self._correct(name, stored.get(name))
        except WeighinError as error:
            log.warning("models of other replicas are not looked up before loading", reason=error.detail)
        except Exception:
            log.exception("models of other replicas cannot be taken up")

    def _correct(self, name: str, row: Stored | None) -> None:
        try:
            if _differs(_marker(self._root / name), row) and self._settle(name):
                self._registry.refresh(name)
        except DatabaseUnreachable:
            raise
        except WeighinError as error:
            log.warning("model of another replica not taken up", model=name, reason=error.detail)

    def look_at_start(self) -> None:
        """Call `look` until the database is reached, to copy the models that other replicas have added.

        If START_WITHIN_S seconds pass before that, return without these models; `problem` then has the
        reason. Never raises.
        """
        until = time.monotonic() + START_WITHIN_S
        while not self.look() and time.monotonic() < until:
            if self._stop.wait(LOOK_EVERY_S):
                return

    def look(self) -> bool:
        """Copy the models that other replicas have changed. Return False if the database is unreachable.

        Changes that could not be copied before are tried again, at growing intervals. Never raises. After an
        error, `problem` has the reason.
        """
        problem, is_reached = None, True
        try:
            self.catch_up(again=time.monotonic() >= self._retry_at)
            problem = next((reason for reason in self._open.values() if reason), None)
        except NotReady:
            return True
        except StorageUnavailable as error:
            problem, is_reached = error.detail, not isinstance(error, DatabaseUnreachable)
        except Exception:
            problem = "models of other replicas: unexpected error (see the log)"
            if problem != self._problem:
                log.exception("models of other replicas cannot be taken up")
        if problem is not None and problem != self._problem:
            log.warning("models of other replicas cannot be taken up", reason=problem)
        self._problem = problem
        return is_reached

    def catch_up(self, *, again: bool = False) -> None:
        """Copy the models and the chosen runtimes that other replicas have changed.

        If nothing has changed, this takes one small query. `again`: whether to try again the changes that
        could not be copied before. Raises StorageUnavailable if the database cannot be used, and NotReady
        after `stop`. Other errors are not raised: `problem` and `refusals` report them.
        """
        if self._store is None:
            return
        with self._following:
            latest = self._store.latest()
            is_new = latest != self._seen or self._broke_off
            if not is_new and not (again and self._open):
                return
            stored = self._store.all()
            self._open, self._broke_off = {}, True
            self._take_up_models({row.name: row for row in stored if row.kind == "model"})
            for row in stored:
                if row.kind == "runtime":
                    self._take_up_runtime(row)
            self._seen, self._broke_off = latest, False
            self._retry_s = _RETRY_S if is_new else min(2 * self._retry_s, _RETRY_AT_MOST_S)
            self._retry_at = time.monotonic() + self._retry_s

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Lock the folder of added models, so that neither this service nor another one changes it meanwhile.

        Raises StorageUnavailable.
        """
        with self._lock:
            if self._store is None:
                yield
                return
            lock = FileLock(self._root.with_suffix(".lock"))
            try:
                self._root.parent.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=_LOCK_WAIT_S)
            except Timeout:
                raise StorageUnavailable("the folder of models: another process is changing it") from None
            except OSError as error:
                raise StorageUnavailable(
                    f"the folder of models cannot be written: {error_words(error)}"
                ) from None
            except NotImplementedError:
                raise StorageUnavailable("the folder of models: file locks are not supported") from None
            try:
                yield
            finally:
                lock.release()

    def announce(self, folder: Path) -> None:
        """Mark a complete folder as not yet stored in the database. Call this before `store`.

        Call it before the folder is moved into the folder of added models. If this process ends before it
        calls `store`, the marked folder is removed or replaced at the next start. The folder is not marked if
        it replaces a model that is only on this machine: if the new folder were then removed, both models
        would be lost. Raises OSError.
        """
        target = self._root / folder.name
        if self._store is not None and (not os.path.lexists(target) or _marker(target) is not None):
            _mark(folder, digest_of_folder(folder), committed=False)

    def store(self, folder: Path, *, replace: bool) -> None:
        """Store a model in the database. `folder`: the model's folder, after it was moved into its place.

        Raises ModelExists and StorageUnavailable.
        """
        if self._store is None:
            return
        try:
            digest = self._store.put(folder.name, folder, replace=replace)
        except OSError as error:
            raise StorageUnavailable(f"the folder of models cannot be read: {error_words(error)}") from None
        with contextlib.suppress(OSError):  # the next look marks it: the digest is the same
            _mark(folder, digest, committed=True)

    def has(self, name: str) -> bool:
        """Return whether the database has a model, be it served here or not. Raises StorageUnavailable."""
        row = None if self._store is None else self._store.find("model", name)
        return row is not None and row.digest is not None

    def remove(self, name: str) -> bool:
        """Delete a model in the database. Return False if the database does not have it.

        Raises StorageUnavailable.
        """
        return self._store is not None and self._store.remove(name)

    def choose_runtime(self, name: str, requested: Requested | None) -> ModelEntry:
        """Choose a model's runtime on all replicas. None withdraws the choice.

        Raises StorageUnavailable, and the errors of `Registry.choose_runtime`.
        """
        with self._lock:
            before = self._registry.requested(name)
            entry = self._registry.choose_runtime(name, requested)
            if self._store is not None:
                try:
                    self._store.choose_runtime(
                        name, None if requested is None else requested.model_dump_json()
                    )
                except StorageUnavailable:
                    with contextlib.suppress(WeighinError):
                        self._registry.choose_runtime(name, before)
                    raise
            return entry

    def _take_up_models(self, stored: dict[str, Stored]) -> None:
        self._sweep()
        refusals: dict[str, str] = {}
        for name in sorted(stored.keys() | self._marked()):
            if self._stop.is_set():
                raise NotReady("the service is stopping")
            try:
                check_name(name)
                row = stored.get(name)
                is_changed = _differs(_marker(self._root / name), row) and self._settle(name)
                # Another service that uses the same folder may have changed it already.
                if is_changed or (row is not None and row.sequence > self._seen):
                    self._registry.refresh(name)
                if row is not None and row.digest is not None and self._is_hidden(name):
                    refusals[name] = _HIDDEN
            except DatabaseUnreachable:
                raise
            except StorageUnavailable as error:
                self._open["model", name] = f"model '{name}' of another replica: {error.detail}"
            except WeighinError as error:
                refusals[name] = error.detail
        for name, reason in refusals.items():
            self._open.setdefault(("model", name), "")
            if reason != self._refusals.get(name):
                log.warning("model of another replica not served", model=name, reason=reason)
        for name in self._refusals.keys() | refusals.keys():
            self._registry.refuse(name, refusals.get(name), before=self._refusals.get(name))
        self._refusals = refusals

    def _sweep(self) -> None:
        """Remove the folders of processes that were killed while they copied a model from the database.

        Raises StorageUnavailable.
        """
        assert self._store is not None
        if any(self._root.glob(f"{_COPYING}*")):
            with self.changing():  # so that no process copies meanwhile
                for folder in self._root.glob(f"{_COPYING}*"):
                    shutil.rmtree(folder, ignore_errors=True)

    def _marked(self) -> set[str]:
        """Return the names of the models whose folders have a marker."""
        try:
            folders = [path for path in self._root.iterdir() if not path.name.startswith(".")]
        except OSError:
            return set()
        return {path.name for path in folders if _marker(path) is not None}

    def _is_hidden(self, name: str) -> bool:
        """Return whether the model in the database is hidden by a folder of this machine's own.

        Such a folder has the model's name and takes precedence over the model in the database.
        """
        served = self._registry.names()
        if name in served and self._registry.entry(name).folder != self._root / name:
            return True
        return _marker(self._root / name) is None and os.path.lexists(self._root / name)

    def _settle(self, name: str) -> bool:
        """Make a model's folder equal to what the database has. Return whether the folder was changed.

        Raises StorageUnavailable, and ModelUnavailable if the stored model is damaged or cannot be served
        here.
        """
        assert self._store is not None
        target = self._root / name
        with self.changing():
            row = self._store.find("model", name)  # while no change of this process is under way
            marker = _marker(target)
            if not _differs(marker, row):
                return False
            if marker is None and os.path.lexists(target):
                if row is not None and _has_digest(target, row.digest):
                    self._mark_committed(target, str(row.digest))
                return False
            if row is None or row.digest is None:
                remove(name, root=self._root)
                log.info("model of another replica removed", model=name)
                return True
            if marker is not None and marker.digest == row.digest:
                self._mark_committed(target, row.digest)
                return True
            unfit = self._unfit.get(name)
            if unfit is not None and unfit.digest == row.digest and time.monotonic() < unfit.until:
                raise ModelUnavailable(unfit.reason)
            with workplace(self._root, name, prefix=_COPYING) as folder:
                digest = self._store.fetch("model", name, folder)
                if digest is None:
                    return False
                self._try(folder, digest)
                _mark(folder, digest, committed=True)
                move_in(folder, self._root, replace=marker is not None)
            log.info("model of another replica taken up", model=name, sequence=row.sequence)
            return True

    def _try(self, folder: Path, digest: str) -> None:
        """Try to serve the model in `folder` in a child process. Raises ModelUnavailable if that fails.

        A child process is used because the model may crash the process or fill the memory.
        """
        self._unfit.pop(folder.name, None)
        try:
            serve_once(folder, self._bounds)
        except TrialFailed as error:
            why = str(error).partition(" (--time-limit")[0]
            reason = f"model '{folder.name}' of another replica cannot be served here: {why}"
            self._unfit[folder.name] = _Unfit(digest, reason, time.monotonic() + _TRY_AGAIN_S)
            raise ModelUnavailable(reason) from None

    def _mark_committed(self, folder: Path, digest: str) -> None:
        try:
            _mark(folder, digest, committed=True)
        except OSError as error:
            raise StorageUnavailable(
                f"the folder of models cannot be written: {error_words(error)}"
            ) from None

    def _take_up_runtime(self, row: Stored) -> None:
        assert self._store is not None
        requested = _requested(row.detail)
        if self._registry.requested(row.name) == requested or self._declined.get(row.name) == row.sequence:
            return
        with self._lock:
            current = self._store.find("runtime", row.name)  # while no change of this process is under way
            if current is None or self._registry.requested(row.name) == _requested(current.detail):
                return
            try:
                self._registry.choose_runtime(row.name, _requested(current.detail))
            except InvalidParameter as error:  # e.g. because OpenVINO is not installed
                self._declined[row.name] = current.sequence
                log.warning("runtime chosen at another replica not used", model=row.name, reason=error.detail)
            except DatabaseUnreachable:
                raise
            except StorageUnavailable as error:
                self._open["runtime", row.name] = f"runtime of model '{row.name}': {error.detail}"
            except WeighinError:  # the model is not there, or cannot be run
                self._open["runtime", row.name] = ""


_HIDDEN = (
    "the database has a model of this name that was added at a replica, but this machine's own folder comes "
    "first (allowed: remove or rename that folder)"
)


def _differs(marker: _Marker | None, row: Stored | None) -> bool:
    """Return whether a model's folder may differ from what the database has.

    `marker`: the folder's marker, or None. `row`: the model's row in the database, or None if the database
    has never had the model. In the latter case, a folder that is marked as committed does not count as
    different: it was committed to another database, and is kept.
    """
    digest = None if row is None else row.digest
    if marker is None:
        return digest is not None
    if row is None:
        return not marker.committed
    return marker != _Marker(digest or "", committed=True)


def _has_digest(folder: Path, digest: str | None) -> bool:
    try:
        return holds_network(folder) and digest_of_folder(folder) == digest
    except OSError:
        return False


def _marker(folder: Path) -> _Marker | None:
    """Return the marker of a folder, or None if the folder has no marker or an unreadable one."""
    try:
        content = json.loads(read_regular(folder / MARKER))
        return _Marker(str(content["digest"]), bool(content["committed"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mark(folder: Path, digest: str, *, committed: bool) -> None:
    content = {"digest": digest, "committed": committed}
    write_whole(folder / MARKER, json.dumps(content).encode() + b"\n")


def _requested(detail: str | None) -> Requested | None:
    return None if detail is None else Requested.model_validate_json(detail)
