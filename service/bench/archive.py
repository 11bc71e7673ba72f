"""Save benchmark bundles in the database and read them back, with a cache."""

from __future__ import annotations

import json
import threading
import uuid
from collections import Counter

from service.bench.bundle import Bundle
from service.bench.bundle_file import from_json, to_json
from service.bench.fingerprint import this_host
from service.bench.recommend.evidence import StoredBundle
from service.bench.store import BenchmarkStore
from service.errors import InvalidBundle, StorageUnavailable

MAX_BUNDLES = 50
"""For each CPU and number of cores, a recommendation uses only this many benchmarks: the newest ones."""

MOST_IN_ALL = 2 * MAX_BUNDLES
"""A recommendation uses at most this many benchmarks in all. The samples of all of them stay in memory."""

_MOST_ROWS = 8 * MAX_BUNDLES
"""Number of the newest benchmarks from which the benchmarks for recommendations are chosen.

To choose, only the rows of the table are read, without the bundles.
"""


def new_id() -> str:
    """Return a random id for a benchmark."""
    return uuid.uuid4().hex[:16]


def request_json(bundle: Bundle) -> str:
    """Return, as JSON, the fields of the request that would start the same benchmark.

    There was no such request, because the command line measured the bundle.
    """
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
    """An archive of bundles, which saves them in the database and reads them back.

    The newest bundles stay in memory after they were read, so that they are not read again. The archive is
    thread-safe. All methods except `newest` raise StorageUnavailable if the database cannot be used.
    """

    def __init__(self, store: BenchmarkStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._cache: dict[str, StoredBundle | str] = {}

    def save(self, bundle: Bundle) -> str:
        """Save a bundle that another process measured on this machine. Return the new id of the benchmark."""
        identifier, machine = new_id(), bundle.fingerprint.machine
        self._store.add(
            identifier,
            request_json(bundle),
            bundle.started_at.timestamp(),
            bundle.finished_at.timestamp(),
            to_json(bundle).encode(),
            this_host().model_copy(update={"cpu": machine.cpu_model, "cores": machine.cores}),
        )
        return identifier

    def newest_bundles(self) -> tuple[list[StoredBundle], dict[str, str]]:
        """Return the newest bundles that can be read, and the reasons why others cannot be read.

        The reasons are keyed by the id of the benchmark. For each kind of machine (CPU and number of cores),
        at most the newest MAX_BUNDLES bundles are considered, and at most MOST_IN_ALL bundles altogether.
        """
        identifiers = self._newest()
        with self._lock:
            results = {name: self._cache[name] for name in identifiers if name in self._cache}
        for identifier in identifiers:
            if identifier not in results:
                results[identifier] = self._load(identifier)
        with self._lock:
            self._cache = results
        bundles = [result for result in results.values() if isinstance(result, StoredBundle)]
        return bundles, {name: reason for name, reason in results.items() if isinstance(reason, str)}

    def newest(self) -> tuple[str, ...]:
        """Return the ids of the newest bundles, newest first.

        Return an empty tuple if the database cannot be used.
        """
        try:
            return tuple(self._newest())
        except StorageUnavailable:
            return ()

    def _newest(self) -> list[str]:
        kinds: Counter[tuple[str, int] | None] = Counter()
        ranks = {}
        for row in self._store.rows(_MOST_ROWS, measured=True):
            kind = None if row.machine is None else (row.machine.cpu, row.machine.cores)
            kinds[kind] += 1
            if kinds[kind] <= MAX_BUNDLES:
                ranks[row.id] = kinds[kind]
        kept = set(sorted(ranks, key=lambda identifier: ranks[identifier])[:MOST_IN_ALL])
        return [identifier for identifier in ranks if identifier in kept]

    def _load(self, identifier: str) -> StoredBundle | str:
        content = self._store.bundle(identifier)
        if content is None:
            return "deleted"
        try:
            return StoredBundle(identifier, from_json(content, "bundle"))
        except InvalidBundle as error:
            return error.detail
