"""Watch the model folders: notice new, changed and removed models while the service runs."""

from __future__ import annotations

import threading

import structlog

from service.inference.registry import Registry

LOOK_EVERY_S = 0.5
"""Seconds between two checks.

A changed folder is reloaded at the second check that finds the change, i.e. within one second plus the
time of loading."""

_CLOSE_WITHIN_S = 10.0

log = structlog.get_logger(__name__)


class ModelWatcher:
    """Thread in which a registry checks its folders for changes. Call `start` once and `close` at the end."""

    def __init__(self, registry: Registry, *, every_s: float = LOOK_EVERY_S) -> None:
        self._registry = registry
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weighin-models", daemon=True)

    def start(self) -> None:
        """Start the thread. The registry must be loaded."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread. If a model is being loaded, wait for it, but at most ten seconds."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        failure = ""
        while not self._stop.wait(self._every_s):
            try:
                self._registry.refresh()
                failure = ""
            except Exception as error:
                if repr(error) != failure:  # log a repeated failure only once
                    log.exception("looking at the folders of models failed")
                failure = repr(error)
