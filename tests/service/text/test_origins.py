"""Parsing and comparison of origins."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.settings import Settings
from service.text.origins import is_own, parse_origin


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("https://app.example.org", "https://app.example.org"),
        ("HTTPS://App.Example.org/", "https://app.example.org"),
        ("https://app.example.org:443", "https://app.example.org"),
        ("http://app.example.org:80/", "http://app.example.org"),
        ("http://app.example.org:443", "http://app.example.org:443"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
        ("http://example.org.", "http://example.org"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_spellings_of_an_origin(text: str, normal: str) -> None:
    assert str(parse_origin(text)) == normal


INVALID_ORIGINS = [
    "null",
    "app.example.org",
    "https://",
    "https://app.example.org/path",
    "https://app.example.org//",
    "https://app.example.org?x",
    "https://user@app.example.org",
    "https://app.example.org:port",
    "https://app.example.org:70000",
    "https://*.example.org",
    "https://a b",
    "http://::1",
    "https:app.example.org",
]


@pytest.mark.parametrize("text", INVALID_ORIGINS)
def test_invalid_origin(text: str) -> None:
    assert parse_origin(text) is None


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://photos.example", "photos.example", True),
        ("http://photos.example", "photos.example:80", True),
        ("https://photos.example", "photos.example:443", True),
        ("https://photos.example", "PHOTOS.example", True),
        ("http://photos.example:8000", "photos.example:8000", True),
        ("http://photos.example", "photos.example.", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://photos.example", "photos.example:443", False),
        ("https://photos.example", "photos.example:80", False),
        ("http://photos.example:8000", "photos.example", False),
        ("http://photos.example", "photos.example:8000", False),
        ("http://photos.example.evil.example", "photos.example", False),
        ("http://evil.example", "photos.example", False),
        ("http://photos.example", "", False),
        ("http://photos.example", "photos.example:", True),
        ("http://::1", "::1", False),
    ],
)
def test_origin_against_host(origin: str, host: str, own: bool) -> None:
    parsed = parse_origin(origin)
    assert (parsed is not None and is_own(parsed, host)) == own


def test_origin_with_known_scheme() -> None:
    origin = parse_origin("http://photos.example")
    assert origin is not None
    assert is_own(origin, "photos.example", "http")
    assert not is_own(origin, "photos.example", "https")


@pytest.mark.parametrize("text", INVALID_ORIGINS)
def test_setting_with_invalid_origin(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is not an origin \(examples: https://app\.example\.org"):
        Settings(allowed_origins=f"https://fine.example,{text}")  # type: ignore[arg-type]


def test_allowed_origins_are_normalised() -> None:
    settings = Settings(allowed_origins=" HTTPS://App.Example.org/ ,http://b:80, ")  # type: ignore[arg-type]
    assert settings.allowed_origins == {"https://app.example.org", "http://b"}
    assert Settings(allowed_origins="*").allowed_origins == {"*"}  # type: ignore[arg-type]
