"""Ask a child process that has bounds on time and memory, and answer in one.

The child reads one request from standard input, sets its bounds, and writes one answer to standard output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from service.child import child_command
from service.errors import Busy, StorageUnavailable, error_words
from service.inference.runtime_errors import one_line

_OUT_OF_MEMORY = (
    "bad alloc", "bad_alloc", "failed to allocate", "not enough memory", "out of memory", "memoryerror",
    "failed to map segment", "cannot allocate memory", "errno 12", "can't start new thread",
)  # fmt: skip


class ChildFailed(Exception):
    """The child gave no answer: it was ended, or its time is over; the message says which.

    `plain`: the message without what the child wrote last, which may have paths.
    """

    def __init__(self, message: str, plain: str) -> None:
        super().__init__(message)
        self.plain = plain


class TimeIsOver(ChildFailed):
    """The child gave no answer within its time."""


def ask(
    module: str,
    request: Mapping[str, Any],
    *,
    seconds: float,
    memory_bytes: int,
    own_group: bool = True,
    has_children: bool = False,
) -> dict[str, Any]:
    """Run `module` as a child, give it `request`, and return its answer; the child has ended then.

    `memory_bytes`: what it may take beyond what it has at its start. `own_group`: it and its own children
    form a group, which is ended with it; False for a child of such a child. `has_children`: the bounds are
    not for its own children, which `ask` gives theirs. Raises ChildFailed, and Busy or
    StorageUnavailable where it cannot be started.
    """
    bounds = {"memory_bytes": memory_bytes, "cpu_s": int(max(0, seconds)) + 5, "inherited": not has_children}
    body = json.dumps({"request": request, "bounds": bounds}).encode()
    with contextlib.ExitStack() as opened:
        try:
            errors = opened.enter_context(tempfile.TemporaryFile())
        except OSError as error:
            words = error_words(error)
            raise StorageUnavailable(f"the folder of temporary files cannot be written: {words}") from None
        try:
            process = subprocess.Popen(
                child_command(module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=own_group,  # Ctrl-C on the terminal is for the parent, which ends the child
            )
        except OSError as error:
            raise Busy(f"a process to try the file cannot be started: {error_words(error)}") from None
        try:
            out, _ = process.communicate(body, timeout=max(0, seconds))
        except subprocess.TimeoutExpired:
            words = f"no answer within {seconds:g} s"
            raise TimeIsOver(words, words) from None
        finally:
            if own_group and process.returncode != 0:
                _end_group(process.pid)
            process.kill()
            process.communicate()  # waits, and closes the pipes
        try:
            answer: dict[str, Any] = json.loads(out)
        except ValueError:
            raise _ended(process.returncode, errors, memory_bytes) from None
    return answer


def answer(handle: Callable[[Any], Mapping[str, Any]]) -> None:
    """Answer one request with what `handle` makes of it; the child's whole life."""
    given = json.loads(sys.stdin.buffer.read())
    # What libraries print must not come between the answer's lines.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _bound(**given["bounds"])
    json.dump(handle(given["request"]), answers)
    answers.flush()
    os._exit(0)  # without the destructors of a model that may have done anything


def of_memory(words: str, memory_bytes: int) -> str:
    """Return an error in words, with the bound where it is memory that is missing."""
    if any(sign in words.lower() for sign in _OUT_OF_MEMORY):
        return f"it needs more than {memory_bytes / (1 << 30):.3g} GiB of memory: {words}"
    return words


def _end_group(leader: int) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(OSError):
            os.killpg(leader, signal.SIGKILL)


def _ended(code: int, errors: Any, memory_bytes: int) -> ChildFailed:
    """Say how a child ended that gave no answer."""
    errors.seek(0, os.SEEK_END)
    errors.seek(max(0, errors.tell() - 2000))
    said = errors.read().decode(errors="replace").strip().splitlines()
    last = one_line(said[-1]) if said else ""
    for line in map(one_line, reversed(said)):  # what follows a lack of memory may be any error
        words = of_memory(line, memory_bytes)
        if words != line:
            return ChildFailed(words, words.removesuffix(f": {line}"))
    if code >= 0:
        plain = f"the process that ran it ended with {code}"
        return ChildFailed(f"{plain} ({last})", plain)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    plain = f"the process that ran it was ended ({name}"
    return ChildFailed(f"{plain}{', ' + last if last else ''})", f"{plain})")


def _bound(memory_bytes: int, cpu_s: int, *, inherited: bool) -> None:
    """Bound this process: memory beyond what it has by now, processor time, no core file.

    `inherited`: for good, for its children too.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory_bytes
        _lower(resource, resource.RLIMIT_AS, limit, inherited)
    _lower(resource, resource.RLIMIT_CPU, cpu_s, inherited)
    _lower(resource, resource.RLIMIT_CORE, 0, True)


def _lower(resource: Any, kind: int, limit: int, inherited: bool) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(kind, (limit, limit if inherited else hard))
