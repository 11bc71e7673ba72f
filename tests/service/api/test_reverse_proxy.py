"""URL prefix and trusted proxies: links, redirects, same-origin check."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urljoin

import httpx
import pytest
from pydantic import ValidationError

from service.app import create_app
from service.errors import InvalidParameter
from service.settings import Settings
from tests.helpers.problems import assert_problem
from tests.helpers.wire import ask, responses

Serve = Callable[..., httpx.Client]

PUBLIC = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "photos.example",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-Prefix": "/weighin",
}

LOOPBACK = frozenset({"127.0.0.0/8"})


@pytest.fixture(scope="module")
def prefixed(serve_for_module: Serve) -> httpx.Client:
    """Return a client of a service under a prefix that trusts no proxy."""
    return serve_for_module(root_path="/weighin")


@pytest.fixture(scope="module")
def trusting(serve_for_module: Serve) -> httpx.Client:
    """Return a client of a service that trusts proxies on the loopback interface."""
    return serve_for_module(trusted_proxies=LOOPBACK)


@pytest.fixture(scope="module")
def wary(serve_for_module: Serve) -> httpx.Client:
    """Return a client of a service that trusts a proxy at another address."""
    return serve_for_module(trusted_proxies=frozenset({"192.0.2.1/32"}))


def addresses(page: str) -> set[str]:
    found = re.findall(r"""(?:src|href|action)=["']([^"'#]+)["']|url: '([^']+)'""", page)
    return {one or other for one, other in found}


@pytest.mark.parametrize("stripped", [True, False])
@pytest.mark.parametrize("page", ["/", "/dashboard", "/dashboard/benchmarks", "/docs"])
def test_links_of_pages_have_the_prefix(prefixed: httpx.Client, page: str, stripped: bool) -> None:
    client = prefixed
    prefix = "" if stripped else "/weighin"
    response = client.get(prefix + page)
    assert response.status_code == 200
    found = addresses(response.text)
    assert len(found) >= 3
    for address in found:
        public = urljoin(f"https://photos.example/weighin{page}", address)
        assert public.startswith("https://photos.example/weighin/"), address
        path = public.removeprefix("https://photos.example")
        if "/static" in path:
            assert client.get(path.removeprefix("/weighin") if stripped else path).status_code == 200


def test_scripts_use_relative_urls(client: httpx.Client) -> None:
    style = next(a for a in addresses(client.get("/").text) if a.endswith("weighin.css"))
    for name in ("api", "benchmarks", "dashboard", "maps", "playground", "similar", "charts", "sources"):
        script = client.get(urljoin("/", style.replace("weighin.css", f"{name}.js")))
        assert script.status_code == 200
        assert not re.search(r"""["'`]/[a-z]""", script.text), name


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "/weighin"])
def test_links_in_json_have_the_prefix(prefixed: httpx.Client, png: bytes, prefix: str) -> None:
    client = prefixed
    put = client.put(f"{prefix}/gallery/images/a", content=png).json()
    listed = client.get(f"{prefix}/gallery/images").json()["images"][0]
    match = client.post(f"{prefix}/retrieve-similar", content=png).json()["matches"][0]
    one = client.get(f"{prefix}/gallery/images/a").json()
    for image in (put, listed, match, one):
        assert image["image_url"] == "/weighin/gallery/images/a/content"
    assert client.get("/weighin/gallery/images/a/content").content == png
    assert client.get(f"{prefix}/openapi.json").json()["servers"] == [{"url": "/weighin"}]
    started = client.post(f"{prefix}/benchmarks", json={"models": ["none"]})
    assert_problem(started, 404, "unknown-model")


def test_redirect_from_prefix_without_slash(prefixed: httpx.Client) -> None:
    client = prefixed
    response = client.get("/weighin")
    assert (response.status_code, response.headers["location"]) == (308, "/weighin/")
    assert client.get("/weighin?model=a%20b&x").headers["location"] == "/weighin/?model=a%20b&x"
    assert client.get("/weighin/").status_code == 200
    assert client.get("/weighinn").status_code == 404
    assert client.post("/weighin").status_code in (404, 405)


@pytest.mark.slow
def test_no_prefix(client: httpx.Client, png: bytes) -> None:
    client.put("/gallery/images/a", content=png)
    assert client.get("/gallery/images/a", headers=PUBLIC).json()["image_url"] == "/gallery/images/a/content"
    assert "servers" not in client.get("/openapi.json", headers=PUBLIC).json()
    assert client.get("/weighin/healthz").status_code == 404


@pytest.mark.slow
def test_prefix_of_a_trusted_proxy(trusting: httpx.Client, serve: Serve, png: bytes) -> None:
    client = trusting
    client.put("/gallery/images/a", content=png)
    for prefix in ("/weighin", "weighin/", "/weighin, /other"):
        found = client.get("/gallery/images/a", headers=PUBLIC | {"X-Forwarded-Prefix": prefix}).json()
        assert found["image_url"] == "/weighin/gallery/images/a/content"
    for prefix in ("", "//evil.example", "/a/../b", "https://evil.example", "/a b"):
        found = client.get("/gallery/images/a", headers=PUBLIC | {"X-Forwarded-Prefix": prefix}).json()
        assert "evil" not in found["image_url"] or found["image_url"].startswith("/evil.example/")
        assert not found["image_url"].startswith("//")
    fixed = serve(trusted_proxies=LOOPBACK, root_path="/fixed")
    assert fixed.get("/openapi.json", headers=PUBLIC).json()["servers"] == [{"url": "/fixed"}]


def dashboard_address(client: httpx.Client, headers: dict[str, str]) -> str:
    found = re.search(r"https?://[^\s<'\"]+/classify", client.get("/dashboard", headers=headers).text)
    assert found is not None
    return found.group().removesuffix("/classify")


def test_scheme_and_host_of_trusted_proxies_only(trusting: httpx.Client, wary: httpx.Client) -> None:
    assert dashboard_address(trusting, PUBLIC) == "https://photos.example/weighin"
    assert dashboard_address(wary, PUBLIC) == str(wary.base_url).rstrip("/")
    malformed = {"X-Forwarded-Proto": "gopher", "X-Forwarded-Host": "a/b <script>"}
    assert dashboard_address(trusting, malformed) == str(trusting.base_url).rstrip("/")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://photos.example", 200),
        ("https://PHOTOS.example:443", 200),
        ("http://photos.example", 403),
        ("https://photos.example:8443", 403),
        ("https://evil.example", 403),
        ("null", 403),
    ],
)
def test_same_origin_check_behind_a_proxy(
    trusting: httpx.Client, png: bytes, origin: str, status: int
) -> None:
    response = trusting.post("/classify", content=png, headers=PUBLIC | {"Origin": origin})
    assert response.status_code == status


def test_forwarded_host_of_an_untrusted_client(wary: httpx.Client, png: bytes) -> None:
    client = wary
    headers = PUBLIC | {"Origin": "https://photos.example"}
    assert_problem(client.post("/classify", content=png, headers=headers), 403, "cross-site-request")


def test_full_queue_under_a_prefix(serve: Serve, png: bytes) -> None:
    client = serve(root_path="/weighin", max_waiting=0)
    assert client.post("/weighin/classify", content=png).status_code == 200
    assert client.post("/classify", content=png).status_code == 200


@pytest.mark.parametrize(
    ("given", "normal"),
    [("", ""), ("/", ""), ("/weighin", "/weighin"), ("weighin/", "/weighin"), ("/a/b/", "/a/b")],
)
def test_spellings_of_a_prefix(given: str, normal: str) -> None:
    assert Settings(root_path=given).root_path == normal


@pytest.mark.parametrize(
    "given", ["https://x/y", "/a b", "/a?b", "/a#b", "/a/../b", "/a//b", "/%2e", "/ä", "."]
)
def test_invalid_prefix(given: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a path prefix \(example: /weighin\)"):
        Settings(root_path=given)


def test_prefix_that_is_a_route(client: httpx.Client, tiny_settings: Settings) -> None:
    paths = [*client.get("/openapi.json").json()["paths"], "/docs", "/openapi.json", "/static/x"]
    for path in paths:
        if path != "/":
            with pytest.raises(InvalidParameter, match="WEIGHIN_ROOT_PATH"):
                create_app(tiny_settings.model_copy(update={"root_path": path}))


def test_trusted_proxies_setting() -> None:
    settings = Settings(trusted_proxies="127.0.0.1, 10.1.2.3/8,::1,2001:db8::/32")  # type: ignore[arg-type]
    assert settings.trusted_proxies == {"127.0.0.1/32", "10.0.0.0/8", "::1/128", "2001:db8::/32"}
    mapped = Settings(trusted_proxies="::ffff:10.1.2.3, ::ffff:192.168.0.0/112, ::/0")  # type: ignore[arg-type]
    assert mapped.trusted_proxies == {"10.1.2.3/32", "192.168.0.0/16", "::/0"}
    assert Settings(trusted_proxies="*").trusted_proxies == {"*"}  # type: ignore[arg-type]
    for text in ("localhost", "10.0.0.0/40", "proxy.example", "10.0.0.1-10.0.0.9"):
        with pytest.raises(ValidationError, match="is not an address or network"):
            Settings(trusted_proxies=text)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("service", ["client", "prefixed"])
def test_options_asterisk(service: str, request: pytest.FixtureRequest) -> None:
    client: httpx.Client = request.getfixturevalue(service)
    raw = b"OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    [(status, headers, body)] = responses(ask((client.base_url.host, client.base_url.port or 80), raw))
    assert (status, body) == (204, b"")
    assert headers["allow"] == "GET, HEAD, POST, PUT, DELETE, OPTIONS"
    assert headers["x-request-id"]
