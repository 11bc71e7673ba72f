"""Run a function in a child process with bounds on time and memory, and explain why it failed if it did."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping
from typing import Any

from service.inference.runtime_errors import one_line
from service.own_models.fork_server import Ended, Limits, run_child

_OUT_OF_MEMORY = (
    "bad alloc", "bad_alloc", "failed to allocate", "not enough memory", "out of memory", "memoryerror",
    "failed to map segment", "cannot allocate memory", "errno 12", "can't start new thread",
)  # fmt: skip
_MORE = "it needs more than"


class ChildFailed(Exception):
    """The child process gave no answer, because it was killed, crashed, or ran out of time.

    The message says which of these happened. `plain`: the message without the child's last output, which may
    contain paths.
    """

    def __init__(self, message: str, plain: str) -> None:
        super().__init__(message)
        self.plain = plain


class TimeIsOver(ChildFailed):
    """The child process gave no answer within its time."""


def ask(
    module: str,
    request: Mapping[str, Any],
    *,
    seconds: float,
    memory_bytes: int,
    own_group: bool = True,
    has_children: bool = False,
) -> dict[str, Any]:
    """Call `handle` of `module` with `request` in a child process, and return its answer when it has ended.

    `memory_bytes`: memory that the child may allocate after its start. `own_group`: whether the child and its
    own children form a new process group, which is killed as a whole. It must be False if this process is
    itself a child in such a group. `has_children`: whether the child starts children of its own with `ask`;
    these have bounds of their own. Paths in `request` must be absolute, because the child may have another
    working directory. Raises ChildFailed, and Busy if the child cannot be started.
    """
    seconds_left = max(0, seconds)
    limits = Limits(memory_bytes, int(seconds_left) + 5, inherited=not has_children)
    until = time.monotonic() + seconds_left
    try:
        ended = run_child(module, request, limits, until=until, own_group=own_group)
    except TimeoutError:
        words = f"no answer within {seconds:g} s"
        raise TimeIsOver(words, words) from None
    try:
        answer: dict[str, Any] = json.loads(ended.answer)
    except ValueError:
        raise _failure(ended, memory_bytes) from None
    return answer


def of_memory(words: str, memory_bytes: int) -> str:
    """Return the error message `words`. If it says that memory ran out, begin it with the memory limit.

    If the message already names the limit, it is returned unchanged.
    """
    if _MORE not in words and any(sign in words.lower() for sign in _OUT_OF_MEMORY):
        return f"{_MORE} {memory_bytes / (1 << 30):.3g} GiB of memory: {words}"
    return words


def _failure(ended: Ended, memory_bytes: int) -> ChildFailed:
    """Return the error for a child process that gave no answer. Its message says how the child ended."""
    code, said = ended.code, ended.errors.strip().splitlines()
    last = one_line(said[-1]) if said else ""
    for line in map(one_line, reversed(said)):  # after memory ran out, any other error may follow
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
