"""Choice of the runtime of each model.

If a request chose a runtime, this runtime is used. If not, the runtime in the model's card is used. If the
card names no runtime either, the runtime in the settings is used.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog
from filelock import FileLock, Timeout
from pydantic import Field, ValidationError
from pydantic_core import from_json

from models.zoo.card import Agreement, Card, Name, Runtime
from models.zoo.files import read_text, write_whole
from models.zoo.frozen import Finite
from models.zoo.machine import this_machine
from service.errors import InvalidParameter, StorageUnavailable, error_words
from service.inference.cpu import core_budget
from service.inference.runtimes.base import RuntimeName
from service.inference.runtimes.opening import INSTALL_OPENVINO, is_installed, obstacle_of
from service.inference.runtimes.openvino import FloatPrecision
from service.inference.runtimes.weighing import Conditions, Weighing
from service.settings import Settings

FILE_NAME = "runtimes.json"
"""Name of the file, in the data directory, with the runtimes that requests chose and with all weighings."""

Origin = Literal["request", "card", "setting"]

NOT_WEIGHED = "not weighed yet"

_LOCK_WAIT_S = 10.0
"""Longest wait for another process to finish its change of the file."""

log = structlog.get_logger(__name__)


class Requested(Finite):
    """A runtime that a request chose for a model.

    `floats`: type of the float operators in OpenVINO (see `open_session`).
    """

    runtime: Runtime
    floats: FloatPrecision | None = None


class _Kept(Finite):
    """Content of the file `runtimes.json`.

    Several processes and machines may share the file. Each of them keeps what the others have written.
    """

    schema_version: Literal[1] = 1
    requested: dict[Name, Requested] = Field(default_factory=dict)
    weighings: tuple[Weighing, ...] = ()


@dataclass(frozen=True)
class Choice:
    """The runtime that is to run a model's predictions, and what chose it.

    `floats`: type of the float operators in OpenVINO, if a request chose one.
    """

    runtime: Runtime = "onnxruntime"
    origin: Origin = "setting"
    floats: FloatPrecision | None = None


DEFAULT_CHOICE = Choice()


@dataclass(frozen=True)
class Serving:
    """Runtime and precision that compute a model's predictions.

    `precision` is None while it is unknown. `weighing`: how OpenVINO compares with ONNX Runtime (see
    `ServedModel`).
    """

    runtime: RuntimeName
    precision: str | None
    weighing: Weighing | None = None

    def as_measured(self, card: Card) -> bool:
        """Return whether the card's accuracy and agreement hold for the answers that are served now.

        Tiny rounding errors are ignored. The result is false if the precision is not the card's. It is also
        false for an int8 network in OpenVINO, which rounds intermediate results in other places than ONNX
        Runtime.
        """
        rounds_alike = self.runtime == "onnxruntime" or card.precision != "int8"
        return self.precision == card.precision and rounds_alike

    def agreement(self, card: Card) -> Agreement | None:
        """Return the agreement to state for the answers that are served, or None if there is none.

        If the card's accuracy holds for these answers (see `as_measured`), this is the agreement in the card.
        Otherwise, it is the agreement that follows from the weighing (see `Weighing.agreement`). This is None
        if the two runtimes have not been compared yet, or were compared on too few pictures.
        """
        if self.as_measured(card):
            return card.agreement
        if self.precision is None or self.weighing is None or self.weighing.precision != self.precision:
            return None
        return self.weighing.agreement(card)

    def card(self, card: Card) -> Card:
        """Return the card with the accuracy and agreement of what is served.

        If the card's accuracy does not hold for the answers that are served (see `as_measured`), the result
        depends on the agreement of these answers. If the agreement is known, the accuracy is marked as
        `inherited`. If the agreement is unknown, the accuracy is left out.
        """
        if self.as_measured(card) or card.accuracy is None:
            return card
        agreement = self.agreement(card)
        accuracy = None if agreement is None else card.accuracy.model_copy(update={"kind": "inherited"})
        return card.model_copy(update={"accuracy": accuracy, "agreement": agreement})

    def unknown_accuracy(self, card: Card) -> str | None:
        """Return why the accuracy of what is served is unknown.

        Return None if it is known, or if the card has no accuracy.
        """
        if card.accuracy is None or self.card(card).accuracy is not None:
            return None
        where = "OpenVINO" if self.precision is None else f"OpenVINO in {self.precision}"
        return f"the answers of {where} have not been compared with those of ONNX Runtime in {card.precision}"


class RuntimeChoices:
    """The choice of a runtime for each model, thread-safe.

    A file keeps the choices of requests and the weighings, so that they outlast a restart.
    """

    def __init__(
        self, default: Runtime = "onnxruntime", folder: Path | None = None, *, streams: int = 1
    ) -> None:
        """Read the file in `folder` with the choices of earlier requests. An unreadable file is ignored.

        `default`: the runtime in the settings. `folder`: the data directory. If it is None, choices and
        weighings are not saved. `streams`: number of runs under way at a time. Raises InvalidParameter if
        `default` is `openvino` and OpenVINO cannot be used. If `default` is `auto` and OpenVINO cannot be
        used, a line is logged, and ONNX Runtime runs all models.
        """
        obstacle = None if default == "onnxruntime" else obstacle_of("openvino")
        if default == "openvino" and not is_installed("openvino"):
            raise InvalidParameter(
                f"WEIGHIN_RUNTIME 'openvino': not installed (allowed: onnxruntime, auto, or install it with: "
                f"{INSTALL_OPENVINO})"
            )
        if default == "openvino" and obstacle is not None:
            raise InvalidParameter(f"WEIGHIN_RUNTIME 'openvino': {obstacle} (allowed: onnxruntime, auto)")
        if obstacle is not None:
            log.info("WEIGHIN_RUNTIME auto: ONNX Runtime runs all models", reason=obstacle)
        self.default = default
        self.streams = streams
        self._path = None if folder is None else folder / FILE_NAME
        self._lock = threading.Lock()
        self._kept = _Kept() if self._path is None else _read(self._path)

    def requested(self, name: str) -> Requested | None:
        """Return the runtime that a request chose for a model, or None if no request chose one."""
        return self._kept.requested.get(name)

    def of(self, card: Card) -> Choice:
        """Return the choice of the runtime for the model with this card."""
        return self.after(card, self._kept.requested.get(card.name))

    def after(self, card: Card, requested: Requested | None) -> Choice:
        """Return the choice that would result for the model with this card if `requested` were saved."""
        if requested is not None:
            return Choice(requested.runtime, "request", requested.floats)
        return Choice(self.default) if card.runtime is None else Choice(card.runtime, "card")

    def conditions(self, card: Card) -> Conditions:
        """Return the conditions of a weighing of the model with this card. Raises PackageNotFoundError."""
        return Conditions.here(card, self.streams)

    def weighing(self, card: Card, choice: Choice) -> Weighing | None:
        """Return the weighing of a model with this choice, under the present conditions on this machine.

        Return None if there is no such weighing, if ONNX Runtime was chosen, or if OpenVINO cannot be used.
        """
        if choice.runtime == "onnxruntime" or obstacle_of("openvino") is not None:
            return None
        here = self.conditions(card)
        for known in self._kept.weighings:
            if (known.model, known.floats, known.conditions) == (card.name, choice.floats, here):
                return known
        return None

    def serving(self, card: Card) -> Serving:
        """Return the runtime and precision that compute a model's predictions in the service.

        This is a forecast, made without loading the model. It is wrong if OpenVINO was chosen for a model
        that has not been weighed and that OpenVINO cannot load. The precision in OpenVINO is unknown until
        the model is weighed.
        """
        choice = self.of(card)
        weighing = self.weighing(card, choice)
        if weighing is not None:
            wins = weighing.switches if choice.runtime == "auto" else not weighing.refused
        else:
            wins = choice.runtime == "openvino" and obstacle_of("openvino") is None
        if wins:
            return Serving("openvino", None if weighing is None else weighing.precision or None, weighing)
        return Serving("onnxruntime", card.precision, weighing)

    def keep_weighing(self, weighing: Weighing) -> None:
        """Save a weighing in place of older weighings of the same model on the same machine.

        If the file cannot be written, the weighing stays in memory only.
        """
        ours = weighing.conditions
        machine = (ours.cpu, ours.cpu_id, ours.cores)

        def change(kept: _Kept) -> _Kept:
            others = _without(kept.weighings, weighing.model, weighing.floats, machine)
            return kept.model_copy(update={"weighings": (*others, weighing)})

        with self._lock:
            try:
                self._write(change)
            except StorageUnavailable as error:
                log.warning("weighing is kept in memory only", model=weighing.model, reason=error.detail)
            self._kept = change(self._kept)

    def keep(self, name: str, requested: Requested | None) -> None:
        """Save the runtime that a request chose for a model. Raises StorageUnavailable.

        If `requested` is None, the saved choice is discarded. If the runtime is `auto`, the model's weighing
        on this machine is discarded, so that the model is weighed again.
        """
        machine = this_machine()
        here = (machine.cpu, machine.cpu_id, core_budget())

        def change(kept: _Kept) -> _Kept:
            others = {other: known for other, known in kept.requested.items() if other != name}
            changed = others if requested is None else others | {name: requested}
            weighings = kept.weighings
            if requested is not None and requested.runtime == "auto":
                weighings = _without(weighings, name, requested.floats, here)
            return kept.model_copy(update={"requested": changed, "weighings": weighings})

        with self._lock:
            self._write(change)
            self._kept = change(self._kept)

    def _write(self, change: Callable[[_Kept], _Kept]) -> None:
        """Apply `change` to the current content of the file, which another process may have written.

        Raises StorageUnavailable.
        """
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_suffix(".lock"), timeout=_LOCK_WAIT_S):
                kept = change(_read(self._path))
                text = json.dumps(kept.model_dump(mode="json"), indent=2) + "\n"
                write_whole(self._path, text.encode())
        except (OSError, NotImplementedError) as error:
            reason = (
                "another process is writing it"
                if isinstance(error, Timeout)
                else (error_words(error) if isinstance(error, OSError) else "file locks are not supported")
            )
            raise StorageUnavailable(f"{FILE_NAME} cannot be written: {reason}") from None


def runtime_choices(settings: Settings) -> RuntimeChoices:
    """Return the runtime choices of a service with these settings. Raises InvalidParameter."""
    return RuntimeChoices(settings.runtime, settings.data_dir, streams=settings.threads or core_budget())


def _without(
    weighings: Iterable[Weighing], model: str, floats: FloatPrecision | None, machine: tuple[str, str, int]
) -> tuple[Weighing, ...]:
    """Return `weighings` without those of `model` on `machine` for which the type `floats` was requested.

    `floats`: type of the float operators, or None if no type was requested. `machine`: name of the CPU,
    identity of the CPU, number of cores.
    """

    def is_other(known: Weighing) -> bool:
        of = known.conditions
        ours = (known.model, known.floats, (of.cpu, of.cpu_id, of.cores))
        return ours != (model, floats, machine)

    return tuple(filter(is_other, weighings))


def _read(path: Path) -> _Kept:
    try:
        text = read_text(path)
        try:
            return _Kept.model_validate_json(text)
        except ValidationError:
            return _valid_part(from_json(text))
    except FileNotFoundError:
        return _Kept()
    except OSError as error:
        reason = error_words(error)
    except ValueError:
        reason = "not a file of this service"
    log.warning("chosen runtimes are ignored", file=FILE_NAME, reason=reason)
    return _Kept()


def _valid_part(content: Any) -> _Kept:
    """Return the valid requests and weighings of a file that also has invalid ones, and log a warning.

    Raises ValueError if the file has another schema.
    """
    known = {"schema_version": 1, "requested": {}, "weighings": []} | (
        content if isinstance(content, dict) else {"schema_version": None}
    )
    requested, weighings = known["requested"], known["weighings"]
    if known["schema_version"] != 1 or not isinstance(requested, dict) or not isinstance(weighings, list):
        raise ValueError("another schema")
    parts: list[dict[str, Any]] = [{"requested": {name: each}} for name, each in requested.items()]
    parts += [{"weighings": [each]} for each in weighings]
    kept, ignored = _Kept(), 0
    for part in parts:
        try:
            valid = _Kept.model_validate_json(json.dumps(part))
        except ValidationError:
            ignored += 1
            continue
        kept = _Kept(
            requested=kept.requested | valid.requested, weighings=(*kept.weighings, *valid.weighings)
        )
    log.warning(
        "some chosen runtimes are ignored", file=FILE_NAME, ignored=ignored, kept=len(parts) - ignored
    )
    return kept
