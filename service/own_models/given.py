"""An ONNX file that a user gives, and the facts that are collected while it is made into a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from models.onnx_tools.describe import GraphFacts
from models.onnx_tools.inspect import UnreadableModel
from models.onnx_tools.prepare import data_files
from models.zoo.card import DataFile, File, GivenFile
from models.zoo.files import write_whole
from service.errors import RefusedModel, error_words
from service.inference.runtime_errors import one_line
from service.own_models.facts import Facts, words
from service.own_models.sources.beside import Beside
from service.own_models.trial import Bounds, Feed, Ran, run_once

_DIFFERENT = {"fp32": 1e-3, "fp16": 3e-2, "int8": 3e-2}
"""Largest allowed difference of an output between the served file and the file that the user gave.

The unit is the output's standard deviation. Outputs may differ if the served file has further outputs,
because the runtime then fuses other operators."""


@dataclass
class Given:
    """An ONNX file that a user gives, and the facts collected so far.

    `content`: the file with its external tensors. `folder`: the model's new folder, which has the model's
    name. `beside`: facts from metadata and from files beside the file. `notes`: lines about uncertain facts.
    `facts` and `notes` grow while the model is made.
    """

    file: Path
    content: bytes
    folder: Path
    bounds: Bounds
    graph: GraphFacts
    beside: Beside
    facts: Facts
    notes: list[str] = field(default_factory=list)

    @property
    def served(self) -> Path:
        """Path of the ONNX file to serve."""
        return self.folder / "model.onnx"

    def run(self, content: bytes) -> Mapping[str, Ran]:
        """Write `content` as the file to serve, run it on noise, and return its outputs by name.

        Raises TrialFailed.
        """
        write_whole(self.served, content)
        (outputs,) = run_once(
            self.served, [feed(self.facts, self.facts.value("input.batch") or 1)], self.bounds
        )
        return {output.name: output for output in outputs}

    def check_alike(self, one: Ran, ran: Mapping[str, Ran]) -> None:
        """Raise RefusedModel if an output of the file that the user gave differs in the file to serve.

        `one`: this output when the user's file was run. `ran`: the outputs of the file to serve, by name, on
        the same noise.
        """
        if one.name not in ran or not _alike(one, ran[one.name], _DIFFERENT[self.graph.precision]):
            raise RefusedModel(
                f"{self.file.name}: the file prepared to be served gives other scores on the same noise; "
                "this is a fault of weighin: report it with the file"
            )

    def data_files(self) -> Mapping[str, Path]:
        """Return the files with the ONNX file's external tensors, by the names that the ONNX file gives them.

        Raises RefusedModel if the ONNX file cannot be read any more.
        """
        try:
            return data_files(self.file)
        except OSError as error:
            raise RefusedModel(f"{self.file.name}: cannot be read any more, {error_words(error)}") from None
        except UnreadableModel as error:
            raise RefusedModel(f"{self.file.name}: {one_line(str(error))}") from None

    def described(self, served: bytes, data: Mapping[str, Path]) -> GivenFile | None:
        """Return name, size and checksum of the file that the user gave, and of its external files `data`.

        Return None if the file is served unchanged, i.e. if its bytes are `served`. Raises RefusedModel if a
        file cannot be read any more.
        """
        try:
            original = self.file.read_bytes()
        except OSError as error:
            raise RefusedModel(f"{self.file.name}: cannot be read any more, {error_words(error)}") from None
        if original == served:
            return None
        own = file_of(_plain(self.file.name)[:200], original)
        return GivenFile(**own.model_dump(), data=tuple(_data_file(*one) for one in data.items()))


def feed(facts: Facts, batch: int) -> Feed:
    """Return the name, dtype and shape of the noise input that the facts demand, for `batch` images."""
    channels, height, width = (facts.value(f"input.{side}") for side in ("channels", "height", "width"))
    image = (height, width, channels) if facts.value("input.layout") == "nhwc" else (channels, height, width)
    return Feed(facts.value("input.name"), facts.value("input.dtype"), (batch, *image))


def file_of(name: str, content: bytes) -> File:
    """Return name, size and checksum of a file."""
    return File(name=name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _alike(one: Ran, other: Ran, tolerance: float) -> bool:
    """Return whether an output is the same in two runs on the same noise.

    Values may differ by `tolerance` standard deviations of the output.
    """
    if one.shape != other.shape:
        return False
    if not one.values:
        return True
    first, second = np.array(one.values), np.array(other.values)
    return bool(np.abs(first - second).max() <= tolerance * float(first.std()) + 1e-6)


def _data_file(name: str, path: Path) -> DataFile:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise RefusedModel(f"{words(name)}: cannot be read any more, {error_words(error)}") from None
    plain = "/".join(_plain(part) for part in name.split("/") if part not in ("", "."))
    return DataFile(name=plain, bytes=size, sha256=digest)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
