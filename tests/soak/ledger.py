"""What the service has acknowledged, and what may have happened without an answer."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from dataclasses import dataclass, field

States = dict[str, set[int | None]]
"""By name, the seeds of what may be stored under it, None for nothing. More than one: the last change got no
answer, or an error that does not say whether it was carried out."""


@dataclass
class Stored:
    """Images or models of known content.

    A name belongs to one request at a time, so that the last answer says what is stored.
    """

    possible: States = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def add(self, name: str) -> None:
        """Add a name under which nothing is stored."""
        self.possible[name] = {None}

    def take(self, chance: random.Random, *, existing: bool | None = None) -> str | None:
        """Reserve a name that no request uses; None if there is none.

        `existing`: only a name under which something certainly is stored; with False, any other.
        """
        names = [
            name
            for name, seeds in self.possible.items()
            if name not in self._taken and existing in (None, None not in seeds and len(seeds) == 1)
        ]
        if not names:
            return None
        name = chance.choice(names)
        self._taken.add(name)
        return name

    def reserve(self, name: str) -> None:
        """Reserve a name that is new."""
        self._taken.add(name)

    def give_back(self, name: str) -> None:
        """End the reservation of a name."""
        self._taken.discard(name)

    def begin(self, name: str, after: int | None) -> None:
        """Note that a change was sent, which stores the content of seed `after`, or deletes it with None."""
        self.possible[name] = self.possible.get(name, {None}) | {after}

    def acknowledge(self, name: str, after: int | None) -> None:
        """Note that a change was acknowledged."""
        self.possible[name] = {after}

    def known(self, name: str) -> int | None:
        """Return the seed that is certainly stored under a name; None if there is none, or several."""
        seeds = self.possible[name]
        return next(iter(seeds)) if len(seeds) == 1 else None

    @property
    def count(self) -> int:
        """Number of names under which something may be stored."""
        return sum(seeds != {None} for seeds in self.possible.values())


@dataclass
class Ledger:
    """Everything that was acknowledged.

    `cut`: images of requests whose connections were cut, so that nothing about them is certain.
    `predictions`: by model, answers of routes that record a total. `uncertain`: by model, requests to those
    routes without an answer.
    """

    images: Stored = field(default_factory=Stored)
    cut: Stored = field(default_factory=Stored)
    models: Stored = field(default_factory=Stored)
    predictions: Counter[str] = field(default_factory=Counter)
    uncertain: Counter[str] = field(default_factory=Counter)
    seeds: itertools.count[int] = field(default_factory=lambda: itertools.count(1))
