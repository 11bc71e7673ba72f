"""The checks of the soak find what was planted: each kind of defect, one at a time."""

from __future__ import annotations

import os
import socket
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from service.app import create_app
from service.settings import Settings
from tests.helpers.until import until
from tests.soak.check import Documented, documented, grown, left_over, lost, miscounted, undocumented
from tests.soak.ledger import Stored
from tests.soak.record import Fault, Record, Seen
from tests.soak.system import census_of

ROUTES = {
    "POST /classify": Documented(frozenset({200, 503}), {503: frozenset({"queue-full"})}),
    "GET /gallery": Documented(
        frozenset({200, 503, 507}),
        {503: frozenset({"database-unreachable"}), 507: frozenset({"storage-unavailable"})},
    ),
}


def seen(route: str, status: int, problem: str = "", *, at: float = 10.0, expected: bool = False) -> Record:
    fault = Fault("PostgreSQL restarted", "", began=20, ended=30, recovered=31)
    return Record(seen=[Seen(route, at, at + 0.1, status, problem, expected, "the answer")], faults=[fault])


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (seen("POST /classify", 500, "internal-error"), "500 internal-error: not documented for this route"),
        (seen("POST /classify", 0, "connection lost"), "no answer"),
        (seen("POST /classify", 503, "database-unreachable", at=25), "this problem is not documented"),
        (seen("GET /gallery", 503, "database-unreachable"), "without a fault or overload"),
        (seen("GET /gallery", 503, "database-unreachable", at=37), "without a fault or overload"),
        (seen("GET /gallery", 507, "storage-unavailable", at=25), "without a fault or overload"),
        (seen("GET /gallery", 200), "without a fault or overload"),
        (seen("not in OpenAPI", 500, "internal-error"), "not documented"),
    ],
)
def test_an_answer_that_nothing_explains_is_found(record: Record, words: str) -> None:
    (violation,) = undocumented(record, ROUTES)
    assert words in violation


@pytest.mark.parametrize(
    "record",
    [
        seen("GET /gallery", 200, expected=True),
        seen("GET /gallery", 503, "database-unreachable", at=25),
        seen("GET /gallery", 503, "database-unreachable", at=19.95),
        seen("GET /gallery", 503, "database-unreachable", at=35),
    ],
)
def test_an_answer_that_a_fault_explains_is_none(record: Record) -> None:
    assert undocumented(record, ROUTES) == []


@pytest.mark.parametrize(("refused", "found"), [(1, False), (2, True)])
def test_overload_explains_one_answer_in_a_hundred(refused: int, found: bool) -> None:
    answers = [*seen("POST /classify", 503, "queue-full").seen] * refused
    answers += [*seen("POST /classify", 200, expected=True).seen] * (199 - refused)
    violations = undocumented(Record(seen=answers), ROUTES)
    assert [line.startswith("overload: 2 of 199 answers") for line in violations] == [True] * found


def test_overload_explains_a_deadline_of_a_path_that_openapi_does_not_list() -> None:
    late = seen("not in OpenAPI", 504, "deadline-exceeded")
    answers = [*late.seen, *seen("POST /classify", 200, expected=True).seen * 200]
    assert undocumented(Record(seen=answers), ROUTES) == []


def test_a_fault_explains_an_error_before_overload_does() -> None:
    (answer,) = seen("GET /gallery", 503, "database-unreachable", at=25).seen
    record = Record(seen=[replace(answer, detail="no free thread")] * 3, faults=seen("", 0).faults)
    assert undocumented(record, ROUTES) == []


@pytest.mark.slow
def test_what_is_documented_is_read_from_the_service(tiny_models_dir: Path, tmp_path: Path) -> None:
    settings = Settings(model_dirs=(tiny_models_dir,), default_model="tiny", data_dir=tmp_path)
    found = documented(create_app(settings).openapi())["DELETE /gallery/images/{id}"]
    assert {204, 404, 503, 507} <= found.statuses
    assert 500 not in found.statuses
    assert found.problems[503] == {"database-unreachable"}


def memory(*values: dict[int, int]) -> list[tuple[float, dict[int, int]]]:
    return list(enumerate(values))


def test_memory_that_grows_is_found() -> None:
    steady, short_lived = {1: 100_000_000, 2: 20_000_000}, {3: 500_000_000}
    rising = [{1: 100_000_000 + 200_000 * at, 2: 20_000_000} for at in range(60)]
    assert grown(memory(*[steady] * 60), (0, 9), (50, 59)) == (120_000_000, 120_000_000, [])
    one_peak = [steady] * 55 + [{1: 900_000_000, 2: 20_000_000} | short_lived] + [steady] * 4
    assert grown(memory(*one_peak), (0, 9), (50, 59))[2] == []
    (violation,) = grown(memory(*rising), (0, 9), (50, 59))[2]
    assert violation == "memory: 131 MB resident at the end, +8.3 % (allowed: +5% of 121 MB)"
    assert grown([], (0, 9), (50, 59))[2] != []


def steady_census() -> Counter[str]:
    """Return a census of this process once it does not change: a joined thread is in /proc for a moment."""
    found = [census_of(os.getpid(), 0)]

    def same() -> bool:
        found.append(census_of(os.getpid(), 0))
        return found[-1] == found[-2]

    until(same, "the census does not change")
    return found[-1]


def test_what_a_process_still_holds_is_found(tmp_path: Path) -> None:
    before = steady_census()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    with socket.socket(), (tmp_path / "open").open("w"):
        held = left_over(before, census_of(os.getpid(), 0))
        stop.set()
        thread.join()
    assert [line.split(":")[1:3] for line in held if "file" in line] == [[" open", " file"]]
    assert any("open: socket" in line for line in held)
    assert any("threads" in line for line in held)
    until(lambda: left_over(before, census_of(os.getpid(), 0)) == [], "nothing is held")


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"kept": 1}, "image replaced: lost; acknowledged was 3"),
        ({"kept": 1, "replaced": 2}, "image replaced: is 2, but acknowledged was 3"),
        ({"kept": None, "replaced": 3}, "image kept: its content is not what was sent"),
        ({"kept": 1, "replaced": 3, "deleted": 4}, "image deleted: is 4, but acknowledged was deletion"),
        ({"kept": 1, "replaced": 3, "unsure": 4}, "image unsure: is 4, but acknowledged was 5 or deletion"),
        ({"kept": 1, "replaced": 3, "foreign": 9}, "image foreign: was never stored"),
    ],
)
def test_what_was_lost_is_found(stored: dict[str, int | None], words: str) -> None:
    images = Stored()
    for name, changes in {"kept": (1,), "replaced": (2, 3), "deleted": (4, None)}.items():
        images.add(name)
        for after in changes:
            images.begin(name, after)
            images.acknowledge(name, after)
    images.add("unsure")
    images.begin("unsure", 5)
    assert lost("image", images.possible, {"kept": 1, "replaced": 3}) == []
    assert lost("image", images.possible, {"kept": 1, "replaced": 3, "unsure": 5}) == []
    assert lost("image", images.possible, stored) == [words]


@pytest.mark.parametrize(("count", "wrong"), [(9, True), (10, False), (12, False), (13, True)])
def test_runs_that_are_not_counted_are_found(count: int, wrong: bool) -> None:
    assert bool(miscounted({"tiny": count}, {"tiny": 10}, {"tiny": 2})) == wrong
