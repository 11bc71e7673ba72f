"""/evaluations and /recommend?data= over real sockets, with documents as the command posts them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from models.zoo.card import Card, read_card
from service.evaluation.result import Evaluation, Pair, from_json, to_json
from tests.helpers.problems import assert_problem
from tests.service.evaluation.evaluations import evaluation

Serve = Callable[..., httpx.Client]
N = 200
OFTEN = [i % 10 != 0 for i in range(N)]
RARELY = [i % 10 == 0 for i in range(N)]


@pytest.fixture
def cards(tiny_models_dir: Path) -> dict[str, Card]:
    return {name: read_card(tiny_models_dir / name) for name in ("tiny", "tiny-b")}


def post(client: httpx.Client, made: Evaluation, **headers: str) -> httpx.Response:
    return client.post(
        "/evaluations", content=to_json(made), headers={"Content-Type": "application/json", **headers}
    )


@pytest.mark.databases("sqlite", "postgresql")
def test_post_list_and_get(serve: Serve, cards: dict[str, Card]) -> None:
    client = serve()
    assert client.get("/evaluations").json() == {"evaluations": []}
    made = evaluation({"tiny": OFTEN}, cards=cards)
    response = post(client, made)
    assert response.status_code == 201, response.text
    assert response.headers["location"] == f"/evaluations/{made.id}"
    assert client.get("/evaluations").json() == {"evaluations": [response.json()]}
    assert response.json() == {
        "id": made.id, "name": "pets", "kind": "folder", "task": "image-classification", "pictures": N,
        "n": N, "classes": 2, "finished_at": "2026-11-29T12:00:00Z",
        "models": [{"name": "tiny", "labels": "tiny-10", "n": N, "value": 0.9, "low": 0.850594,
                    "high": 0.93433}],
    }  # fmt: skip
    whole = client.get(f"/evaluations/{made.id}")
    assert whole.headers["content-type"] == "application/json"
    assert from_json(whole.content) == made
    again = post(client, evaluation({"tiny-b": RARELY}, cards=cards))
    assert again.status_code == 200, again.text
    assert [model["name"] for model in again.json()["models"]] == ["tiny", "tiny-b"]
    [pair] = client.get(f"/evaluations/{made.id}").json()["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("tiny", "tiny-b", "first better")


def test_unknown_evaluation(serve: Serve) -> None:
    client = serve()
    assert_problem(client.get("/evaluations/none"), 404, "unknown-evaluation", "'none'")
    assert_problem(client.get("/recommend?data=none"), 404, "unknown-evaluation", "'none'")
    assert_problem(client.get("/evaluations?limit=0"), 422, "invalid-parameter", "limit")


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "evaluation: "), ("{}", "evaluation: id: Field required"), ("[1]", "evaluation: "), ("\xff", "")],
)
def test_what_is_no_evaluation(client: httpx.Client, content: str, words: str) -> None:
    response = client.post("/evaluations", content=content.encode("latin-1"))
    assert_problem(response, 422, "invalid-evaluation", words)


def test_pairs_are_those_of_the_models(serve: Serve, cards: dict[str, Card]) -> None:
    """What a document says of its pairs does not count."""
    client = serve()
    lie = Pair(
        first="tiny-b", second="tiny", difference=0.5, low=0.4, high=0.6, p=0.001, verdict="first better"
    )
    made = evaluation({"tiny": OFTEN, "tiny-b": RARELY}, cards=cards, pairs=[lie])
    assert post(client, made).status_code == 201
    [pair] = client.get(f"/evaluations/{made.id}").json()["pairs"]
    assert (pair["first"], pair["second"], pair["verdict"]) == ("tiny", "tiny-b", "first better")


def test_contradiction_is_refused(client: httpx.Client, cards: dict[str, Card]) -> None:
    document = json.loads(to_json(evaluation({"tiny": OFTEN}, cards=cards)))
    document["models"][0]["classification"]["top1"]["value"] = 0.99
    response = client.post("/evaluations", json=document)
    assert_problem(
        response, 422, "invalid-evaluation",
        "models.0.classification.top1: value of 180 of 200: is 0.99, but the counts give 0.9",
    )  # fmt: skip
    assert client.get("/evaluations").json() == {"evaluations": []}


def test_limits_and_rights(serve: Serve, cards: dict[str, Card]) -> None:
    made = evaluation({"tiny": OFTEN}, cards=cards)
    client = serve(api_key=SecretStr("open sesame"), max_body_bytes=len(to_json(made)))
    assert_problem(post(client, made), 401, "unauthorized", "key")
    key = {"Authorization": "Bearer open sesame"}
    too_long = client.post("/evaluations", content=to_json(made) + " ", headers=key)
    assert_problem(too_long, 413, "body-too-large", "limit")
    assert_problem(post(client, made, Origin="https://elsewhere.example", **key), 403, "cross-site-request")
    assert post(client, made, **key).status_code == 201
    assert len(client.get("/evaluations").json()["evaluations"]) == 1


def test_without_storage(serve: Serve, tmp_path: Path, cards: dict[str, Card]) -> None:
    (tmp_path / "file").write_text("in the way")
    client = serve(data_dir=tmp_path / "file" / "data", database_url=None)
    assert_problem(post(client, evaluation({"tiny": OFTEN}, cards=cards)), 507, "storage-unavailable")


def test_openapi_describes_the_body(openapi: dict[str, Any]) -> None:
    body = openapi["paths"]["/evaluations"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    name = body["$ref"].removeprefix("#/components/schemas/")
    assert set(Evaluation.model_fields) == set(openapi["components"]["schemas"][name]["properties"])


@pytest.mark.slow
@pytest.mark.databases("sqlite", "postgresql")
def test_recommend_by_own_pictures(serve: Serve, cards: dict[str, Card]) -> None:
    client = serve()
    made = evaluation({"tiny": RARELY, "tiny-b": OFTEN}, cards=cards)
    assert post(client, made).status_code == 201
    plain = client.get("/recommend").json()
    assert plain["data"] is None
    assert plain["accuracy_of"].startswith("accuracy is unknown: run `weighin evaluate --data FOLDER`")
    body = client.get("/recommend", params={"data": made.id}).json()
    assert (body["recommended"], body["data"], body["labels"]) == ("tiny-b", made.id, "tiny-10")
    assert body["accuracy_of"].startswith(
        "accuracy on 'pets', 200 pictures of 2 of the 10 classes of tiny-10 "
        "(not a figure for all of tiny-10): one half"
    )
    result = made.models[1].classification
    assert result is not None
    ranked, quoted = result.halves
    assert ranked is not None
    assert quoted is not None
    assert ranked.value != quoted.value
    accuracy = body["fits"][0]["accuracy"]
    assert accuracy.pop("how").startswith(f"on {quoted.n} pictures of 'pets' that the ranking did not use; ")
    assert accuracy == {
        "value": quoted.value, "low": quoted.low, "high": quoted.high, "kind": "evaluated",
        "ranked": ranked.value,
    }  # fmt: skip
    bounded = client.get("/recommend", params={"data": made.id, "min_accuracy": 0.5}).json()
    assert [fit["model"] for fit in bounded["fits"]] == ["tiny-b"]
    other_task = client.get("/recommend", params={"data": made.id, "task": "object-detection"})
    assert_problem(other_task, 422, "invalid-parameter", "(allowed: image-classification)")
    other_labels = client.get("/recommend", params={"data": made.id, "labels": "things"})
    assert_problem(other_labels, 422, "invalid-parameter", "(allowed: tiny-10)")
