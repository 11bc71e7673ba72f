"""Read the form that uploads a model: write its parts to a temporary folder as they arrive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, get_type_hints

from fastapi import Request
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from models.zoo.card import Card, InputSpec, Outputs, Source
from service.api.body.parts import Part, stream_parts
from service.api.body.request import app_part, is_form
from service.errors import InvalidParameter, MalformedRequest
from service.own_models.add import Options
from service.own_models.facts import OPTIONS
from service.own_models.sources.labels import BuiltIn, built_in_sets
from service.storage.errors import storage_errors

MODEL, DATA, LABELS, CARD = "model", "data", "labels", "card"
_PARTS = (MODEL, DATA, LABELS, CARD)

_LIMITS = {LABELS: 4_000_000, CARD: 1_000_000}
"""Maximum bytes of each part that is kept in memory."""

_PLAIN_NAMES = frozenset({"model", "onnx"})
"""File names (without suffix) that say too little to be used as the name of a model."""

_FOLDER = ".upload-"
_STALE_S = 86_400.0
_MOST_FOLDERS = 8
"""Maximum number of names in the path of the external data file, including the file name."""
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")

OPENAPI_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "A form with these parts. `model`: the ONNX file. `data`: its external data file, if "
        "it has one, with the file name that the ONNX file gives, e.g. `weights/net.data`. `labels`: a file "
        "with the class names, or the name of a built-in label set. `card`: a JSON object with facts as in "
        '`card.json`, such as `{"input": {"layout": "nhwc"}}`.',
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [MODEL],
                    "properties": {
                        MODEL: {"type": "string", "format": "binary"},
                        DATA: {"type": "string", "format": "binary"},
                        LABELS: {"type": "string", "format": "binary"},
                        CARD: {"type": "string"},
                    },
                }
            }
        },
    }
}
"""OpenAPI description of the body. FastAPI cannot derive it, because the form is read as it arrives."""


@dataclass(frozen=True)
class UploadLimits:
    """Limits of an upload.

    `max_bytes`: maximum bytes of the body. `wait_s`: maximum seconds between two chunks of the body.
    """

    max_bytes: int
    wait_s: float


@dataclass(frozen=True)
class Upload:
    """An uploaded model: its ONNX file on disk, and the facts and options that were sent with it."""

    file: Path
    options: Options


@contextlib.asynccontextmanager
async def uploaded_model(
    request: Request, root: Path, *, name: str | None, preset: str | None
) -> AsyncIterator[Upload]:
    """Read the form into a new folder in `root`, and yield the uploaded model.

    The folder is removed when the context ends.

    Raises MalformedRequest, InvalidParameter, BodyTooLarge, DeadlineExceeded, ClientGone, and
    StorageUnavailable if the folder cannot be written.
    """
    if not is_form(request):
        raise MalformedRequest(f"send a form (multipart/form-data) with a file part named '{MODEL}'")
    with storage_errors():
        folder = await asyncio.to_thread(_new_folder, root)
    try:
        yield await _read(request, folder, name=name, preset=preset)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def _new_folder(root: Path) -> Path:
    """Make a folder in `root` for the upload.

    Folders of earlier uploads that are older than a day are removed.
    """
    root.mkdir(parents=True, exist_ok=True)
    for other in root.glob(f"{_FOLDER}*"):
        with contextlib.suppress(OSError):
            if time.time() - other.stat().st_mtime > _STALE_S:
                shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_FOLDER, dir=root))
    for part in (MODEL, LABELS):
        (folder / part).mkdir()
    return folder


async def _read(request: Request, folder: Path, *, name: str | None, preset: str | None) -> Upload:
    files: dict[str, Path] = {}
    parts: dict[str, Part] = {}
    with contextlib.ExitStack() as opened:

        def open_file(part: str, given: str) -> BinaryIO | None:
            if part not in (MODEL, DATA):
                return None
            if part in files:
                raise InvalidParameter(f"form field '{part}': given twice")
            path = folder / MODEL / _file_name(part, given)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = opened.enter_context(path.open("xb"))
            except (FileExistsError, NotADirectoryError):
                raise InvalidParameter(
                    f"form fields '{MODEL}' and '{DATA}': both called {path.name!r}"
                ) from None
            files[part] = path
            return file

        opened.enter_context(storage_errors())
        limits = app_part(request, UploadLimits)
        reading = stream_parts(
            request, _LIMITS, wait_s=limits.wait_s, max_bytes=limits.max_bytes, open_file=open_file
        )
        async for part in reading:
            _check_part(part, parts)
            parts[part.name] = part
    if MODEL not in files:
        names = ", ".join(f"'{each}'" for each in parts) or "none"
        raise MalformedRequest(f"the form needs a file part named '{MODEL}'; its parts are: {names}")
    facts = _facts(parts.get(CARD))
    labels = await asyncio.to_thread(_labels, parts.get(LABELS), folder)
    label_set = facts.pop("labels", None)
    if label_set is not None and not isinstance(label_set, str):
        raise InvalidParameter(f"form field '{CARD}': labels is no text")
    if labels is not None and label_set is not None:
        label_set = _checked("labels", label_set)
    elif label_set is not None:
        labels, label_set = _built_in(label_set, CARD), None
    if name is None and files[MODEL].stem.lower() in _PLAIN_NAMES:
        raise InvalidParameter(
            f"name: left out, and the file is called {files[MODEL].name!r} (allowed: ?name=NAME, or a file "
            "named after the model)"
        )
    options = Options(
        name=name, labels=labels, label_set=label_set, preset=preset, facts=facts, from_form=True
    )
    return Upload(files[MODEL], options)


def _check_part(part: Part, parts: Mapping[str, Part]) -> None:
    if part.name not in _PARTS:
        raise InvalidParameter(f"unknown form field {part.name[:50]!r} (allowed: {', '.join(_PARTS)})")
    if part.name in parts:
        raise InvalidParameter(f"form field '{part.name}': given twice")
    if part.name in (MODEL, DATA) and not part.file:
        raise InvalidParameter(f"form field '{part.name}': no file (allowed: a part with a file name)")
    if part.name in _LIMITS and part.data is None:
        raise InvalidParameter(f"form field '{part.name}': {part.size} bytes (limit: {_LIMITS[part.name]})")


def _file_name(part: str, given: str) -> str:
    """Return the name under which the file of a part is stored.

    `part`: name of the part, which is `model` or `data`. `given`: the file name that the client sent. It may
    be a path. If `part` is `data` and the path is relative, the file is stored under the whole path, because
    the ONNX file may refer to it by this path. Otherwise, only the last name in the path is used.

    A name is invalid if it does not match `_FILE_NAME`, and a path also if it has more than `_MOST_FOLDERS`
    names. In place of an invalid name of `model`, `model.onnx` is returned. For `data`, InvalidParameter is
    raised.
    """
    path = given.replace("\\", "/")
    whole = part == MODEL or path.startswith("/") or path[1:2] == ":"
    names = path.split("/")[-1:] if whole else path.split("/")
    if len(names) <= _MOST_FOLDERS and all(_FILE_NAME.fullmatch(name) for name in names):
        return "/".join(names)
    if part == MODEL:
        return "model.onnx"
    raise InvalidParameter(
        f"form field '{part}': file name {'/'.join(names)[:50]!r} (allowed: letters, digits, '.', '-' and "
        f"'_', in at most {_MOST_FOLDERS - 1} folders)"
    )


def _labels(part: Part | None, folder: Path) -> Path | BuiltIn | None:
    """Return the labels that the form's part `labels` gives, or None if it is missing or empty.

    If the part is a file, its content is written to a file in `folder`, and the path of this file is
    returned. Otherwise, the part's text is the name of a built-in label set, which is returned.
    """
    if part is None or not part.data or not part.data.strip():
        return None
    if not part.file:
        try:
            return _built_in(part.data.decode().strip(), LABELS)
        except UnicodeDecodeError:
            raise InvalidParameter(f"form field '{LABELS}': not UTF-8") from None
    # In its own folder: beside the model, the file would count as found there, not as sent.
    path = folder / LABELS / ("labels.json" if part.data.lstrip()[:1] in (b"{", b"[") else "labels.txt")
    with storage_errors():
        path.write_bytes(part.data)
    return path


def _built_in(name: str, part: str) -> BuiltIn:
    """Return the built-in label set `name`. Raises InvalidParameter if there is none of this name.

    `part`: name of the form's part that named the label set, for the error message.
    """
    known = built_in_sets()
    if name not in known:
        raise InvalidParameter(
            f"form field '{part}': no label set of that name (allowed: {', '.join(known)}; or a file "
            f"with the labels as part '{LABELS}')"
        )
    return BuiltIn(name)


_CONFIG = ConfigDict(allow_inf_nan=False)


def _fields(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the type of each field of `kind`, with its bounds, by the field's name.

    `kind`: the class of the card, or the class of one of its parts.
    """
    return {name: Annotated[field.annotation, field] for name, field in kind.model_fields.items()}


_FIELDS: dict[str, dict[str, Any]] = {
    "": _fields(Card),
    "input": _fields(InputSpec),
    "outputs": get_type_hints(Outputs, include_extras=False),
    "source": _fields(Source),
}
"""Types of the card's fields with their bounds, by group and name.

The group with the empty name has the fields at the top of the card.
"""


def _checked(path: str, value: object) -> Any:
    """Return `value` in the type of the card's field `path`. Raises InvalidParameter if it is invalid."""
    group, _, name = path.rpartition(".")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(_FIELDS[group][name], config=_CONFIG)
        return adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([path, *map(str, first["loc"])])
        raise InvalidParameter(f"form field '{CARD}': {place[:100]}: {first['msg'][:200].lower()}") from None


def _facts(part: Part | None) -> dict[str, object]:
    """Return the facts that the form's part `card` states, by their paths in the card.

    Facts that follow from the file, such as its checksum, are left out.
    """
    if part is None or not part.data or not part.data.strip():
        return {}
    try:
        card = json.loads(part.data)
    except ValueError as error:
        raise InvalidParameter(f"form field '{CARD}': not JSON: {str(error)[:100]}") from None
    except RecursionError:
        raise InvalidParameter(f"form field '{CARD}': nested too deep") from None
    if not isinstance(card, dict):
        raise InvalidParameter(f"form field '{CARD}': no JSON object")
    facts: dict[str, object] = {}
    for group, names in _FIELDS.items():
        values = card if not group else card.get(group, {})
        if not isinstance(values, dict):
            raise InvalidParameter(f"form field '{CARD}': {group} is no object")
        for name, value in values.items():
            path = f"{group}.{name}" if group else name
            if name not in names:
                raise InvalidParameter(
                    f"form field '{CARD}': unknown {path[:100]!r} (allowed: {', '.join(sorted(names))})"
                )
            if path in OPTIONS and path != "outputs.logits" and value is not None:
                facts[path] = value if path == "labels" else _checked(path, value)
    graph_names = card.get("outputs", {}).get("names")
    if graph_names is not None:
        graph_names = _checked("outputs.names", graph_names)
        if "logits" in graph_names:
            facts["output"] = graph_names["logits"]
    return facts
