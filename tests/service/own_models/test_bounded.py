"""Children with bounds: what they inherit, how they end, and that none outlives the process that asked."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.own_models.bounded import ChildFailed, TimeIsOver, ask
from service.own_models.fork_server import FORKS, end_idle
from tests.helpers.in_child import MODULE
from tests.helpers.processes import children, running
from tests.helpers.until import until

pytestmark = pytest.mark.skipif(not FORKS, reason="no fork server")

SERVER = "from service.own_models import fork_server; fork_server._IDLE_S = 0.01; fork_server.serve()"
ASKING = """
from service.own_models.bounded import ask
ask("tests.helpers.in_child", {"does": "ask", "then": "sleep"}, seconds=60, memory_bytes=1 << 30)
"""


@pytest.fixture(scope="module", autouse=True)
def _no_idle_server() -> Iterator[None]:
    end_idle()
    yield
    end_idle()


def answer(does: str | None = None, *, seconds: float = 60, **request: Any) -> dict[str, Any]:
    return ask(MODULE, {"does": does, **request}, seconds=seconds, memory_bytes=1 << 30)


def test_each_request_has_a_child_of_one_server() -> None:
    first, second = answer(), answer()
    assert first["pid"] != second["pid"]
    assert first["parent"] == second["parent"] != os.getpid()


def test_the_server_prepares_before_it_forks() -> None:
    assert answer("say where it was prepared") == {"prepared in": [answer()["parent"]]}


@pytest.mark.parametrize("request_", [{}, {"does": "ask", "then": None}], ids=["child", "its own child"])
def test_a_child_has_only_its_own_files(request_: dict[str, Any]) -> None:
    """Standard input, output and error, the answer's pipe, and the listing itself."""
    with Path(__file__).open():
        assert answer(**request_)["files"] == [0, 1, 2, 3, 4]


def test_what_libraries_print_is_no_answer() -> None:
    assert answer("print").keys() == {"pid", "parent", "files"}


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("abort", r"the process that ran it was ended \(SIGABRT, the last words\)"),
        ("raise", r"the process that ran it ended with 1 \(RuntimeError: the file is odd\)"),
        ("exit", r"the process that ran it ended with 0 \(\)"),
    ],
)
def test_how_a_child_ended_is_said_and_the_next_one_answers(does: str, words: str) -> None:
    with pytest.raises(ChildFailed, match=f"^{words}$"):
        answer(does)
    assert re.fullmatch(words, answer("ask", then=does)["failed"])
    assert answer()["pid"]


def test_memory_is_bounded() -> None:
    assert answer("take", bytes=1 << 24) == {"bytes": 1 << 24}
    with pytest.raises(ChildFailed, match=r"it needs more than 1 GiB of memory: MemoryError"):
        answer("take", bytes=1 << 31)


def test_a_child_without_an_answer_is_ended_in_time() -> None:
    end_idle()
    before = children(os.getpid())
    with pytest.raises(TimeIsOver, match=r"no answer within 0\.5 s"):
        answer("ask", then="sleep", seconds=0.5)
    until(lambda: children(os.getpid()) == before, "children have ended")


@pytest.mark.slow
def test_a_server_that_does_not_read_is_ended_in_time() -> None:
    server = answer()["parent"]
    os.kill(server, signal.SIGSTOP)
    with pytest.raises(TimeIsOver, match=r"no answer within 0\.5 s"):
        answer(then="x" * (1 << 20), seconds=0.5)  # more than a pipe holds
    until(lambda: not running(server), "the server has ended")


def test_a_server_that_was_killed_is_replaced() -> None:
    server = answer()["parent"]
    os.kill(server, signal.SIGKILL)
    until(lambda: not running(server), "the server has ended")
    assert answer()["parent"] != server


def test_one_server_is_kept_after_simultaneous_requests() -> None:
    end_idle()
    before = children(os.getpid())
    with ThreadPoolExecutor(3) as threads:
        parents = {each["parent"] for each in threads.map(lambda _: answer(), range(3))}
    kept = children(os.getpid()) - before
    assert len(kept) == 1
    assert kept <= parents
    assert answer()["parent"] in kept


def test_a_server_ends_when_it_is_not_asked() -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE) as idle:
        assert idle.wait(60) == 0


def test_nothing_outlives_a_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", ASKING]) as parent:
        until(lambda: len(children(parent.pid)) == 3, "server, child and the child's child run")
        started = children(parent.pid)
        parent.kill()
    until(lambda: not any(map(running, started)), "all have ended")
