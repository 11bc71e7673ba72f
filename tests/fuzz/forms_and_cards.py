"""Generated multipart bodies with their content types, and mutated model cards."""

from __future__ import annotations

import json
import random
from typing import Any

_BOUNDARIES = (
    "b",
    "boundary",
    "----WebKitFormBoundary7MA4YWxkTrZu0gW",
    "=_?'()+,-./:",
    "x" * 70,
    "x" * 300,
    "--",
    "a b",
)
_NAMES = ("image", "metadata", "", "a" * 300, 'quo\\"ted', "im%0aage", "ímage", "image\\", "{}")
_NEWLINES = (b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b"\r\r\n")


def any_form(chance: random.Random) -> tuple[str, bytes]:
    """Return a content type and a body of zero to six parts; about half are valid."""
    boundary = chance.choice(_BOUNDARIES)
    sound = chance.random() < 0.4
    body = (
        b""
        if sound or chance.random() < 0.8
        else chance.choice((b"\r\n", b"preamble\r\n", b"-", b"\r\n\r\n"))
    )
    for _ in range(chance.choice((0, 1, 1, 2, 2, 3, 6))):
        line = b"\r\n" if sound else chance.choice(_NEWLINES)
        delimiter = b"--" + boundary.encode("latin-1")
        headers = _sound_headers(chance) if sound else _any_headers(chance, line)
        body += delimiter + line + line.join(headers) + line * 2 + _any_content(chance, delimiter) + line
    closing = b"--" + boundary.encode("latin-1") + b"--\r\n"
    body += (
        closing if sound else chance.choice((closing, closing, closing[:-2], closing[:-3], b"", closing * 2))
    )
    body += (
        b""
        if sound or chance.random() < 0.8
        else chance.choice((b"epilogue", b"\r\n\r\n", b"\0", b"--" + closing))
    )
    kind = f'multipart/form-data; boundary="{boundary}"'
    if not sound and chance.random() < 0.3:
        kind = chance.choice(
            (
                f"multipart/form-data; boundary={boundary}",
                f"multipart/form-data; charset=utf-8; BOUNDARY={boundary}; boundary=other",
                "multipart/form-data; boundary=",
                'multipart/form-data; boundary="',
                "multipart/form-data",
                "multipart/form-data;boundary*=utf-8''b%00",
                "multipart/form-data; boundary=" + "".join(chr(chance.randrange(256)) for _ in range(9)),
                "",
            )
        )
    return kind, body


def _sound_headers(chance: random.Random) -> list[bytes]:
    name = chance.choice(("image", "metadata", "other"))
    headers = [f'Content-Disposition: form-data; name="{name}"; filename="a.jpg"'.encode()]
    return headers + [b"Content-Type: image/jpeg"] * chance.randrange(2)


def _any_headers(chance: random.Random, line: bytes) -> list[bytes]:
    name = chance.choice(_NAMES).encode("latin-1")
    dispositions = (
        b'Content-Disposition: form-data; name="' + name + b'"',
        b"content-disposition:form-data;name=" + name,
        b"Content-Disposition: form-data; name*=utf-8''" + name,
        b"Content-Disposition: form-data; name*=''%ff; name=image",
        b"Content-Disposition: attachment; filename=" + chance.randbytes(8),
        b"Content-Disposition: " + b";" * chance.choice((1, 50, 3000)),
        b"Content-Disposition",
        b"",
    )
    others = (
        b"Content-Type: image/jpeg",
        b"Content-Transfer-Encoding: base64",
        b"X: " + b"y" * chance.choice((0, 100, 20_000)),
        b" folded: header",
        b": no name",
        b"Content-Disposition: form-data; name=image",
        chance.randbytes(6).replace(b"\n", b""),
        b"A: b" + line + b"\tcontinued",
    )
    headers = [chance.choice(dispositions[: chance.choice((1, 3, 8))])]
    return headers + [chance.choice(others) for _ in range(chance.choice((0, 0, 1, 1, 2, 9)))]


def _any_content(chance: random.Random, delimiter: bytes) -> bytes:
    content = b"".join(
        chance.choice(
            (
                chance.randbytes(chance.choice((0, 1, 10, 200))),
                b"\r\n",
                b"\r",
                b"\n",
                b"-",
                b"\r\n" + delimiter[: chance.randint(0, len(delimiter))],
                b"\r\n--",
                b"\r\r\n" + delimiter[:-1],
            )
        )
        for _ in range(chance.randrange(6))
    )
    return content * chance.choice((1, 1, 1, 40)) if chance.random() < 0.2 else content


_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3.5,
        -0.0,
        1e-320,
        1e308,
        10**20,
        10**400,
        -(10**400),
        2**63,
        0.1,
        1.0000000001,
    ),
    *(
        float("nan"),
        float("inf"),
        "",
        "x",
        "1",
        "\0",
        "\ud800",
        "é" * 70,
        "../x",
        "x" * 5000,
        "image-classification",
    ),
    *(
        [],
        [[]],
        [1],
        [0.5] * 5,
        {},
        {"": None},
        {"a": {"b": []}},
        "fp32",
        "int8",
        "measured",
        "inherited",
        "reported",
    ),
)


def any_card(chance: random.Random, seed: bytes) -> bytes:
    """Return a card with values changed, dropped, added or copied; rarely with deep nesting."""
    card = json.loads(seed)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        places = list(_places(card))
        holder, key = chance.choice(places)
        change = chance.choice(("value", "value", "value", "number", "number", "drop", "add", "copy"))
        if change == "value":
            holder[key] = chance.choice(_VALUES)
        elif change == "number":
            numbers = [place for place in places if type(place[0][place[1]]) in (int, float)]
            if numbers:
                holder, key = chance.choice(numbers)
                holder[key] = chance.choice((0, -1, 1, 10**400, 1e308, holder[key] * 2, holder[key] + 1, 0.5))
        elif change == "drop":
            del holder[key]
        elif change == "add" and isinstance(holder, dict):
            holder[chance.choice(("", "x", "robustness", "agreement", "derived_from", "retrieval"))] = (
                chance.choice(_VALUES)
            )
        elif change == "copy":
            other, other_key = chance.choice(places)
            if (other, other_key) != (holder, key):
                holder[key] = json.loads(json.dumps(other[other_key]))
    text = json.dumps(card, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
    if chance.random() < 0.02:
        deep = chance.choice((50, 300, 5000))
        text = text.replace(b'"notes"', b'"notes": ' + b"[" * deep + b"]" * deep + b', "notes"', 1)
    return text


def _places(node: Any) -> Any:
    """Yield (container, key) of every value of a JSON tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)
