"""Measurements in the database: kept, found again, and read once."""

from __future__ import annotations

import json
import threading
import uuid

from service.bench.bundle import Bundle
from service.bench.bundle_file import from_json, to_json
from service.bench.recommend.evidence import StoredBundle
from service.bench.store import BenchmarkStore
from service.errors import InvalidBundle, StorageUnavailable

MOST = 50
"""So many of the newest measurements are looked at for a recommendation."""


def new_id() -> str:
    """An id for a benchmark."""
    return uuid.uuid4().hex[:16]


def asked_for(bundle: Bundle) -> str:
    """What was asked for, as JSON, of a measurement that did not come from a request."""
    configuration = bundle.configuration
    return json.dumps(
        {
            "models": [model.name for model in bundle.models],
            "profile": configuration.profile,
            "scenario": configuration.scenario,
            "baseline": bundle.entry(configuration.baseline).model,
            "threads": sorted({entry.threads for entry in bundle.entries}),
            "budget_ms": configuration.budget_ms,
        }
    )


class BenchmarkArchive:
    """Saves bundles and reads them back, each only once; any thread may call it.

    Methods raise StorageUnavailable when the database cannot be used.
    """

    def __init__(self, store: BenchmarkStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._read: dict[str, StoredBundle | str] = {}

    def save(self, bundle: Bundle) -> str:
        """Keep a measurement that was taken elsewhere; returns its id."""
        identifier = new_id()
        self._store.add(
            identifier,
            asked_for(bundle),
            bundle.started_at.timestamp(),
            bundle.finished_at.timestamp(),
            to_json(bundle).encode(),
        )
        return identifier

    def newest_bundles(self) -> tuple[list[StoredBundle], dict[str, str]]:
        """Return the newest measurements, and by id why one of them cannot be read."""
        identifiers = [row.id for row in self._store.rows(MOST, measured=True)]
        with self._lock:
            known = {each: self._read[each] for each in identifiers if each in self._read}
        for identifier in identifiers:
            if identifier not in known:
                known[identifier] = self._load(identifier)
        with self._lock:
            self._read = known
        bundles = [each for each in known.values() if isinstance(each, StoredBundle)]
        return bundles, {name: why for name, why in known.items() if isinstance(why, str)}

    def newest(self) -> str | None:
        """The id of the newest measurement; None where there is none, or it cannot be told now."""
        try:
            return next((row.id for row in self._store.rows(1, measured=True)), None)
        except StorageUnavailable:
            return None

    def _load(self, identifier: str) -> StoredBundle | str:
        content = self._store.bundle(identifier)
        if content is None:
            return "it is gone"
        try:
            return StoredBundle(identifier, from_json(content, "It"))
        except InvalidBundle as error:
            return error.detail
