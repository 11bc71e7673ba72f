"""Every export made, added, served by a process of its own, and compared."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from service.inference.registry import Registry
from service.own_models.add import Added, add
from tests.exports.compare import Comparison, compare
from tests.exports.networks import EXPORTS, Export
from tests.exports.photographs import photographs
from tests.helpers.process import service_process


@dataclass(frozen=True)
class Tried:
    """One export, as it was added and as it compares with its framework."""

    export: Export
    added: Added
    comparison: Comparison


@contextmanager
def tried(folder: Path) -> Iterator[tuple[dict[str, Tried], httpx.Client]]:
    """Try every export in an empty folder; yield the results by name, and a client of the service.

    The frameworks warn of what they will remove, which the tests of this project count as errors.
    """
    pictures = photographs(folder / "photographs")
    models = folder / "data" / "models"
    exports, added = {}, {}
    for number, (name, make) in enumerate(EXPORTS.items(), 1):
        place = folder / f"{number}"
        place.mkdir()
        with warnings.catch_warnings(action="ignore"):
            exports[name] = make(place, pictures)
        added[name] = add(exports[name].file, exports[name].options, to=models)
    names = {name: each.card.name for name, each in added.items()}
    default = names[next(iter(names))]
    registry = Registry([models], default)
    registry.load()
    nothing = folder / "no models"
    nothing.mkdir()
    with (
        service_process(nothing, folder / "data", default_model=default) as process,
        process.client() as client,
    ):
        results = {}
        for name, export in exports.items():
            with warnings.catch_warnings(action="ignore"):
                comparison = compare(export, registry.get(names[name]), client, pictures)
            results[name] = Tried(export, added[name], comparison)
        yield results, client
