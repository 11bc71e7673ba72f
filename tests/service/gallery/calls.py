"""The calls that tests of the gallery make, and what must hold for every answer."""

from __future__ import annotations

import json
from typing import Any

import httpx

from service.api.gallery_images import PutOut
from service.api.retrieve import RetrievalResponse


def put(client: httpx.Client, id: str, data: bytes, **metadata: object) -> dict[str, Any]:
    parameters = {"metadata": json.dumps(metadata)} if metadata else None
    response = client.put(f"/gallery/images/{id}", content=data, params=parameters)
    assert response.status_code in (200, 201), response.text
    PutOut.model_validate_json(response.content, strict=True)
    body: dict[str, Any] = response.json()
    assert (body["status"] == "added") == (response.status_code == 201)
    return body


def retrieve(client: httpx.Client, data: bytes, **parameters: object) -> list[dict[str, Any]]:
    response = client.post("/retrieve-similar", content=data, params=parameters)
    assert response.status_code == 200, response.text
    RetrievalResponse.model_validate_json(response.content, strict=True)
    matches: list[dict[str, Any]] = response.json()["matches"]
    assert matches == sorted(matches, key=lambda match: (-match["score"], match["id"]))
    return matches


def listed(client: httpx.Client, **parameters: object) -> list[str]:
    response = client.get("/gallery/images", params=parameters)
    assert response.status_code == 200, response.text
    return [image["id"] for image in response.json()["images"]]
