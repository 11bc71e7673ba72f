"""Reading a stored classifier, on several threads."""

from __future__ import annotations

import ast
import gc
import hashlib
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from models.zoo.card import File
from service.inference.linear_head import UnusableHead, read_linear_head

SHAPE = (10, 16)
THREADS, READS = 4, 400


class Garbage:
    """A cycle whose end runs Python code, as sessions and files that are dropped during a swap do."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        for _ in range(300):
            pass


@pytest.fixture
def stored(tmp_path: Path) -> tuple[Path, File]:
    path = tmp_path / "head.npz"
    np.savez(path, weight=np.ones(SHAPE, np.float32), bias=np.ones(SHAPE[0], np.float32))
    content = path.read_bytes()
    return path, File(name=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.mark.slow
def test_threads_that_parse_at_once_all_read_it(
    stored: tuple[Path, File],
) -> None:
    """Python before 3.11.8 and 3.12.2 fails in some of these reads, and `/explain` answered 409."""
    problems: list[str] = []

    def read() -> None:
        for _ in range(READS):
            Garbage()
            try:
                read_linear_head(*stored, SHAPE)
            except UnusableHead as error:
                problems.append(str(error))

    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-5)
    gc.set_threshold(50, *threshold[1:])  # a cycle ends while a file is parsed: without this, almost never
    try:
        threads = [threading.Thread(target=read) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*threshold)
    assert problems == []


@pytest.mark.parametrize(("failures", "is_read"), [(3, True), (100, False)])
def test_failing_parser(
    failures: int, is_read: bool, stored: tuple[Path, File], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same, with the failures of CPython's parser put in its place, as often as they are wanted."""
    parse, left = ast.literal_eval, [failures]

    def fails_at_first(text: str) -> object:
        left[0] -= 1
        if left[0] >= 0:
            raise SystemError("AST constructor recursion depth mismatch")
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", fails_at_first)
    if is_read:
        assert read_linear_head(*stored, SHAPE).bias.tolist() == [1] * SHAPE[0]
    else:
        with pytest.raises(UnusableHead, match="no arrays"):
            read_linear_head(*stored, SHAPE)
    assert left[0] < failures, "NumPy does not parse headers this way"


def test_a_file_without_the_arrays_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.npz"
    np.savez(path, weight=np.ones(SHAPE, np.float32))
    content = path.read_bytes()
    file = File(name=path.name, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(UnusableHead, match="no arrays `weight` and `bias`"):
        read_linear_head(path, file, SHAPE)
