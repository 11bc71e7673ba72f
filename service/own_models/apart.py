"""Add a model as `add` does, but read the file in a child process, so a crash does not end this process.

The bounds on time and memory include the processes in which the child runs the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import structlog

from models.onnx_tools.inspect import import_onnx
from models.zoo.card import Card
from service.errors import Busy, RefusedModel, StorageUnavailable, WeighinError
from service.inference.runtime_errors import one_line
from service.own_models.add import Added, Built, Options, build, model_name
from service.own_models.bounded import ChildFailed, TimeIsOver, ask, of_memory
from service.own_models.folders import check_free, move_back, move_in, workplace
from service.own_models.sources.labels import BuiltIn
from service.own_models.sources.reading import read_file
from service.own_models.trial import Bounds

_MODULE = "service.own_models.apart"
_ERRORS: Mapping[str, type[WeighinError]] = {
    kind.slug: kind for kind in (RefusedModel, StorageUnavailable, Busy)
}

log = structlog.get_logger(__name__)


def add_apart(
    file: Path,
    options: Options,
    *,
    to: Path,
    replace: bool,
    bounds: Bounds,
    lock: AbstractContextManager[object],
    accept: Callable[[Added], None],
    announce: Callable[[Path], None] = lambda _: None,
) -> Added:
    """Add the ONNX `file`, whose folder contains nothing but its external data, to the zoo folder `to`.

    `announce` is called with the complete folder before the folder is moved. `accept` is called when the
    model is in `to`; if `accept` raises an error, `to` is restored. `lock` is held during the move and both
    calls, but not while the file is read. `options.images` must be None. Raises
    RefusedModel, ModelExists, Busy, StorageUnavailable, and the errors of `accept`.
    """
    name = model_name(file, options.name)
    check_free(to, name, replace=replace)
    with workplace(to, name) as folder:
        built = _build_apart(file, options, folder, bounds)
        added = Added(to / name, built.card, built.changes, built.warnings)
        with lock:
            announce(folder)
            move_in(folder, to, replace=replace)
            try:
                accept(added)
            except BaseException:
                move_back(folder, added.folder)
                raise
    return added


def _build_apart(file: Path, options: Options, folder: Path, bounds: Bounds) -> Built:
    """Let a child process write the model to `folder`, and return what the child reports.

    The child may use a quarter of the memory in `bounds`. The processes in which the child runs the file may
    use the rest.
    """
    labels = options.labels
    request = {
        "file": str(file.absolute()),
        "folder": str(folder.absolute()),
        "labels": str(labels.absolute()) if isinstance(labels, Path) else None,
        "built_in": labels.name if isinstance(labels, BuiltIn) else None,
        "label_set": options.label_set,
        "preset": options.preset,
        "facts": dict(options.facts),
        "from_form": options.from_form,
        "seconds": bounds.seconds,
        "memory_bytes": bounds.memory_bytes * 3 // 4,
    }
    size = sum(path.stat().st_size for path in file.parent.rglob("*") if path.is_file())
    memory = bounds.memory_bytes // 4 + 8 * size
    try:
        said = ask(_MODULE, request, seconds=bounds.seconds, memory_bytes=memory, has_children=True)
    except TimeIsOver:
        raise RefusedModel(
            f"{file.name}: it cannot be read and run within {bounds.seconds:g} s (allowed: a smaller file)"
        ) from None
    except ChildFailed as error:
        log.warning("reading a model failed", file=file.name, reason=str(error))
        raise RefusedModel(f"{file.name}: {error.plain}") from None
    if "error" in said:
        raise _ERRORS.get(said["error"], RefusedModel)(of_memory(said["detail"], memory))
    card = Card.model_validate_json(said["card"])
    return Built(card, tuple(said["changes"]), tuple(said["warnings"]))


before_forks = import_onnx  # every child reads its file with the onnx package


def handle(request: Mapping[str, Any]) -> dict[str, Any]:
    """Build the model of `request` in the child process, and return the answer for the parent process.

    The answer has the model's card, changes and warnings, or the error.
    """
    bounds = Bounds(request["seconds"], request["memory_bytes"])
    bounds = changed(bounds, until=time.monotonic() + bounds.seconds, own_group=False)
    file, folder = Path(request["file"]), Path(request["folder"])
    labels = None if request["labels"] is None else Path(request["labels"])
    built_in = None if request["built_in"] is None else BuiltIn(request["built_in"])
    options = Options(
        labels=labels or built_in, label_set=request["label_set"], preset=request["preset"],
        facts=request["facts"], from_form=request["from_form"],
    )  # fmt: skip
    try:
        built = build(file, read_file(file), options, folder, bounds)
    except WeighinError as error:
        kind = next((slug for slug, kind in _ERRORS.items() if isinstance(error, kind)), RefusedModel.slug)
        return {"error": kind, "detail": error.detail}
    except MemoryError:
        return {"error": RefusedModel.slug, "detail": f"{file.name}: not enough memory"}
    except OSError as error:
        words = one_line(error.strerror or type(error).__name__).lower()
        return {
            "error": StorageUnavailable.slug, "detail": f"the folder of models cannot be written: {words}"
        }  # fmt: skip
    card = built.card.model_dump_json(exclude_none=True)
    return {"card": card, "changes": built.changes, "warnings": built.warnings}
