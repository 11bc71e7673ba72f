"""Multipart forms: parameters as fields, unusual but valid syntax, refused forms."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.body.parts import MAX_HEADER_BYTES, MAX_HEADER_FIELDS, MAX_PREAMBLE_BYTES, Parts
from service.errors import MalformedRequest
from tests.helpers.problems import assert_problem

Fields = list[tuple[str, Any]]

FORM = "multipart/form-data; boundary=XX"


def form(*fields: tuple[str, str], image: bytes, first: bool = True) -> Fields:
    """Return the parts of a form, the image first or last."""
    parts: Fields = [(name, (None, value)) for name, value in fields]
    file = [("image", ("x.png", image))]
    return file + parts if first else parts + file


# Parameters as fields


@pytest.mark.parametrize("first", [True, False])
def test_parameters_as_form_fields(client: httpx.Client, png: bytes, first: bool) -> None:
    for query, fields in (
        ("", [("top_k", "2"), ("model", "tiny")]),
        ("?model=tiny", [("top_k", "2")]),
        ("?top_k=2&model=tiny", [("top_k", "2")]),
    ):
        answer = client.post(f"/classify{query}", files=form(*fields, image=png, first=first)).json()
        assert (answer["model"], len(answer["predictions"])) == ("tiny", 2)


def test_form_fields_on_every_image_route(client: httpx.Client, png: bytes) -> None:
    compared = client.post(
        "/compare", files=form(("models", "tiny"), ("repeat", "2"), ("top_k", "3"), image=png)
    )
    [result] = compared.json()["results"]
    assert (result["latency_ms"]["count"], len(result["predictions"])) == (2, 3)
    client.put("/gallery/images/one", content=png)
    client.put("/gallery/images/two", files=form(("metadata", '{"n": 2}'), image=png))
    found = client.post("/retrieve-similar", files=form(("k", "5"), ("where", '{"n": 2}'), image=png))
    assert [match["id"] for match in found.json()["matches"]] == ["two"]


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        ("/classify", "top_k", "many"),
        ("/classify", "top_k", "0"),
        ("/classify", "model", "none"),
        ("/compare", "models", "none"),
        ("/compare", "repeat", "51"),
        ("/compare", "mix_labels", "maybe"),
        ("/explain", "class_id", "10"),
        ("/explain", "over_image", "2"),
        ("/explain", "model", "none"),
        ("/retrieve-similar", "k", "0"),
        ("/retrieve-similar", "min_score", "nan"),
        ("/retrieve-similar", "where", "{"),
    ],
)
def test_form_field_validation(client: httpx.Client, png: bytes, path: str, name: str, value: str) -> None:
    as_query = client.post(path, params={name: value}, content=png)
    as_field = client.post(path, files=form((name, value), image=png))
    assert 400 <= as_query.status_code < 500
    ours, theirs = as_field.json(), as_query.json()
    assert {k: v for k, v in ours.items() if k != "request_id"} == {
        k: v for k, v in theirs.items() if k != "request_id"
    }


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/classify?top_k=1", [("top_k", "2")], ("top_k", "'1' in the query", "'2' in the form")),
        ("/classify", [("topk", "2")], ("unknown form field 'topk' (allowed: image, model, top_k)",)),
        ("/classify", [("top_k", "2"), ("top_k", "2")], ("form field 'top_k': given twice",)),
        ("/classify", [("model", "x" * 20_000)], ("form field 'model': 20000 bytes (limit: 16384)",)),
        ("/retrieve-similar", [("id", "x")], ("unknown form field 'id'", "min_score")),
    ],
)
def test_refused_form_fields(
    client: httpx.Client, png: bytes, path: str, fields: list[tuple[str, str]], words: tuple[str, ...]
) -> None:
    response = client.post(path, files=form(*fields, image=png))
    assert_problem(response, 422, "invalid-parameter", *words)


def test_files_and_binary_as_form_fields(client: httpx.Client, png: bytes) -> None:
    image = ("image", ("x.png", png))
    response = client.post("/classify", files=[image, ("model", ("model.txt", b"tiny"))])
    assert_problem(response, 422, "invalid-parameter", "form field 'model': sent as a file")
    response = client.post("/classify", files=[image, ("model", (None, b"caf\xe9"))])
    assert_problem(response, 422, "invalid-parameter", "form field 'model': not UTF-8")


@pytest.mark.parametrize("blank", ["", " ", "\r\n"])
@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/classify", ("model", "top_k")),
        ("/compare", ("models", "top_k", "repeat", "baseline", "mix_labels")),
        ("/retrieve-similar", ("k", "model", "min_score", "where")),
    ],
)
def test_empty_form_field(
    client: httpx.Client, png: bytes, path: str, names: tuple[str, ...], blank: str
) -> None:
    response = client.post(path, files=form(*((name, blank) for name in names), image=png))
    assert response.status_code == 200


def test_empty_form_field_with_query_parameter(client: httpx.Client, png: bytes) -> None:
    response = client.post("/classify?top_k=2", files=form(("top_k", ""), image=png))
    assert len(response.json()["predictions"]) == 2


def test_query_errors_precede_form_errors(client: httpx.Client) -> None:
    response = client.post("/classify?top_k=0", files={"photo": b"x"})
    assert_problem(response, 422, "invalid-parameter", "top_k")


def test_model_field_without_a_default_model(serve: Callable[..., httpx.Client], png: bytes) -> None:
    client = serve(default_model="gone")
    assert client.post("/classify", content=png).status_code == 404
    assert client.post("/classify", files=form(("model", "tiny"), image=png)).status_code == 200


def test_form_fields_in_openapi(openapi: dict[str, Any]) -> None:
    paths = openapi["paths"]

    def fields(path: str, method: str = "post") -> set[str]:
        content = paths[path][method]["requestBody"]["content"]["multipart/form-data"]
        return set(content["schema"]["properties"])

    assert fields("/classify") == {"image", "model", "top_k"}
    own = {"image", "models", "top_k", "repeat", "baseline", "mix_labels", "mix_tasks", "min_score"}
    assert fields("/compare") == own
    assert fields("/explain") == {"image", "model", "class_id", "over_image"}
    assert fields("/retrieve-similar") == {"image", "k", "model", "min_score", "where"}
    assert fields("/gallery/images/{id}", "put") == {"image", "metadata"}
    assert fields("/gallery/images") == {"image", "metadata"}


# Syntax


def part(header: bytes, data: bytes) -> bytes:
    return b"--XX\r\n" + header + b"\r\n\r\n" + data + b"\r\n"


END = b"--XX--"
ENCODING = b"\r\nContent-Transfer-Encoding: "
NAMED = b'Content-Disposition: form-data; name="image"; filename="x.png"'


def one(header: bytes, data: bytes, boundary: bytes = b"XX") -> bytes:
    """Return a form with one part named `image`, with `header` appended to the part header."""
    return (part(NAMED + header, data) + END).replace(b"--XX", b"--" + boundary)


def many(count: int) -> bytes:
    return b"".join(b"\r\nX-Trace-%d: abc" % i for i in range(count))


@pytest.mark.parametrize(
    ("content_type", "shape"),
    [
        (FORM, lambda png: b"This is a message in MIME format.\r\n" + one(b"", png)),
        (FORM, lambda png: b"\r\n\r\n- dashes --XX in --XXX\r\n--XXX\r\n" + one(b"", png)),
        (FORM, lambda png: b"x" * 60_000 + b"\r\n" + one(b"", png)),
        (FORM, lambda png: one(b"", png) + b"\r\nepilogue\r\n--XX\r\nnot: a part"),
        (FORM, lambda png: one(b"", png) + b" \t\r\n"),
        (FORM, lambda png: one(b"", png).replace(b"--XX\r\n", b"--XX \t\r\n", 1)),
        (FORM, lambda png: part(b"CONTENT-DISPOSITION:form-data;NAME=image", png) + END),
        (FORM, lambda png: one(b"; filename*=utf-8''k%C3%A4tzchen.png", png)),
        (FORM, lambda png: one(ENCODING + b"BINARY", png)),
        (FORM, lambda png: one(ENCODING + b"base64", base64.encodebytes(png))),
        (FORM, lambda png: one(ENCODING + b"Quoted-Printable", binascii.b2a_qp(png, istext=False))),
        (FORM, lambda png: one(many(MAX_HEADER_FIELDS - 1), png)),
        (FORM, lambda png: one(b"; filename=" + b"a" * 15_000, png)),
        ("multipart/form-data;charset=utf-8;boundary=XX;x=y", lambda png: one(b"", png)),
        ('Multipart/Form-Data; Boundary="X:X (1)/2"', lambda png: one(b"", png, b"X:X (1)/2")),
        ("multipart/form-data; boundary=" + "b" * 200, lambda png: one(b"", png, b"b" * 200)),
    ],
)
def test_unusual_but_valid_forms(
    client: httpx.Client, png: bytes, content_type: str, shape: Callable[[bytes], bytes]
) -> None:
    body = shape(png)
    response = client.post("/classify", content=body, headers={"Content-Type": content_type})
    assert response.status_code == 200, response.text
    assert response.json()["image"]["bytes"] == len(png)
    pieces = (body[i : i + 3] for i in range(0, len(body), 3))
    assert client.post("/classify", content=pieces, headers={"Content-Type": content_type}).status_code == 200


@pytest.mark.parametrize(
    ("content_type", "body", "word"),
    [
        (FORM, one(many(MAX_HEADER_FIELDS), b"x"), f"limit: {MAX_HEADER_FIELDS}"),
        (FORM, one(b"a" * MAX_HEADER_BYTES, b"x"), f"limit: {MAX_HEADER_BYTES} bytes"),
        (
            FORM,
            part(b'Content-Disposition: form-data;\r\n name="image"', b"x") + END,
            "a folded header field",
        ),
        (FORM, one(b'\r\nContent-Type: image/png;\r\n\tname="x"', b"x"), "a folded header field of a part"),
        (FORM, one(b"\r\nA : b", b"x"), "not a multipart form with the boundary of its content type"),
        (FORM, part(b"Content-Type: image/png", b"x") + END, "a part without a name"),
        (FORM, part(b"Content-Disposition: form-data; name*=utf-8''image", b"x") + END, "without a name"),
        (FORM, part(b'Content-Disposition: form-data; name=""', b"x") + END, "without a name"),
        (FORM, one(b"\r\n" + NAMED, b"x"), "two header fields 'content-disposition'"),
        (FORM, one(b"\r\nContent-Type: multipart/mixed; boundary=YY", b"x"), "multipart/mixed"),
        (FORM, one(ENCODING + b"x-uuencode", b"x"), "'x-uuencode' (allowed"),
        (FORM, one(ENCODING + b"base64", b"!!!!"), "is not valid base64"),
        (FORM, one(b"", b"x").replace(b"\r\n", b"\n"), "lines end in LF (allowed: CR LF)"),
        (FORM, one(b"", b"x", b"YY"), "the boundary of the content type is not in the body"),
        (FORM, b"x" * (MAX_PREAMBLE_BYTES + 10), "the boundary of the content type is not in the body"),
        (FORM, part(NAMED, b"x"), "ends before its closing boundary"),
        (FORM, b"", "the boundary of the content type is not in the body"),
        ("multipart/form-data", b"--\r\n", "no boundary"),
        ("multipart/form-data; boundary=", b"--\r\n", "no boundary"),
        ('multipart/form-data; boundary=""', b"--\r\n", "no boundary"),
        ("multipart/form-data; boundary=" + "b" * 300, b"--b--", "a boundary of 300 bytes (limit: 256)"),
        (FORM, part(NAMED, b"x") * 200 + END, "more than 100 parts"),
    ],
)
def test_malformed_forms(client: httpx.Client, content_type: str, body: bytes, word: str) -> None:
    response = client.post("/classify", content=body, headers={"Content-Type": content_type})
    assert_problem(response, 400, "malformed-request", word)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"image=%89PNG&model=tiny"),
        ("application/x-www-form-urlencoded; charset=UTF-8", b"image=x"),
        ("multipart/mixed; boundary=XX", one(b"", b"x")),
        ("multipart/related; boundary=XX", one(b"", b"x")),
        ("multipart/form-database; boundary=XX", one(b"", b"x")),
    ],
)
def test_bodies_that_are_forms(client: httpx.Client, content_type: str, body: bytes) -> None:
    response = client.post("/classify", content=body, headers={"Content-Type": content_type})
    media_type = content_type.partition(";")[0]
    assert_problem(response, 415, "unknown-image-type", media_type, "multipart/form-data", "'image'")


def test_image_with_urlencoded_content_type(client: httpx.Client, png: bytes) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/classify", content=png, headers=headers).status_code == 200


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.lists(st.integers(1, 300), max_size=4))
def test_preamble_is_skipped(preamble: bytes, places: list[int]) -> None:
    whole = preamble + b"\r\n" + part(NAMED, b"data") + b"--XX--\r\n"
    edges = [0, *sorted({place for place in places if place < len(whole)}), len(whole)]
    form = Parts(FORM, {"image": 100})
    for start, end in itertools.pairwise(edges):
        form.feed(whole[start:end])
    form.check_complete()
    assert [(found.name, found.data, found.file) for found in form.finished()] == [("image", b"data", True)]


def test_data_of_unknown_parts_is_discarded() -> None:
    form = Parts(FORM, {"image": 3})
    form.feed(part(NAMED, b"1234") + part(b"Content-Disposition: form-data; name=other", b"x") + b"--XX--")
    assert [(found.data, found.size) for found in form.finished()] == [(None, 4), (None, 1)]
    with pytest.raises(MalformedRequest, match="boundary"):
        Parts("multipart/form-data", {})
