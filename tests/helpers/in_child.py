"""What `ask` lets a child do in tests of it: `handle` does what the request says."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from service.own_models.bounded import ChildFailed, ask

MODULE = "tests.helpers.in_child"
_prepared_in: set[int] = set()


def before_forks() -> None:
    """Note the process that calls this."""
    _prepared_in.add(os.getpid())


def handle(request: Mapping[str, Any]) -> dict[str, Any]:
    """Answer the request; `does` names what to do first."""
    match request.get("does"):
        case "abort":
            os.write(2, b"the last words\n")
            os.abort()
        case "raise":
            raise RuntimeError("the file is odd")
        case "exit":
            os._exit(0)
        case "print":
            os.write(1, b'{"answer": "of a library"}\n')
            sys.stdout.write("more of it\n")
        case "take":
            return {"bytes": len(bytearray(request["bytes"]))}
        case "ask":
            inner = {**request, "does": request["then"]}
            try:
                return ask(MODULE, inner, seconds=30, memory_bytes=1 << 30, own_group=False)
            except ChildFailed as error:
                return {"failed": str(error)}
        case "say where it was prepared":
            return {"prepared in": list(_prepared_in)}
        case "sleep":
            time.sleep(600)
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "files": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    }
