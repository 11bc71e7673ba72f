"""Expected contents of a gallery after faults: all acknowledged changes, and nothing incomplete."""

from __future__ import annotations

import hashlib
import itertools
import random
import threading
from typing import Any

import httpx

from tests.service.gallery.pictures import blobs


class Truth:
    """Puts and deletes images over HTTP, and knows for each id what may be there: a set of seeds of pictures,
    with None for no image. One that holds more than one was on its way when its connection broke.

    Each id belongs to one client at a time, so what was answered last is what is there.
    """

    def __init__(self, ids: int) -> None:
        self.possible: dict[str, set[int | None]] = {f"image-{number}": {None} for number in range(ids)}
        self.acknowledged = 0
        self.refused: list[int] = []
        self._seeds = itertools.count(1)
        self._lock = threading.Lock()

    def change(self, client: httpx.Client, id: str, chance: random.Random) -> httpx.Response:
        """Put a new picture under the id, or delete it. Raises httpx.TransportError."""
        delete = chance.random() < 0.35
        with self._lock:
            after = None if delete else next(self._seeds)
            before = self.possible[id]
            self.possible[id] = before | {after}
        if after is None:
            response = client.delete(f"/gallery/images/{id}")
            done = response.status_code in (204, 404)
        else:
            response = client.put(
                f"/gallery/images/{id}?metadata=%7B%22seed%22%3A{after}%7D", content=blobs(after, side=24)
            )
            done = response.status_code in (200, 201)
        with self._lock:
            if done:
                self.possible[id] = {after}
                self.acknowledged += 1
            else:
                self.refused.append(response.status_code)
        return response

    def check(self, client: httpx.Client) -> int:
        """Assert that the list, the bytes, the metadata and a search over all tell the same, and what was
        acknowledged; how many images there are."""
        listed = client.get("/gallery/images?limit=1000").raise_for_status().json()
        there: dict[str, Any] = {image["id"]: image for image in listed["images"]}
        for id, possible in self.possible.items():
            seed = there[id]["metadata"]["seed"] if id in there else None
            assert seed in possible, f"{id} is picture {seed}, and not one of {possible}"
            if len(possible) > 1 and seed is not None:
                content = client.get(f"/gallery/images/{id}/content").content
                assert content == blobs(seed, side=24)
                assert client.get(f"/gallery/images/{id}/thumbnail").status_code == 200
            if seed is not None:
                assert there[id]["sha256"] == hashlib.sha256(blobs(seed, side=24)).hexdigest()
            self.possible[id] = {seed}
        assert there.keys() <= self.possible.keys()
        assert listed["count"] == len(there)
        some = next(iter(there.values()), None)
        query = blobs(0 if some is None else some["metadata"]["seed"], side=24)
        response = client.post(f"/retrieve-similar?k={len(self.possible) + 10}", content=query)
        assert response.status_code == 200, response.text
        found = [match["id"] for match in response.json()["matches"]]
        missing, foreign = there.keys() - set(found), [id for id in found if id not in there]
        state = client.get("/gallery").json()
        if missing or foreign:
            raise AssertionError(f"not found: {missing}, found but not there: {foreign}; {state}")
        assert len(found) == len(there), "an image is found twice"
        if some is not None:
            assert response.json()["matches"][0]["score"] > 0.999
        return len(there)
