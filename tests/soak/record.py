"""What happened: every answer, every fault with its times, and samples of memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

GRACE_S = 5.0
"""Seconds after a fault in which errors are still its consequence: connections are pooled, and retried."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An answer, or its absence (`status` 0). Times are those of `time.monotonic`."""

    route: str
    """Method and path as in OpenAPI, such as `DELETE /gallery/images/{id}`."""
    sent: float
    answered: float
    status: int
    problem: str = ""
    """The `type` of the problem document, or why there was no answer."""
    expected: bool = True
    """Whether the status is one that this request has without any fault."""
    detail: str = ""
    """The beginning of an answer that was not expected."""

    @property
    def ms(self) -> float:
        """Milliseconds from sending to the complete answer."""
        return (self.answered - self.sent) * 1000


@dataclass
class Fault:
    """A fault that was caused. `recovered`: when all replicas said that they are not degraded any more."""

    kind: str
    what: str
    began: float
    ended: float = 0.0
    recovered: float = 0.0

    def overlaps(self, seen: Seen) -> bool:
        """Return whether an answer may be a consequence: it was under way during the fault or just after."""
        last = max(self.ended, self.recovered) or float("inf")
        return seen.answered >= self.began and seen.sent <= last + GRACE_S


@dataclass
class Record:
    """All that is known of a run."""

    seen: list[Seen] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Answers whose content was wrong."""
    resident: list[tuple[float, dict[int, int]]] = field(default_factory=list)
    """Samples: time, and resident bytes by process id."""
    not_sent: int = 0
    """Requests of the open loop that were dropped because too many were unanswered."""

    def during(self, kinds: Iterable[str]) -> list[Fault]:
        """Return the faults of these kinds."""
        return [fault for fault in self.faults if fault.kind in set(kinds)]
