"""The data directory. It is created if it is missing, and locked by one process."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from service.errors import DataDirectoryInUse

_LOCK_NAME = "weighin.lock"
_OWNER_NAME = "weighin.owner.json"


class DataDirectory:
    """Context manager that holds the lock of the data directory.

    If the directory cannot be created or written, entering the context still succeeds. `problem` then gives
    the reason, and nothing may be written until a call of `claim` takes the lock.
    """

    def __init__(self, path: Path, address: str | None = None) -> None:
        """Neither creates nor locks the directory.

        `address`: URL of this process, which the error message of a second process names.
        """
        self.path = path.absolute()
        self._address = address
        self._lock = FileLock(self.path / _LOCK_NAME, thread_local=False)
        self._claiming = threading.Lock()

    def __enter__(self) -> Self:
        """Take the lock if the directory can be written.

        Raises DataDirectoryInUse, which names the owning process, if another process holds the lock.
        """
        with contextlib.suppress(OSError):  # reported by `problem`
            self._claim()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        if self._lock.is_locked:
            with contextlib.suppress(OSError):
                (self.path / _OWNER_NAME).unlink(missing_ok=True)
            self._lock.release()

    def claim(self) -> str | None:
        """Take the lock, unless this process holds it already. Return why it cannot be taken, or None.

        The reason is in words for clients.
        """
        try:
            self._claim()
        except OSError as error:
            return _explain(error)
        except DataDirectoryInUse as error:
            return error.detail
        return None

    @property
    def problem(self) -> str | None:
        """Why the directory cannot be written, in words for clients. It is None if it can be written.

        Takes the lock if this process does not hold it. Then writes a test file, because other checks are
        unreliable: the superuser ignores permissions, and free space does not show quotas and reserved
        blocks.
        """
        problem = self.claim()
        if problem is not None:
            return problem
        try:
            with tempfile.TemporaryFile(dir=self.path, prefix="weighin.") as file:
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            return _explain(error)
        return None

    def _claim(self) -> None:
        with self._claiming:
            if self._lock.is_locked:
                return
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                raise self._in_use() from None
            except NotImplementedError as error:
                raise OSError("file locks are not supported") from error
            self._write_owner()

    def _write_owner(self) -> None:
        # The owner has its own file, because other processes may open the lock file at any time.
        owner = {"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds")}
        if self._address is not None:
            owner["address"] = self._address
        temporary = self.path / f"{_OWNER_NAME}.tmp"
        try:
            temporary.write_text(json.dumps(owner))
            temporary.replace(self.path / _OWNER_NAME)
        except OSError:
            # If the disk is full, the lock still holds, but the error of a second process lacks the owner.
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _in_use(self) -> DataDirectoryInUse:
        """Return the error that names the process that holds the lock."""
        addresses: list[str] = []
        try:
            owner = json.loads((self.path / _OWNER_NAME).read_text())
            known = f"process {int(owner['pid'])}, since {owner['since']}"
            if "address" in owner:
                known += f", serving at {owner['address']}"
                addresses = str(owner["address"]).split(" and ")
        except (OSError, ValueError, KeyError, TypeError):
            known = "another process"
        return DataDirectoryInUse(
            f"data directory: in use by {known} (stop it, or set another WEIGHIN_DATA_DIR)", addresses
        )


def _explain(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"data directory: cannot be written: {reason[0].lower()}{reason[1:]}"
