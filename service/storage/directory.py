"""The data directory: made when missing, one process's own while it runs."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from service.errors import DataDirectoryInUse

_LOCK_NAME = "weighin.lock"
_OWNER_NAME = "weighin.owner.json"


class DataDirectory:
    """A context: the directory and its lock are held between enter and exit.

    A directory that cannot be made or written stops nobody: `problem` says why, and nothing is locked,
    because nothing will be written.
    """

    def __init__(self, path: Path, address: str | None = None) -> None:
        """`address`: where this process serves, for the message that a second one gets."""
        self.path = path.absolute()
        self._address = address
        self._lock = FileLock(self.path / _LOCK_NAME, thread_local=False)
        self._problem: str | None = None

    def __enter__(self) -> Self:
        """Take the lock. Raises DataDirectoryInUse, naming the process that has it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(blocking=False)
        except Timeout:
            raise DataDirectoryInUse(self._describe_owner()) from None
        except (OSError, NotImplementedError) as error:
            self._problem = _explain(error)
        else:
            self._introduce()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the lock go."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.path / _OWNER_NAME).unlink(missing_ok=True)
            self._lock.release()

    @property
    def problem(self) -> str | None:
        """Why nothing can be written here, in words for a client; None when it can.

        Tries it, because neither permissions nor free space tell: the superuser passes the first, quotas and
        reserved blocks belie the second.
        """
        if self._problem is not None:
            return self._problem
        try:
            with tempfile.TemporaryFile(dir=self.path, prefix="weighin.") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return _explain(error)
        return None

    def serves_at(self, address: str) -> None:
        """Tell where this process serves, once that is known."""
        self._address = address
        self._introduce()

    def _introduce(self) -> None:
        # Beside the lock and not in it: the lock's file may be opened by others at any time.
        owner = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        if self._address is not None:
            owner["address"] = self._address
        temporary = self.path / f"{_OWNER_NAME}.tmp"
        try:
            temporary.write_text(json.dumps(owner))
            temporary.replace(self.path / _OWNER_NAME)
        except OSError:
            # A full disk: the lock holds all the same, a second process just cannot say whose it is.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _describe_owner(self) -> str:
        try:
            owner = json.loads((self.path / _OWNER_NAME).read_text())
            known = f"process {int(owner['pid'])}, since {owner['since']}"
            if "address" in owner:
                known += f", serving at {owner['address']}"
        except (OSError, ValueError, KeyError, TypeError):
            known = "another process"
        return f"the data directory is in use by {known}: stop that one, or set another WEIGHIN_DATA_DIR"


def _explain(error: Exception) -> str:
    reason = (error.strerror if isinstance(error, OSError) else None) or "locks do not work there"
    return f"the data directory cannot be written: {reason[0].lower()}{reason[1:]}"
