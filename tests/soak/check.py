"""What must hold after a run. Each check returns the violations that it found, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from tests.soak.ledger import States
from tests.soak.record import Fault, Record, Seen

GROWTH = 0.05
"""Allowed growth of resident memory since the baseline, as a share of it."""

OVERLOAD = frozenset({"queue-full", "busy", "deadline-exceeded"})
"""Problems by which the service says that it is asked for more than it can do at this moment."""

OVERLOAD_SHARE = 0.01
"""Largest share of all answers that overload may explain: the load is well below capacity."""

_NO_ROOM = ("no free core", "no free thread", "no result within", "queue full")
"""In what a problem says, the same."""

_CAUSES = {
    "database-unreachable": "PostgreSQL restarted",
    "storage-unavailable": "disk full",
    "rejected": "PostgreSQL restarted or disk full",
}
"""By the `type` of a problem, kinds of faults that explain it."""
_UNLISTED = frozenset({200, 404, 405, 504})
"""Statuses of paths that OpenAPI does not list."""


@dataclass(frozen=True)
class Documented:
    """Statuses, and kinds of problems by status, that OpenAPI documents for a route."""

    statuses: frozenset[int]
    problems: Mapping[int, frozenset[str]]


def documented(openapi: Mapping[str, Any]) -> dict[str, Documented]:
    """Return what OpenAPI documents, by method and path."""
    found = {}
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            problems = {
                int(status): frozenset(content.get("examples", {}))
                for status, response in operation["responses"].items()
                for content in response.get("content", {}).values()
                if content.get("examples")
            }
            statuses = frozenset(map(int, operation["responses"]))
            found[f"{method.upper()} {path}"] = Documented(statuses, problems)
    return found


def cause(seen: Seen, faults: Iterable[Fault]) -> str | None:
    """Return what explains an error: a fault that was going on, else overload; None if nothing does."""
    allowed = _CAUSES.get(seen.problem, "")
    during = (each.kind for each in faults if each.kind in allowed and each.overlaps(seen))
    overload = seen.problem in OVERLOAD or any(words in seen.detail for words in _NO_ROOM)
    return next(during, "overload" if overload else None)


def undocumented(record: Record, routes: Mapping[str, Documented]) -> list[str]:
    """Find answers that the documentation does not allow, errors without a cause, and missing answers.

    Also finds overload, if it explains more than `OVERLOAD_SHARE` of all answers.
    """
    found: Counter[str] = Counter()
    overloaded = 0
    for seen in record.seen:
        if seen.expected:
            continue
        overloaded += cause(seen, record.faults) == "overload"
        route = routes.get(seen.route)
        where = f"{seen.route}: {seen.status} {seen.problem}"
        if seen.status == 0:
            found[f"{where}: no answer"] += 1
        elif seen.status not in (_UNLISTED if route is None else route.statuses):
            found[f"{where}: not documented for this route; {seen.detail}"] += 1
        elif seen.status >= 500 and route and seen.problem not in route.problems.get(seen.status, ()):
            found[f"{where}: this problem is not documented for this route; {seen.detail}"] += 1
        elif cause(seen, record.faults) is None:
            found[f"{where}: without a fault or overload; {seen.detail}"] += 1
    wrong = [f"{what} ({count} times)" if count > 1 else what for what, count in found.items()]
    if overloaded > OVERLOAD_SHARE * len(record.seen):
        wrong.append(
            f"overload: {overloaded} of {len(record.seen)} answers (allowed: {OVERLOAD_SHARE:.0%}); "
            "was the machine busy when capacity was measured?"
        )
    return wrong


def grown(
    samples: Sequence[tuple[float, Mapping[int, int]]],
    baseline: tuple[float, float],
    end: tuple[float, float],
) -> tuple[int, int, list[str]]:
    """Compare resident memory in two spans of time.

    Of each process that lives through both spans, the median of the samples in each is taken; their sums are
    returned, in bytes, and a violation if the second is more than `GROWTH` above the first.
    """

    def medians(span: tuple[float, float]) -> dict[int, float]:
        inside = [by_process for at, by_process in samples if span[0] <= at <= span[1]]
        whole = [pid for pid in (inside[0] if inside else ()) if all(pid in each for each in inside)]
        return {pid: median(each[pid] for each in inside) for pid in whole}

    first, last = medians(baseline), medians(end)
    if not first or not last:
        return 0, 0, ["memory: no process was sampled in both spans"]
    common = first.keys() & last.keys()
    before, after = sum(first[pid] for pid in common), sum(last[pid] for pid in common)
    wrong = []
    if after > before * (1 + GROWTH):
        wrong = [
            f"memory: {after / 1e6:.0f} MB resident at the end, {100 * (after / before - 1):+.1f} % "
            f"(allowed: {GROWTH:+.0%} of {before / 1e6:.0f} MB)"
        ]
    return int(before), int(after), wrong


def left_over(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    """Find kinds of threads, open files, connections and processes of which there are more than before."""
    return [
        f"left over: {kind}: {after[kind]} (before: {before.get(kind, 0)})"
        for kind in sorted(after)
        if after[kind] > before.get(kind, 0)
    ]


def lost(kind: str, possible: States, stored: Mapping[str, int | None]) -> list[str]:
    """Find what was acknowledged and is not there, what was deleted and is, and what has other content.

    `stored`: by name, the seed of what is stored, None for content that belongs to no seed.
    """
    wrong = []
    for name, seeds in possible.items():
        if name not in stored:
            if None not in seeds:
                wrong.append(f"{kind} {name}: lost; acknowledged was {_words(seeds)}")
        elif stored[name] is None:
            wrong.append(f"{kind} {name}: its content is not what was sent")
        elif stored[name] not in seeds:
            wrong.append(f"{kind} {name}: is {stored[name]}, but acknowledged was {_words(seeds)}")
    return wrong + [f"{kind} {name}: was never stored" for name in sorted(stored.keys() - possible.keys())]


def _words(seeds: Iterable[int | None]) -> str:
    return " or ".join("deletion" if seed is None else str(seed) for seed in sorted(seeds, key=str))


def miscounted(
    counts: Mapping[str, int], predictions: Mapping[str, int], uncertain: Mapping[str, int]
) -> list[str]:
    """Find models of which /latency counts fewer runs than were answered, or more than were asked for."""
    return [
        f"latency of {model}: {counts.get(model, 0)} runs are counted (allowed: {answered} to "
        f"{answered + uncertain.get(model, 0)})"
        for model, answered in sorted(predictions.items())
        if not answered <= counts.get(model, 0) <= answered + uncertain.get(model, 0)
    ]
