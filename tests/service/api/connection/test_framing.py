"""Request framing: malformed framing is refused, and packet boundaries make no difference."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.api.connection.framing import (
    MAX_EXTENSION_BYTES,
    MAX_FIELDS,
    MAX_HEAD_BYTES,
    MAX_SMALL_CHUNKS,
    ChunkedBody,
    read_head,
)
from service.errors import HeadersTooLarge, MalformedRequest
from tests.helpers.wire import Application, converse, cut

HOST = b"Host: a\r\n"
NEXT = b"DELETE /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
IN_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def post(fields: bytes, body: bytes, version: bytes = b"1.1") -> bytes:
    return b"POST /x HTTP/" + version + b"\r\n" + HOST + fields + b"\r\n" + body


def get(line: bytes, fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


MALFORMED = {
    "length beside chunked": post(b"Content-Length: 5\r\n" + CHUNKED, IN_CHUNKS),
    "chunked beside length": post(CHUNKED + b"Content-Length: 5\r\n", IN_CHUNKS),
    "blank before the colon": post(b"Transfer-Encoding : chunked\r\n", IN_CHUNKS),
    "blank before the colon of length": post(b"Content-Length : 5\r\n", b"hello"),
    "xchunked": post(b"Transfer-Encoding: xchunked\r\n", IN_CHUNKS),
    "identity": post(b"Transfer-Encoding: identity\r\n", b"hello"),
    "chunked, identity": post(b"Transfer-Encoding: chunked, identity\r\n", IN_CHUNKS),
    "gzip, chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", IN_CHUNKS),
    "chunked, chunked": post(b"Transfer-Encoding: chunked, chunked\r\n", IN_CHUNKS),
    "chunked twice": post(CHUNKED * 2, IN_CHUNKS),
    "identity, then chunked": post(b"Transfer-Encoding: identity\r\n" + CHUNKED, IN_CHUNKS),
    "chunked in quotes": post(b'Transfer-Encoding: "chunked"\r\n', IN_CHUNKS),
    "chunked with a parameter": post(b"Transfer-Encoding: chunked;q=1\r\n", IN_CHUNKS),
    "comma before chunked": post(b"Transfer-Encoding: ,chunked\r\n", IN_CHUNKS),
    "empty transfer coding": post(b"Transfer-Encoding:\r\n", IN_CHUNKS),
    "vertical tab before chunked": post(b"Transfer-Encoding: \x0bchunked\r\n", IN_CHUNKS),
    "chunked in HTTP/1.0": post(CHUNKED, IN_CHUNKS, b"1.0"),
    "equal lengths": post(b"Content-Length: 5\r\nContent-Length: 5\r\n", b"hello"),
    "different lengths": post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello"),
    "list of lengths": post(b"Content-Length: 5, 5\r\n", b"hello"),
    "two lengths": post(b"Content-Length: 5 5\r\n", b"hello"),
    "length with a plus": post(b"Content-Length: +5\r\n", b"hello"),
    "negative length": post(b"Content-Length: -5\r\n", b"hello"),
    "hexadecimal length": post(b"Content-Length: 0x5\r\n", b"hello"),
    "length with underscore": post(b"Content-Length: 1_0\r\n", b"hello"),
    "empty length": post(b"Content-Length:\r\n", b"hello"),
    "length beyond 64 bits": post(b"Content-Length: 18446744073709551621\r\n", b"hello"),
    "folded field": get(b"GET / HTTP/1.1", HOST + b"X: 1\r\n 2\r\n"),
    "folded transfer coding": post(b"Transfer-Encoding:\r\n chunked\r\n", IN_CHUNKS),
    "folded into transfer coding": post(b"Transfer-Encoding: x\r\n\tchunked\r\n", IN_CHUNKS),
    "folded length": post(b"Content-Length:\r\n 5\r\n", b"hello"),
    "folded upgrade": get(b"GET / HTTP/1.1", HOST + b"X: 1\r\nUpgrade: h2c\r\n 2\r\n"),
    "field before the first": get(b"GET / HTTP/1.1", b" X: 1\r\n" + HOST),
    "chunk size 0x5": post(CHUNKED, b"0x5\r\nhello\r\n0\r\n\r\n"),
    "chunk size +5": post(CHUNKED, b"+5\r\nhello\r\n0\r\n\r\n"),
    "blank behind the chunk size": post(CHUNKED, b"5 \r\nhello\r\n0\r\n\r\n"),
    "blank before the chunk size": post(CHUNKED, b" 5\r\nhello\r\n0\r\n\r\n"),
    "empty chunk size": post(CHUNKED, b"\r\nhello\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": post(CHUNKED, b"10000000000000005\r\nhello\r\n0\r\n\r\n"),
    "no line end behind a chunk": post(CHUNKED, b"5\r\nhello0\r\n\r\n"),
    "other bytes behind a chunk": post(CHUNKED, b"5\r\nhelloXX0\r\n\r\n"),
    "LF behind the chunk size": post(CHUNKED, b"5\nhello\r\n0\r\n\r\n"),
    "LF behind a chunk": post(CHUNKED, b"5\r\nhello\n0\r\n\r\n"),
    "LF behind the last chunk": post(CHUNKED, b"5\r\nhello\r\n0\n\n"),
    "LF behind the trailers": post(CHUNKED, b"5\r\nhello\r\n0\r\n\n"),
    "LF in a chunk extension": post(CHUNKED, b"5;a\nhello\r\n0\r\n\r\n"),
    "quoted line end in a chunk extension": post(CHUNKED, b'5;a="\r\n"\r\nhello\r\n0\r\n\r\n'),
    "NUL in a chunk extension": post(CHUNKED, b"5;a\0\r\nhello\r\n0\r\n\r\n"),
    "length in the trailers": post(CHUNKED, b"0\r\nContent-Length: 5\r\n\r\nhello"),
    "malformed trailer": post(CHUNKED, b"0\r\nX\r\n\r\n"),
    "LF as line end": b"GET / HTTP/1.1\nHost: a\n\n",
    "LF behind a field": b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n",
    "LF behind the head": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "LF before the request line": b"\n" + get(b"GET / HTTP/1.1"),
    "CR in a value": get(b"GET / HTTP/1.1", HOST + b"X: 1\r2\r\n"),
    "CR CR LF": get(b"GET / HTTP/1.1", b"Host: a\r\r\n"),
    "NUL in a value": get(b"GET / HTTP/1.1", HOST + b"X: 1\x002\r\n"),
    "control character in a value": get(b"GET / HTTP/1.1", HOST + b"X: 1\x012\r\n"),
    "DEL in a value": get(b"GET / HTTP/1.1", HOST + b"X: 1\x7f2\r\n"),
    "NUL in a name": get(b"GET / HTTP/1.1", HOST + b"X\x00: 1\r\n"),
    "blank in a name": get(b"GET / HTTP/1.1", HOST + b"X Y: 1\r\n"),
    "byte above 127 in a name": get(b"GET / HTTP/1.1", HOST + b"X\xff: 1\r\n"),
    "empty name": get(b"GET / HTTP/1.1", HOST + b": 1\r\n"),
    "no colon": get(b"GET / HTTP/1.1", HOST + b"X\r\n"),
    "blank before the method": get(b" GET / HTTP/1.1"),
    "two blanks": get(b"GET  / HTTP/1.1"),
    "two blanks behind the target": get(b"GET /  HTTP/1.1"),
    "blank behind the version": get(b"GET / HTTP/1.1 "),
    "tab behind the method": get(b"GET\t/ HTTP/1.1"),
    "blank in the target": get(b"GET /a b HTTP/1.1"),
    "control character in the target": get(b"GET /\x01 HTTP/1.1"),
    "byte above 127 in the target": get(b"GET /\xff HTTP/1.1"),
    "fragment": get(b"GET /x#y HTTP/1.1"),
    "target without a slash": get(b"GET x HTTP/1.1"),
    "target of another scheme": get(b"GET ftp://a/x HTTP/1.1"),
    "target with a user": get(b"GET http://u@a/x HTTP/1.1"),
    "target of another host": get(b"GET http://b/x HTTP/1.1"),
    "star as target of GET": get(b"GET * HTTP/1.1"),
    "authority as target": get(b"GET a:80 HTTP/1.1"),
    "HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/0.9 in words": get(b"GET / HTTP/0.9"),
    "HTTP/1.10": get(b"GET / HTTP/1.10"),
    "HTTP/2.0": get(b"GET / HTTP/2.0"),
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http/1.1": get(b"GET / http/1.1"),
    "RTSP": get(b"GET / RTSP/1.0"),
    "ICE": get(b"SOURCE / ICE/1.0"),
    "method in lower case": get(b"get / HTTP/1.1"),
    "unknown method": get(b"FOO / HTTP/1.1"),
    "CONNECT": get(b"CONNECT a:80 HTTP/1.1", HOST + b"Content-Length: 5\r\n") + b"hello",
    "CONNECT with a path": get(b"CONNECT /x HTTP/1.1"),
    "no host": get(b"GET / HTTP/1.1", b""),
    "two hosts": get(b"GET / HTTP/1.1", HOST * 2),
    "host with a path": get(b"GET / HTTP/1.1", b"Host: a/b\r\n"),
    "host with a user": get(b"GET / HTTP/1.1", b"Host: u@a\r\n"),
    "host with a blank": get(b"GET / HTTP/1.1", b"Host: a b\r\n"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@pytest.mark.parametrize("raw", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_framing_gets_400_and_close(raw: bytes) -> None:
    whole = converse([raw + NEXT])
    assert (whole.seen, whole.statuses, whole.closed) == ([], [400], True)
    halves = converse([raw[: len(raw) // 2], raw[len(raw) // 2 :] + NEXT])
    assert (halves.seen, halves.statuses, halves.closed) == ([], [400], True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["length beside chunked", "folded into transfer coding", "no line end behind a chunk", "CONNECT"]
)
def test_malformed_framing_cut_at_every_byte(name: str) -> None:
    raw = MALFORMED[name] + NEXT
    for place in range(1, len(raw)):
        outcome = converse(cut(raw, [place]))
        assert (outcome.seen, outcome.statuses, outcome.closed) == ([], [400], True), place
    outcome = converse([raw[i : i + 1] for i in range(len(raw))])
    assert (outcome.seen, outcome.statuses, outcome.closed) == ([], [400], True)


OFFERS = (
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"connection: keep-alive, UPGRADE\r\nUPGRADE: WebSocket\r\n",
    b"Upgrade: TLS/1.0\r\nConnection: upgrade\r\n",
    b"Upgrade: h2c\r\nUpgrade: websocket\r\nConnection: upgrade\r\nConnection: upgrade\r\n",
    b"Upgrade:\r\nConnection: upgrade\r\n",
)
"""`Upgrade` fields and their companions."""


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_upgrade_field_does_not_change_the_body(offer: bytes, framing: str) -> None:
    body = (
        b"Content-Length: %d\r\n\r\n" % len(NEXT) + NEXT
        if framing == "length"
        else CHUNKED + b"\r\n%x\r\n" % len(NEXT) + NEXT + b"\r\n0\r\n\r\n"
    )
    one = b"POST /x HTTP/1.1\r\n" + HOST + offer + body
    raw = one + one + get(b"GET /last HTTP/1.1")
    for packets in ([raw], [raw[i : i + 1] for i in range(len(raw))], cut(raw, [raw.index(b"DELETE")])):
        outcome = converse(packets)
        assert [(seen.path, seen.body) for seen in outcome.seen] == [("/x", NEXT)] * 2 + [("/last", b"")]
        assert (outcome.statuses, outcome.closed) == ([200] * 3, False)


def test_trailer_fields_are_dropped() -> None:
    trailers = (
        b"Authorization: Bearer stolen\r\nHost: b\r\nUpgrade: h2c\r\nConnection: close, upgrade\r\n"
        b"Expect: 100-continue\r\n"
    )
    raw = post(CHUNKED + b"X-Kept: 1\r\n", b"5\r\nhello\r\n0\r\n" + trailers + b"\r\n") + get(
        b"GET /y HTTP/1.1"
    )
    for packets in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        outcome = converse(packets)
        first, second = outcome.seen
        assert first.headers == ((b"host", b"a"), (b"transfer-encoding", b"chunked"), (b"x-kept", b"1"))
        assert (first.body, second.path, outcome.closed) == (b"hello", "/y", False)


@pytest.mark.parametrize(
    ("raw", "target"),
    [
        (get(b"GET http://a/x?y=1 HTTP/1.1"), ("/x", b"y=1")),
        (get(b"GET HTTPS://A?y HTTP/1.1"), ("/", b"y")),
        (get(b"GET http://a HTTP/1.1"), ("/", b"")),
        (get(b"GET http://a:80/x HTTP/1.1"), ("/x", b"")),
        (get(b"OPTIONS * HTTP/1.1"), ("*", b"")),
        (get(b"GET //b/x HTTP/1.1"), ("//b/x", b"")),
        (get(b"GET /a%20b%FF?c%20d HTTP/1.1"), ("/a b\N{REPLACEMENT CHARACTER}", b"c%20d")),
        (b"\r\n\r\n" + get(b"GET /blank-lines HTTP/1.1"), ("/blank-lines", b"")),
        (get(b"GET / HTTP/1.1", b"Host: [::1]:8000\r\n"), ("/", b"")),
        (get(b"GET / HTTP/1.1", b"Host:\r\nX:\r\n"), ("/", b"")),
        (get(b"GET / HTTP/1.0", b""), ("/", b"")),
    ],
)
def test_unusual_but_valid_requests_are_served(raw: bytes, target: tuple[str, bytes]) -> None:
    outcome = converse([raw])
    assert [(seen.path, seen.query) for seen in outcome.seen] == [target]


@pytest.mark.parametrize(
    "body",
    [
        b"5;name=value\r\nhello\r\n0\r\n\r\n",
        b'5;a="b;c"\r\nhello\r\n0;last\r\n\r\n',
        b"00000000000000000005\r\nhello\r\n000\r\n\r\n",
        b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX: 1\r\n\r\n",
    ],
)
def test_unusual_but_valid_chunks_are_accepted(body: bytes) -> None:
    raw = post(CHUNKED, body) + get(b"GET /y HTTP/1.1")
    for packets in ([raw], [raw[i : i + 1] for i in range(len(raw))]):
        outcome = converse(packets)
        assert [(seen.path, seen.body) for seen in outcome.seen] == [("/x", b"hello"), ("/y", b"")]


def test_head_limits() -> None:
    fields = b"".join(b"X-%d: 1\r\n" % i for i in range(MAX_FIELDS - 1))
    assert converse([get(b"GET / HTTP/1.1", HOST + fields)]).statuses == [200]
    assert converse([get(b"GET / HTTP/1.1", HOST + fields + b"Y: 1\r\n")]).statuses == [431]
    long = get(b"GET / HTTP/1.1", HOST + b"X: " + b"x" * MAX_HEAD_BYTES + b"\r\n")
    for raw in (long, long[:-4]):  # also one that never ends
        outcome = converse(cut(raw, range(0, len(raw), 5000)))
        assert (outcome.statuses, outcome.closed) == ([431], True)


@pytest.mark.parametrize(
    "body",
    [
        b"1;" + b"x" * MAX_EXTENSION_BYTES,
        b"1;xxxxxxxxxxxxxxx\r\n.\r\n" * (MAX_EXTENSION_BYTES // 16 + 1),
        b"0\r\n" + b"X: 1\r\n" * (MAX_FIELDS + 1),
        b"0\r\n" + (b"X: " + b"x" * 10_000 + b"\r\n") * 7,
    ],
    ids=["extension", "extensions", "trailers", "trailer bytes"],
)
def test_chunked_body_limits(body: bytes) -> None:
    raw = post(CHUNKED, body)
    outcome = converse(cut(raw, range(0, len(raw), 5000)))
    assert (outcome.seen, outcome.statuses, outcome.closed) == ([], [431], True)


@pytest.mark.slow
def test_many_small_chunks_are_refused() -> None:
    line = b"1\r\na\r\n"
    small = ChunkedBody()
    small.take(line * MAX_SMALL_CHUNKS)
    with pytest.raises(
        MalformedRequest, match=r"65537 chunks for 65537 bytes of data \(allowed: 65536 chunks"
    ):
        small.take(line)
    for padded in (b"00000001\r\na\r\n", b"1;x\r\na\r\n"):
        with pytest.raises((MalformedRequest, HeadersTooLarge), match=r"chunks for|bytes of extensions"):
            ChunkedBody().take(padded * (MAX_SMALL_CHUNKS + 1))
    mixed = ChunkedBody()
    mixed.take(b"400000\r\n" + bytes(0x400000) + b"\r\n" + line * MAX_SMALL_CHUNKS + b"0\r\n\r\n")
    assert mixed.complete
    ChunkedBody().take((b"40\r\n" + bytes(64) + b"\r\n") * (MAX_SMALL_CHUNKS + 1))
    outcome = converse([post(CHUNKED, b""), *[line * 8192] * (MAX_SMALL_CHUNKS // 8192), line, IN_CHUNKS])
    assert (outcome.seen, outcome.statuses, outcome.closed) == ([], [400], True)


def test_errors_quote_the_given_value() -> None:
    with pytest.raises(MalformedRequest, match=r"request target: malformed \(given: 'x'; example"):
        read_head(get(b"GET x HTTP/1.1"))
    with pytest.raises(HeadersTooLarge, match=r"101 header fields \(limit: 100\)"):
        read_head(get(b"GET / HTTP/1.1", b"X: 1\r\n" * 101))
    with pytest.raises(MalformedRequest, match=r"malformed chunk size \(given: '0x5'\)"):
        ChunkedBody().take(b"0x5\r\n")


# Properties for any bytes: packet boundaries do not change the parsed requests, and h11 parses the same ones.

TOKENS = st.sampled_from(
    [b"Accept: */*\r\n", b"X-A:\t1 \r\n", b"Connection: keep-alive\r\n", *OFFERS, b"Expect: 100-continue\r\n"]
)
BODIES = st.one_of(st.binary(max_size=30), st.just(NEXT))


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    fields = HOST + b"".join(draw(st.lists(TOKENS, max_size=2, unique=True)))
    path = draw(st.sampled_from([b"/", b"/x?y=1", b"/early"]))
    kind = draw(st.sampled_from(["none", "length", "chunks"]))
    if kind == "none":
        return b"GET " + path + b" HTTP/1.1\r\n" + fields + b"\r\n"
    body = draw(BODIES)
    start = b"POST " + path + b" HTTP/1.1\r\n" + fields
    if kind == "length":
        return start + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunks = cut(body, draw(st.lists(st.integers(1, 30), max_size=2))) if body else []
    coded = b"".join(b"%x\r\n" % len(chunk) + chunk + b"\r\n" for chunk in chunks)
    trailer = draw(st.sampled_from([b"", b"X-T: 1\r\n"]))
    return start + CHUNKED + b"\r\n" + coded + b"0\r\n" + trailer + b"\r\n"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    raw = bytearray(b"".join(draw(st.lists(valid_requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(raw) - 1))
        raw[place : place + draw(st.integers(0, 2))] = draw(
            st.sampled_from([b"", b" ", b"\r", b"\n", b"\r\n", b"\0", b":", b"0", b"5", b",", b"\t", b"\xff"])
        )
    return bytes(raw)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(damaged(), st.lists(st.integers(1, 400), max_size=6))
def test_packet_boundaries_make_no_difference(raw: bytes, places: list[int]) -> None:
    whole = converse([raw])
    for packets in (cut(raw, places), [raw[i : i + 1] for i in range(len(raw))]):
        other = converse(packets)
        assert (other.seen, other.closed) == (whole.seen, whole.closed)
        if b"/early" not in raw:  # there it depends on time whether the response or the damage comes first
            assert other.statuses == whole.statuses


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(damaged())
def test_requests_equal_those_of_h11(raw: bytes) -> None:
    """Compared up to the first byte that either of the two refuses."""
    ours = [
        (seen.method, seen.path, seen.query, seen.body)
        for seen in converse([raw], application=Application(early=frozenset())).seen
    ]
    theirs = requests_by_h11(raw)
    common = min(len(ours), len(theirs))
    assert ours[:common] == theirs[:common]


def requests_by_h11(raw: bytes) -> list[tuple[str, str, bytes, bytes]]:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    complete = []
    request, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage) and request is not None:
                path, _, query = request.target.partition(b"?")
                complete.append((request.method.decode(), path.decode("latin-1"), query, body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                connection.start_next_cycle()
            else:
                return complete
    except h11.ProtocolError:
        return complete
