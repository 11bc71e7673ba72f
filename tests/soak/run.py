"""One run: capacity in a closed loop, then an open loop at a share of it with faults, then all checks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

import httpx

from tests.helpers.http_client import http_client
from tests.soak.check import documented, grown, left_over, lost, miscounted, undocumented
from tests.soak.client import Client
from tests.soak.faults import FURTHEST_S, Faults
from tests.soak.ledger import Ledger
from tests.soak.mix import CLASSIFIERS, DETECTORS, MOST_IMAGES, Mix, Networks, Replica, picture
from tests.soak.record import Record
from tests.soak.system import POOL, Sampler, System, running_system

SHARE = 0.7
"""Rate of the open loop as a share of capacity."""
CLIENTS = 16
"""Clients of the closed loop."""
BURST = 12
"""Requests of each of nine kinds at once, before anything is counted."""
BURSTS = 4
MOST_UNANSWERED = 400
SETTLE_S = 60.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to do. Times are in seconds."""

    minutes: float
    seed: int = 1
    replicas: int = 2

    @property
    def seconds(self) -> float:
        """Duration of the open loop."""
        return self.minutes * 60

    @property
    def fault_every_s(self) -> float:
        """From one fault to the next: a minute; less in short runs, so that each kind comes twice or more."""
        return min(60.0, self.seconds / 10)

    @property
    def fault_s(self) -> float:
        """Duration of a fault."""
        return self.fault_every_s / 4

    @property
    def baseline_s(self) -> float:
        """When the baseline of memory ends: after ten minutes; in short runs, after two fifths."""
        return min(600.0, 0.4 * self.seconds)

    @property
    def span_s(self) -> float:
        """Length of the spans in which memory is compared: the minute before the baseline, and the last."""
        return min(60.0, 0.2 * self.seconds)


@dataclass
class Result:
    """Figures and violations of a run."""

    plan: Plan
    record: Record
    ledger: Ledger
    capacity: float = 0
    rate: float = 0
    began: float = 0
    ended: float = 0
    resident: tuple[int, int] = (0, 0)
    threads: list[int] = field(default_factory=list)
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    stored: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)


def soak(plan: Plan, say: Say) -> Result:
    """Run everything; every process that was started has ended when this returns or raises."""
    with running_system(plan.replicas) as system:
        say(f"{plan.replicas} replicas and PostgreSQL run")
        result = asyncio.run(_soak(plan, system, say))
        result.violations += _logged(system)
    return result


async def _soak(plan: Plan, system: System, say: Say) -> Result:
    record, ledger = Record(), Ledger()
    result = Result(plan, record, ledger, threads=system.threads)
    replicas = [Replica(number, Client(each.port)) for number, each in enumerate(system.services)]
    mix = Mix(replicas, ledger, record, Networks(system.folder / "networks"), plan.seed)
    faults = Faults(system, mix, record, plan.seed)
    for service in system.services:
        with http_client(service.url) as client:
            routes = documented(client.get("/openapi.json").raise_for_status().json())
    await _burst(mix, system)
    result.capacity = await _closed_loop(mix, min(30.0, plan.seconds / 15))
    result.rate = SHARE * result.capacity
    say(f"capacity: {result.capacity:.1f} operations/s with {CLIENTS} clients; rate: {result.rate:.1f}/s")
    await mix.delete_models()
    result.before = await _settled(system, mix, None)
    record.seen.clear()  # what was answered before, at full load, is no part of the run
    sampler = Sampler(system.services, record.resident)
    sampler.start()
    result.began = time.monotonic()
    try:
        async with asyncio.TaskGroup() as group:
            load = group.create_task(_open_loop(mix, result.rate, plan))
            causing = group.create_task(_fault_after_fault(faults, plan, result.began))
            telling = group.create_task(_tell(result, system, say))
            await asyncio.wait({load, causing})
            telling.cancel()
    finally:
        sampler.stop()
        for replica in replicas:
            replica.client.close()
    result.ended = time.monotonic()
    say("traffic has stopped; checking")
    await asyncio.to_thread(_check_models, result, system)
    await mix.delete_models()  # each served model holds a file, and there were none before
    result.after = await _settled(system, mix, system.allowed(result.before))
    await asyncio.to_thread(_check, result, system, routes)
    return result


async def _burst(mix: Mix, system: System) -> None:
    """Use everything once, and then much at once, until the pools of connections have reached their size."""
    for name in ("put", "model", "compare", "explain", "detect", "add_many", "bad"):
        for _ in range(8):
            await mix.operations[name]()
    for _ in range(BURSTS):
        names = ("put", "classify", "search", "similar", "read", "list", "latency", "page", "other")
        await asyncio.gather(*(mix.operations[name]() for name in names * BURST))
        if system.sessions().total() >= POOL * len(system.services):
            break


async def _closed_loop(mix: Mix, seconds: float) -> float:
    """Return the operations per second of `CLIENTS` clients, after a fifth of the time as warm-up."""
    start = time.monotonic() + 0.2 * seconds
    end = start + 0.8 * seconds
    done = 0

    async def client() -> None:
        nonlocal done
        while time.monotonic() < end:
            await mix.one()
            done += start <= time.monotonic() < end

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return done / (end - start)


async def _open_loop(mix: Mix, rate: float, plan: Plan) -> None:
    """Start operations at Poisson times, whether earlier ones are answered or not."""
    gaps = random.Random(plan.seed + 1)
    tasks: set[asyncio.Task[None]] = set()
    due = time.monotonic()
    end = due + plan.seconds
    async with asyncio.TaskGroup() as group:
        while (due := due + gaps.expovariate(rate)) < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if len(tasks) >= MOST_UNANSWERED:
                mix.record.not_sent += 1
                continue
            task = group.create_task(mix.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def _fault_after_fault(faults: Faults, plan: Plan, began: float) -> None:
    """Cause a fault at the end of every period but the last."""
    for number in range(1, round(plan.seconds / plan.fault_every_s)):
        await asyncio.sleep(max(0.0, began + number * plan.fault_every_s - time.monotonic()))
        await faults.next(plan.fault_s)


async def _tell(result: Result, system: System, say: Say) -> None:
    """Say once a minute what has been answered in it, and stop the run if a service has ended."""
    told, minute = 0, 0
    while True:
        minute += 1
        while time.monotonic() < result.began + 60 * minute:
            await asyncio.sleep(1)
            if ended := system.ended():
                raise RuntimeError("; ".join(ended))
        seen = result.record.seen[told:]
        told += len(seen)
        errors = Counter(f"{each.status} {each.problem}" for each in seen if not each.expected)
        faults = [fault.kind for fault in result.record.faults if fault.began > time.monotonic() - 60]
        samples = result.record.resident
        memory = sum(samples[-1][1].values()) / 1e6 if samples else 0
        times = seen_ms(seen)
        say(
            f"minute {minute}: {len(seen)} answers, classify p50 {percentile(times, 50):.1f} ms, "
            f"p99 {percentile(times, 99):.0f} ms, {memory:.0f} MB; {', '.join(faults) or 'no fault'}; "
            + (", ".join(f"{count} × {what}" for what, count in errors.most_common(6)) or "no error")
        )


def seen_ms(seen: list[Any]) -> list[float]:
    """Return the durations of classifications that were answered."""
    return [each.ms for each in seen if each.route == "POST /classify" and each.status == 200]


def percentile(values: list[float], percent: int) -> float:
    """Return a percentile; 0 without values."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100, method="inclusive")[percent - 1]


async def _settled(system: System, mix: Mix, allowed: Counter[str] | None) -> Counter[str]:
    """Close all connections and count what the services hold when no more changes are to be expected.

    That is when there is no more than `allowed`, or after a while. Threads that wait for work end when others
    get some, so the services are asked for their health meanwhile.
    """
    for replica in mix.replicas:
        replica.client.close()
    began = time.monotonic()
    while True:
        await asyncio.to_thread(system.degraded)
        await asyncio.sleep(1)
        census = system.census()
        waited = time.monotonic() - began
        connected = any(count for kind, count in census.items() if kind.endswith("TCP connections"))
        if allowed is None and waited > 15 and not connected:
            return census
        if waited > SETTLE_S or (allowed is not None and not left_over(allowed, census)):
            return census


def _check_models(result: Result, system: System) -> None:
    """Add to `result` the own models that are not, at every replica, as they were acknowledged."""
    for number, service in enumerate(system.services):
        deadline = time.monotonic() + SETTLE_S
        with http_client(service.url) as client:
            while True:  # a replica learns of the changes of others after a while
                models = _stored_models(client, result.ledger.models.possible)
                wrong = lost(f"replica {number}: model", result.ledger.models.possible, models)
                if not wrong or time.monotonic() > deadline:
                    break
                time.sleep(1)
        result.violations += wrong
        result.stored[f"models of replica {number}"] = len(models)


def _check(result: Result, system: System, routes: dict[str, Any]) -> None:
    """Add all other figures and violations to `result`."""
    record, ledger, plan = result.record, result.ledger, result.plan
    found = result.violations
    baseline = result.began + plan.baseline_s
    end = result.began + plan.seconds
    before, after, wrong = grown(
        record.resident, (baseline - plan.span_s, baseline), (end - plan.span_s, end)
    )
    result.resident = before, after
    found += wrong
    found += left_over(system.allowed(result.before), result.after)
    found += undocumented(record, routes)
    found += [f"{what} ({count} times)" for what, count in Counter(record.wrong).items()]
    if record.not_sent:
        found.append(f"load: {record.not_sent} operations were not sent: {MOST_UNANSWERED} were unanswered")
    system.clock.step(FURTHEST_S + 600)  # what was recorded in the future is counted from then on
    with http_client(system.services[-1].url) as client:
        images = _stored_images(client)
        found += lost("image", ledger.images.possible | ledger.cut.possible, images)
        result.stored["images"] = len(images)
        found += _count_latencies(result, client)


def _stored_images(client: httpx.Client) -> dict[str, int | None]:
    """Return the seeds of all images in the gallery; None for an image with other bytes than its seed's."""
    found: dict[str, int | None] = {}
    listed = client.get(f"/gallery/images?limit={2 * MOST_IMAGES}").raise_for_status().json()
    assert listed["next_cursor"] is None, "more images than were ever stored"
    for image in listed["images"]:
        content = client.get(f"/gallery/images/{image['id']}/content").raise_for_status().content
        seed = image["metadata"].get("seed")
        found[image["id"]] = seed if content == picture(seed) else None
    return found


def _stored_models(client: httpx.Client, names: Any) -> dict[str, int | None]:
    """Return the versions of those of the models that are served, by their labels."""
    served = {model["name"] for model in client.get("/models").raise_for_status().json()["models"]}
    found: dict[str, int | None] = {}
    for name in served & set(names):
        answer = client.post(f"/classify?model={name}", content=picture(1)).raise_for_status().json()
        found[name] = int(answer["predictions"][0]["label"].split()[0])
    return found


def _count_latencies(result: Result, client: httpx.Client) -> list[str]:
    """Compare the counts of all replicas with the answers, as soon as all have written theirs."""
    wrong: list[str] = []
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        for model in (*CLASSIFIERS, *DETECTORS):
            answer = client.get(f"/latency?model={model}&stage=total&since=30d").raise_for_status().json()
            (result.counts[model],) = [row["count"] for row in answer["latencies"]]
        wrong = miscounted(result.counts, result.ledger.predictions, result.ledger.uncertain)
        if not wrong:
            break
        time.sleep(1)
    return wrong


def _logged(system: System) -> list[str]:
    """Find unexpected errors in the logs of the services."""
    return [
        f"replica {number} logged: {line.strip()[:200]} ... {line.strip()[-2000:]}"
        for number, service in enumerate(system.services)
        for line in service.process.lines
        if "Traceback" in line or "unexpected error" in line
    ]
