"""The mix of requests: each operation sends one or two, checks the answers' content, and keeps the ledger."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from tests.conftest import TINY_CLASSES, make_tiny_model
from tests.helpers.photographs import astronaut, cat
from tests.service.gallery.pictures import blobs, encoded
from tests.soak.client import Answer, Client, NoAnswer, Request, form, parsed
from tests.soak.ledger import Ledger
from tests.soak.record import Record, Seen

CLASSIFIERS = (
    "efficientnet-lite0-int8",
    "efficientnet-lite0",
    "efficientnet-lite1-int8",
    "fashion-inverted-residual-int8",
)
DETECTORS = ("ssd-mobilenet-v2-int8", "centerface-int8")
KEY = "soak"
IMAGE_NAMES = 150
"""Names of images that are put, replaced and deleted."""
MOST_IMAGES = 400
"""From this number of stored images on, images are deleted rather than added."""
MODEL_NAMES = 4
MODEL_SEEDS = 5
"""Networks that take turns under the names of own models."""
LONGEST_S = 60.0
"""Without an answer after this time, a request counts as not answered."""
SIDE = 128
"""Pixels of a side of the gallery's images, of about 20 KB."""

_AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
_JSON = {"Accept": "application/json"}
_CLASSIFY, _DETECT = "POST /classify", "POST /detect"
_IMAGE, _CONTENT = "GET /gallery/images/{id}", "GET /gallery/images/{id}/content"
_PUT, _BULK, _DELETE = "PUT /gallery/images/{id}", "POST /gallery/images", "DELETE /gallery/images/{id}"
_SEARCH, _SIMILAR = "POST /retrieve-similar", "GET /gallery/images/{id}/similar"
_ADD, _REPLACE, _REMOVE = "POST /models", "PUT /models/{name}", "DELETE /models/{name}"
NO_ROUTE = "not in OpenAPI"
_UNLISTED = ("/dashboard/figures", "/docs")

MIX: dict[str, float] = {
    "classify": 38, "classify_form": 8, "detect": 6, "compare": 1, "explain": 1,
    "search": 7, "similar": 3, "put": 9, "add_many": 1, "delete": 7, "read": 5, "list": 2,
    "model": 0.4, "page": 3, "latency": 2.5, "other": 1.5, "bad": 5,
}  # fmt: skip
"""Shares of operations; `bad` is five percent of the whole."""


@lru_cache(8)
def photograph(number: int) -> bytes:
    """Return one of four JPEGs: two photographs in two sizes."""
    image = Image.fromarray((cat, astronaut)[number % 2]())
    return encoded(image if number < 2 else image.resize((1200, 900)), quality=88)


@lru_cache(2 * MOST_IMAGES)
def picture(seed: int) -> bytes:
    """Return the image of the gallery that belongs to a seed."""
    return blobs(seed, side=SIDE)


class Networks:
    """ONNX files of own models by seed, made in a folder when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @lru_cache(MODEL_SEEDS)  # noqa: B019
    def content(self, seed: int) -> bytes:
        """Return the ONNX file of a seed."""
        return (make_tiny_model(self._folder, f"network-{seed}", seed=seed) / "model.onnx").read_bytes()

    @staticmethod
    def labels(seed: int) -> bytes:
        """Return a file of labels that name the seed."""
        return "".join(f"{seed} {number}\n" for number in range(TINY_CLASSES)).encode()


@dataclass
class Replica:
    """One service, as its clients see it."""

    number: int
    client: Client


class Mix:
    """Operations on replicas. Answers go to `record`, what they acknowledge to `ledger`."""

    def __init__(
        self, replicas: list[Replica], ledger: Ledger, record: Record, networks: Networks, seed: int
    ) -> None:
        self.replicas = replicas
        self.ledger = ledger
        self.record = record
        self.chance = random.Random(seed)
        self._networks = networks
        for number in range(IMAGE_NAMES):
            ledger.images.add(f"put-{number}")
        for number in range(MODEL_NAMES):
            ledger.models.add(f"soak-{number}")

    @cached_property
    def operations(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """All operations by name."""
        return {name: getattr(self, f"_{name}") for name in MIX}

    async def one(self) -> None:
        """Carry out one operation, chosen at random."""
        (name,) = self.chance.choices(list(MIX), list(MIX.values()))
        await self.operations[name]()

    async def ask(
        self,
        route: str,
        request: Request,
        expected: set[int],
        *,
        replica: Replica | None = None,
        seconds: float = LONGEST_S,
    ) -> Answer | None:
        """Send a request, record its answer, and return it; None without an answer."""
        replica = replica or self.chance.choice(self.replicas)
        sent = time.monotonic()
        try:
            answer = await replica.client.ask(request, seconds=seconds)
        except NoAnswer as error:
            self.record.seen.append(Seen(route, sent, time.monotonic(), 0, str(error), False))
            return None
        good = answer.status in expected
        problem = answer.problem
        detail = "" if good else answer.detail
        seen = Seen(route, sent, time.monotonic(), answer.status, problem, good, detail)
        self.record.seen.append(seen)
        if answer.status >= 400 and not problem:
            self._wrong(route, f"status {answer.status} without a problem document: {answer.body[:200]!r}")
        if answer.status == 503 and "retry-after" not in answer.headers:
            self._wrong(route, "503 without Retry-After")
        if "x-request-id" not in answer.headers:
            self._wrong(route, f"status {answer.status} without X-Request-ID")
        return answer

    def _wrong(self, route: str, what: str) -> None:
        self.record.wrong.append(f"{route}: {what}")

    async def _predict(
        self, route: str, model: str, body: bytes, headers: dict[str, str], query: str
    ) -> None:
        path = route.split(" ")[1]
        self.ledger.uncertain[model] += 1
        answer = await self.ask(
            route, Request("POST", path, f"?model={model}{query}", body, headers | _JSON), {200}
        )
        if answer is None:
            return
        self.ledger.uncertain[model] -= 1
        if answer.status == 200:
            self.ledger.predictions[model] += 1
            if answer.json()["model"] != model:
                self._wrong(route, f"asked for {model}, answered by {answer.json()['model']}")

    async def _classify(self) -> None:
        await self._predict(
            _CLASSIFY, self.chance.choice(CLASSIFIERS), photograph(self.chance.randrange(4)), {}, "&top_k=3"
        )

    async def _classify_form(self) -> None:
        body, headers = form(("image", "a.jpg", photograph(self.chance.randrange(4))), ("top_k", "", b"3"))
        await self._predict(_CLASSIFY, self.chance.choice(CLASSIFIERS), body, headers, "")

    async def _detect(self) -> None:
        await self._predict(
            _DETECT, self.chance.choice(DETECTORS), photograph(self.chance.randrange(4)), {}, ""
        )

    async def _compare(self) -> None:
        query = f"?models={','.join(CLASSIFIERS[:3])}&top_k=1"
        await self.ask("POST /compare", Request("POST", "/compare", query, photograph(0)), {200})

    async def _explain(self) -> None:
        request = Request("POST", "/explain", f"?model={CLASSIFIERS[1]}", photograph(0), _JSON)
        await self.ask("POST /explain", request, {200})

    async def _search(self) -> None:
        """Search for a stored image, which nobody changes meanwhile: it must be found."""
        name = self.ledger.images.take(self.chance, existing=True)
        if name is None:
            return
        try:
            seed = self.ledger.images.known(name)
            assert seed is not None
            where = quote(json.dumps({"seed": {"gte": seed}})) if self.chance.random() < 0.3 else ""
            query = "?k=5" + (f"&where={where}" if where else "")
            answer = await self.ask(
                _SEARCH, Request("POST", "/retrieve-similar", query, picture(seed)), {200}
            )
            if answer is not None and answer.status == 200:
                found = [(each["id"], each["duplicate"]) for each in answer.json()["matches"]]
                if (name, "exact") not in found:
                    self._wrong(_SEARCH, f"{name} is stored, but found are {found}")
        finally:
            self.ledger.images.give_back(name)

    async def _similar(self) -> None:
        name = self.ledger.images.take(self.chance, existing=True)
        if name is None:
            return
        try:
            request = Request("GET", f"/gallery/images/{name}/similar", "?k=5")
            answer = await self.ask(_SIMILAR, request, {200})
            matches = answer.json()["matches"] if answer is not None and answer.status == 200 else []
            if name in [each["id"] for each in matches]:
                self._wrong(_SIMILAR, f"{name} is among its own matches")
        finally:
            self.ledger.images.give_back(name)

    async def _put(self) -> None:
        if self.ledger.images.count >= MOST_IMAGES:
            await self._delete()
            return
        name = self.ledger.images.take(self.chance)
        if name is None:  # all names are in requests that wait for their answers
            return
        try:
            await self.put(name, next(self.ledger.seeds))
        finally:
            self.ledger.images.give_back(name)

    async def put(self, name: str, seed: int) -> None:
        """Put the picture of `seed` under a reserved name."""
        request = self.put_request(name, seed)
        expected = {200, 201}
        if self.ledger.images.possible[name] == {None}:
            expected = {201}
        elif self.ledger.images.known(name) is not None:
            expected = {200}
        self.ledger.images.begin(name, seed)
        answer = await self.ask(_PUT, request, expected)
        if answer is not None and answer.status in (200, 201):
            self.ledger.images.acknowledge(name, seed)
            if answer.json()["sha256"] != sha256(picture(seed)).hexdigest():
                self._wrong(_PUT, f"{name}: stored other bytes: {answer.body[:200]!r}")

    def put_request(self, name: str, seed: int) -> Request:
        """Return the request that puts the picture of `seed`, as a raw body or a form."""
        metadata = json.dumps({"seed": seed, "label": f"label-{seed % 7}"})
        path, body = f"/gallery/images/{name}", picture(seed)
        if seed % 2:
            return Request("PUT", path, f"?metadata={quote(metadata)}", body, _AUTHORIZED)
        body, headers = form(("metadata", "", metadata.encode()), ("image", "a.png", body))
        return Request("PUT", path, "", body, headers | _AUTHORIZED)

    def bulk_request(self, seeds: list[int]) -> tuple[list[str], Request]:
        """Return the request that adds the pictures of `seeds`, and the ids that they get."""
        parts = []
        for seed in seeds:
            parts.append(("metadata", "", json.dumps({"seed": seed}).encode()))
            parts.append(("image", f"{seed}.png", picture(seed)))
        body, headers = form(*parts)
        names = [sha256(picture(seed)).hexdigest()[:32] for seed in seeds]
        return names, Request("POST", "/gallery/images", "", body, headers | _AUTHORIZED)

    async def _add_many(self) -> None:
        if self.ledger.images.count >= MOST_IMAGES:
            await self._delete()
            return
        seeds = [next(self.ledger.seeds) for _ in range(3)]
        names, request = self.bulk_request(seeds)
        for name, seed in zip(names, seeds, strict=True):
            self.ledger.images.reserve(name)
            self.ledger.images.begin(name, seed)
        try:
            answer = await self.ask(_BULK, request, {200})
            if answer is None or answer.status != 200:
                return
            for name, seed, image in zip(names, seeds, answer.json()["images"], strict=True):
                if image["status"] == "rejected":
                    now = time.monotonic()
                    self.record.seen.append(Seen(_BULK, now, now, 200, "rejected", False, image["detail"]))
                elif image["id"] == name:
                    self.ledger.images.acknowledge(name, seed)
                else:
                    self._wrong(_BULK, f"{name}: {image}")
        finally:
            for name in names:
                self.ledger.images.give_back(name)

    async def _delete(self) -> None:
        name = self.ledger.images.take(self.chance, existing=self.chance.random() < 0.9)
        if name is None:
            return
        images = self.ledger.images
        try:
            expected = {204} if images.known(name) is not None else {204, 404}
            if images.possible[name] == {None}:
                expected = {404}
            images.begin(name, None)
            request = Request("DELETE", f"/gallery/images/{name}", headers=_AUTHORIZED)
            answer = await self.ask(_DELETE, request, expected)
            if answer is not None and answer.status in (204, 404):
                images.acknowledge(name, None)
        finally:
            images.give_back(name)

    async def _read(self) -> None:
        name = self.ledger.images.take(self.chance, existing=True)
        if name is None:
            return
        try:
            seed = self.ledger.images.known(name)
            assert seed is not None
            part = self.chance.choice(("/content", "/thumbnail", ""))
            answer = await self.ask(_IMAGE + part, Request("GET", f"/gallery/images/{name}{part}"), {200})
            if answer is not None and answer.status == 200:
                if part == "/content" and answer.body != picture(seed):
                    self._wrong(_CONTENT, f"{name}: other bytes than were stored")
                if part == "" and answer.json()["metadata"]["seed"] != seed:
                    self._wrong(_IMAGE, f"{name}: metadata of another image: {answer.body[:200]!r}")
        finally:
            self.ledger.images.give_back(name)

    async def _list(self) -> None:
        where = quote(json.dumps({"label": f"label-{self.chance.randrange(7)}"}))
        query = self.chance.choice(("?limit=50", f"?limit=100&where={where}"))
        await self.ask("GET /gallery/images", Request("GET", "/gallery/images", query), {200})

    async def _model(self) -> None:
        """Add, replace or delete an own model, and classify with it: its labels name its version."""
        models = self.ledger.models
        name = models.take(self.chance)
        if name is None:
            return
        replica = self.replica_of(name)
        try:
            if models.possible[name] != {None} and self.chance.random() < 0.3:
                await self._remove_model(name, replica)
            else:
                await self._store_model(name, replica)
            await self._classify_with(name, replica)
        finally:
            models.give_back(name)

    def replica_of(self, name: str) -> Replica:
        """Return the replica to which all requests for an own model go."""
        return self.replicas[int(name.rpartition("-")[2]) % len(self.replicas)]

    async def _store_model(self, name: str, replica: Replica) -> None:
        models, seed = self.ledger.models, self.chance.randrange(1, MODEL_SEEDS + 1)
        body, headers = form(
            ("model", f"{name}.onnx", self._networks.content(seed)),
            ("labels", "labels.txt", self._networks.labels(seed)),
        )
        new = models.possible[name] == {None}
        add = new and self.chance.random() < 0.5
        expected = {201} if new else {200} if models.known(name) is not None else {200, 201}
        models.begin(name, seed)
        route, method = (_ADD, "POST") if add else (_REPLACE, "PUT")
        path = "/models" if add else f"/models/{name}"
        request = Request(method, path, "?preset=raw", body, headers | _AUTHORIZED)
        answer = await self.ask(route, request, expected, replica=replica)
        if answer is not None and answer.status in (200, 201):
            models.acknowledge(name, seed)

    async def _remove_model(self, name: str, replica: Replica) -> None:
        models = self.ledger.models
        expected = {204} if models.known(name) is not None else {204, 404}
        models.begin(name, None)
        request = Request("DELETE", f"/models/{name}", headers=_AUTHORIZED)
        answer = await self.ask(_REMOVE, request, expected, replica=replica)
        if answer is not None and answer.status in (204, 404):
            models.acknowledge(name, None)

    async def delete_models(self) -> None:
        """Delete all own models that may be there."""
        for name, seeds in self.ledger.models.possible.items():
            if seeds != {None}:
                await self._remove_model(name, self.replica_of(name))

    async def _classify_with(self, name: str, replica: Replica) -> None:
        possible = self.ledger.models.possible[name]
        expected = {404 if seed is None else 200 for seed in possible}
        request = Request("POST", "/classify", f"?model={name}", photograph(0), _JSON)
        answer = await self.ask(_CLASSIFY, request, expected, replica=replica)
        if answer is not None and answer.status == 200:
            seed = int(answer.json()["predictions"][0]["label"].split()[0])
            if seed not in possible:
                self._wrong(_CLASSIFY, f"{name} is version {seed}, and not one of {possible}")

    async def _page(self) -> None:
        page = self.chance.choice(
            ("/", "/dashboard", "/dashboard", "/dashboard/benchmarks", "/docs", "figures")
        )
        if page == "figures":
            await self.ask(NO_ROUTE, Request("GET", "/dashboard/figures"), {200})
        elif page == "/docs":
            await self.ask(NO_ROUTE, Request("GET", "/docs"), {200})
        elif page == "/dashboard" and self.chance.random() < 0.5:
            query = f"?model={self.chance.choice(CLASSIFIERS)}"
            await self.ask("GET /dashboard", Request("GET", page, query), {200})
        else:
            await self.ask(f"GET {page}", Request("GET", page), {200})

    async def _latency(self) -> None:
        model = self.chance.choice(CLASSIFIERS)
        path, query = self.chance.choice(
            (
                ("/latency", "?since=1h"),
                ("/latency", f"?model={model}&version=all"),
                ("/latency/history", f"?model={model}&since=15m&step=1m"),
                ("/latency/distribution", f"?model={model}"),
            )
        )
        await self.ask(f"GET {path}", Request("GET", path, query), {200})

    async def _other(self) -> None:
        path = self.chance.choice(
            ("/models", "/metrics", "/healthz", "/readyz", "/gallery", "/benchmarks", "/evaluations")
        )
        await self.ask(f"GET {path}", Request("GET", path), {200})

    async def _bad(self) -> None:
        route, request, expected = self.chance.choice(self._bad_requests)
        if route is None:
            await self._half_a_body()
        else:
            await self.ask(route, request, expected)

    @cached_property
    def _bad_requests(self) -> list[tuple[str | None, Request, set[int]]]:
        jpeg = photograph(0)
        multipart = {"Content-Type": "multipart/form-data; boundary=x"}
        noise = np.random.default_rng(0).bytes(3000)
        broken = form(("model", "net.onnx", noise), ("labels", "labels.txt", self._networks.labels(1)))
        nested = quote(json.dumps({"a": {"b": 1}}))
        return [
            (_CLASSIFY, Request("POST", "/classify", body=jpeg[: len(jpeg) // 3]), {422}),
            (_CLASSIFY, Request("POST", "/classify", body=noise), {415}),
            (_CLASSIFY, Request("POST", "/classify"), {422}),
            (_CLASSIFY, Request("POST", "/classify", "?top_k=0", jpeg), {422}),
            (_CLASSIFY, Request("POST", "/classify", "?topk=3", jpeg), {422}),
            (_CLASSIFY, Request("POST", "/classify", "?model=unknown", jpeg), {404}),
            (_CLASSIFY, Request("POST", "/classify", f"?model={DETECTORS[0]}", jpeg), {409}),
            (_CLASSIFY, Request("POST", "/classify", "", b"--x\r\n", multipart), {400}),
            (_DETECT, Request("POST", "/detect", "?min_score=2", jpeg), {422}),
            ("POST /compare", Request("POST", "/compare", f"?models={CLASSIFIERS[0]},unknown", jpeg), {404}),
            (_SEARCH, Request("POST", "/retrieve-similar", "?k=0", jpeg), {422}),
            ("GET /gallery/images", Request("GET", "/gallery/images", "?where=no"), {422}),
            (_PUT, Request("PUT", "/gallery/images/bad", "", noise, _AUTHORIZED), {415}),
            (_PUT, Request("PUT", "/gallery/images/bad", f"?metadata={nested}", jpeg, _AUTHORIZED), {422}),
            (_PUT, Request("PUT", "/gallery/images/bad", "", jpeg), {401}),
            (_IMAGE, Request("GET", "/gallery/images/none"), {404}),
            (_ADD, Request("POST", "/models", "?name=bad", broken[0], broken[1] | _AUTHORIZED), {422}),
            (_REMOVE, Request("DELETE", f"/models/{CLASSIFIERS[0]}", headers=_AUTHORIZED), {409}),
            ("GET /latency", Request("GET", "/latency", "?since=yesterday"), {422}),
            (NO_ROUTE, Request("GET", "/nothing/here"), {404}),
            (NO_ROUTE, Request("DELETE", "/classify"), {405}),
            *[(None, Request("GET", "/"), set())] * 5,
        ]

    async def _half_a_body(self) -> None:
        """Send half of a body, and close the sending side or the whole connection."""
        replica = self.chance.choice(self.replicas)
        path = self.chance.choice(("/classify", "/gallery/images/bad"))
        route = _CLASSIFY if path == "/classify" else _PUT
        method = route.split(" ")[0]
        raw = Request(method, path, "", photograph(0), _AUTHORIZED).encoded(replica.client.host)
        sent = time.monotonic()
        try:
            received = await replica.client.cut(raw, len(raw) // 2, reset=self.chance.random() < 0.5)
        except OSError as error:
            self.record.seen.append(Seen(route, sent, time.monotonic(), 0, repr(error), False))
            return
        if received:
            answer = parsed(received)
            good = 400 <= answer.status < 500
            seen = Seen(route, sent, time.monotonic(), answer.status, answer.problem, good, answer.detail)
            self.record.seen.append(seen)
