"""The faults: clients that break off, a full disk, a killed PostgreSQL, and a clock that is set."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable

from tests.helpers.disks import fill
from tests.soak.client import Request
from tests.soak.mix import CLASSIFIERS, Mix, photograph
from tests.soak.record import Fault, Record
from tests.soak.system import System

ABORTS, DISK, POSTGRES, CLOCK = KINDS = ("client aborts", "disk full", "PostgreSQL restarted", "clock set")

STEPS_S = (3600, -600, 86400, -3 * 86400)
"""Seconds by which the clock is set, in turn; it is set right again at the end of each fault."""
FURTHEST_S = max(STEPS_S)
"""How far in the future latencies can have been recorded."""
RECOVERED_S = 60.0
"""Longest time until the services say that they are not degraded any more."""
ABORTS_PER_S = 10
_CUT_SEEDS = range(10**9, 10**9 + 40)
"""Seeds of pictures in forms that are cut."""


class Faults:
    """Causes faults in turn, and notes in `record` when each began, ended and was recovered from."""

    def __init__(self, system: System, mix: Mix, record: Record, seed: int) -> None:
        self._system = system
        self._mix = mix
        self._record = record
        self._chance = random.Random(seed)
        self._count = 0
        self._kinds: dict[str, Callable[[Fault, float], Awaitable[None]]] = {
            ABORTS: self._aborts,
            DISK: self._full_disk,
            POSTGRES: self._no_database,
            CLOCK: self._set_clock,
        }

    async def next(self, seconds: float) -> Fault:
        """Cause the next fault for `seconds`, and wait until the services have recovered."""
        kind = KINDS[self._count % len(KINDS)]
        fault = Fault(kind, "", time.monotonic())
        self._record.faults.append(fault)
        await self._kinds[kind](fault, seconds)
        self._count += 1
        fault.ended = time.monotonic()
        while problems := await asyncio.to_thread(self._system.degraded):
            if time.monotonic() > fault.ended + RECOVERED_S:
                self._record.wrong.append(f"{kind}: not recovered after {RECOVERED_S:g} s: {problems}")
                break
            await asyncio.sleep(0.1)
        fault.recovered = time.monotonic()
        return fault

    async def _aborts(self, fault: Fault, seconds: float) -> None:
        cut = 0
        end = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < end:
                for _ in range(ABORTS_PER_S):
                    group.create_task(self._abort())
                cut += ABORTS_PER_S
                await asyncio.sleep(1)
        fault.what = f"{cut} connections cut"

    async def _abort(self) -> None:
        """Cut a connection in the middle of an upload, or of an answer."""
        replica, ledger = self._chance.choice(self._mix.replicas), self._mix.ledger
        kind = self._chance.choice(("classify", "put", "bulk", "page"))
        model = self._chance.choice(CLASSIFIERS)
        if kind == "classify":
            request = Request("POST", "/classify", f"?model={model}", photograph(self._chance.randrange(4)))
        elif kind == "put":
            name, seed = f"cut-{self._chance.randrange(20)}", next(ledger.seeds)
            request = self._mix.put_request(name, seed)
            ledger.cut.begin(name, seed)
        elif kind == "bulk":  # always the same pictures, so that the gallery does not grow
            seeds = self._chance.sample(_CUT_SEEDS, 2)
            names, request = self._mix.bulk_request(seeds)
            for name, seed in zip(names, seeds, strict=True):
                ledger.cut.begin(name, seed)
        else:
            request = Request("GET", self._chance.choice(("/dashboard", "/openapi.json", "/latency/history")))
        raw = request.encoded(replica.client.host)
        upload = bool(request.body) and self._chance.random() < 0.5
        sent = self._chance.randrange(len(raw)) if upload else len(raw)
        if kind == "classify" and not upload:
            ledger.uncertain[model] += 1
        # of an answer, nothing or its beginning is read before the connection is cut
        await replica.client.cut(raw, sent, read=0 if upload else self._chance.choice((0, 1, 2000)))

    async def _full_disk(self, fault: Fault, seconds: float) -> None:
        file = self._system.disk / "filling"
        try:
            await asyncio.to_thread(fill, file)
            fault.what = f"{file.stat().st_size / 1e6:.0f} MB filled"
            await asyncio.sleep(seconds)
        finally:
            file.unlink(missing_ok=True)

    async def _no_database(self, fault: Fault, seconds: float) -> None:
        fault.what = f"killed, started again after {seconds:.0f} s"
        await asyncio.to_thread(self._system.server.kill)
        try:
            await asyncio.sleep(seconds)
        finally:
            await asyncio.to_thread(self._system.server.start)

    async def _set_clock(self, fault: Fault, seconds: float) -> None:
        step = STEPS_S[self._count // len(KINDS) % len(STEPS_S)]
        fault.what = f"set by {step:+d} s, and back"
        self._system.clock.step(step)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._system.clock.step(0)
