"""What is served, and that it is nothing else: S20, S22, S33, the routes and their description."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

import pytest

from deitkit.serving.app import PAGE
from tests.serving.client import Said
from tests.serving.running import Running, running
from tests.serving.toy import CARD, Toy, picture_bytes
from tests.serving.watching import watching

OUTSIDE = [
    "/static/../../etc/passwd",
    "/../../../../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/%252e%252e/%252e%252e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/..\\..\\etc\\passwd",
    "/%2e%2e%5cetc%5cpasswd",
    "//etc/passwd",
    "/%00",
    "/app.js%00.png",
    "/app.js/",
    "/app.js/../index.html",
    "/./app.js",
    "/page/index.html",
    "/index.html",
    "/ask_browser.js",
    "/docs.html",
    "/app.py",
    "/etc/passwd",
    "/proc/self/environ",
    "/C:/windows/win.ini",
    "http://127.0.0.1/etc/passwd",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_s20_nothing_outside_is_served_or_even_opened(server: Running, path: str):
    with watching() as events:
        said = server.talk(server.head("Connection: close", path=path, method="GET"))
    assert said.status in (404, 307)
    if said.status == 307:
        assert said.headers["location"] == f"http://{server.host}/app.js", "its name without /"
    assert [event for event in events if event[0] == "open"] == []


def test_s20_a_nul_in_a_path_is_no_request(server: Running):
    said = server.talk(server.head(path="/app.js\0", method="GET"))
    assert (said.status, said.code, said.closed) == (400, "bad_request", True)


@pytest.mark.parametrize("path", PAGE)
def test_s20_the_page_is_what_was_installed(server: Running, path: str):
    name, kind = PAGE[path]
    answer = server.get(path)
    assert answer.content == (resources.files("deitkit") / "page" / name).read_bytes()
    assert answer.headers["content-type"] == kind


def answers(server: Running) -> dict[str, Said]:
    """One answer of every kind, as it comes over the wire."""
    picture = picture_bytes()

    def post(*lines: str, content: bytes = picture, path: str = "/v1/predict") -> Said:
        length = f"Content-Length: {len(content)}"
        return server.talk(server.head(length, *lines, path=path), content)

    png = "Content-Type: image/png"
    return {
        "page": server.talk(server.head(path="/", method="GET")),
        "description": server.talk(server.head(path="/openapi.json", method="GET")),
        "metrics": server.talk(server.head(path="/metrics", method="GET")),
        "200": post(png),
        "no picture": post(png, content=b"text"),
        "fetch": post(png, path="/v1/predict?url=x"),
        "no HTTP": server.talk(b"hello\r\n\r\n"),
        "foreign": post(png, "Origin: http://example.org"),
        "unknown": post(png, path="/v1/nothing"),
        "method": server.talk(server.head(path="/v1/predict", method="GET")),
        "options": server.talk(server.head(path="/v1/predict", method="OPTIONS")),
        "too large": server.talk(server.head(png, "Content-Length: 99999999")),
        "type": post("Content-Type: text/plain"),
        "host": server.talk(b"GET / HTTP/1.0\r\n\r\n"),
    }


@pytest.fixture(scope="module")
def said(server: Running) -> dict[str, Said]:
    return answers(server)


EXPECTED = {
    "page": 200,
    "description": 200,
    "metrics": 200,
    "200": 200,
    "no picture": 400,
    "fetch": 400,
    "no HTTP": 400,
    "foreign": 403,
    "unknown": 404,
    "method": 405,
    "options": 204,
    "too large": 413,
    "type": 415,
    "host": 421,
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_s22_every_answer_forbids_what_the_page_does_not_need(said: dict[str, Said], kind: str):
    answer = said[kind]
    assert answer.status == EXPECTED[kind]
    policy = set(answer.headers["content-security-policy"].split("; "))
    assert policy == {
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
    assert "server" not in answer.headers


@pytest.mark.parametrize("kind", [kind for kind, status in EXPECTED.items() if status >= 400])
def test_s22_every_error_is_json(said: dict[str, Said], kind: str):
    answer = said[kind]
    assert answer.headers["content-type"] == "application/json"
    assert set(json.loads(answer.body)["error"]) == {"code", "message"}


PAYLOADS = (
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "{{7*7}}${7*7}<%= 7*7 %>",
    "a\nb\r\nSet-Cookie: x=1",
    "\x1b[31m\0\u202e\u2028",
    "cat\udcff",
    "ü 猫",
    "x" * 10_000,
)


def test_s22_names_of_classes_and_files_come_back_as_they_are_inside_json():
    """Also a folder's name that is no text; as JSON of a kind that no browser runs."""
    names = PAYLOADS[:2]
    card: dict[str, Any] = {**CARD, "name": PAYLOADS[7], "classes": list(PAYLOADS)}
    with running(Toy(class_names=names), card=card) as here:
        model = here.get("/v1/model")
        assert model.headers["content-type"] == "application/json"
        assert json.loads(model.content)["classes"] == list(PAYLOADS)
        assert here.get("/openapi.json").json()["info"]["summary"].endswith(r"cat\udcff")
        answer = here.send((PAYLOADS[0], picture_bytes(51)))
        assert answer.headers["content-type"] == "application/json"
        (found,) = answer.json()["predictions"]
        assert found["name"] == PAYLOADS[0]
        assert [row["class"] for row in found["top"]] == list(names)


def test_s22_a_class_whose_name_is_no_text_is_answered():
    with running(Toy(class_names=("cat\udcff", "dog"))) as here:
        assert json.loads(here.ask(picture_bytes(51)).content)["predictions"][0]["class"] == (
            "cat\udcff"
        )


def test_s22_what_is_asked_for_is_not_repeated_in_the_refusal(server: Running):
    for path in ("/<script>alert(1)</script>", "/v1/predict?q=<script>", "/%3Cscript%3E"):
        said = server.talk(server.head("Connection: close", path=path, method="GET"))
        assert said.status in (404, 405)
        assert b"script" not in said.body


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("HEAD", "/", 200, None),
        ("HEAD", "/healthz", 200, None),
        ("HEAD", "/v1/predict", 405, {"POST"}),
        ("OPTIONS", "/v1/predict", 204, {"POST"}),
        ("OPTIONS", "/healthz", 204, {"GET", "HEAD"}),
        ("OPTIONS", "/", 204, {"GET", "HEAD"}),
        ("OPTIONS", "/nothing", 404, None),
        ("GET", "/nothing", 404, None),
        ("POST", "/nothing", 404, None),
        ("GET", "/v1/predict", 405, {"POST"}),
        ("PUT", "/v1/predict", 405, {"POST"}),
        ("DELETE", "/healthz", 405, {"GET", "HEAD"}),
        ("POST", "/", 405, {"GET", "HEAD"}),
        ("BREW", "/v1/predict", 405, {"POST"}),
        ("TRACE", "/healthz", 405, {"GET", "HEAD"}),
    ],
)
def test_s33_routes_and_methods(server: Running, method: str, path: str, status: int, allow):
    answer = server.http.request(method, path)
    assert answer.status_code == status
    if allow is not None:
        assert set(answer.headers["allow"].split(", ")) == allow
    if method == "HEAD":
        assert answer.content == b""


def test_s33_head_has_the_headers_of_get(server: Running):
    head, get = server.http.head("/app.js"), server.get("/app.js")
    for name in ("content-length", "content-type", "content-security-policy"):
        assert head.headers[name] == get.headers[name]


def test_the_description_says_what_may_be_sent(server: Running):
    paths = server.get("/openapi.json").json()["paths"]
    sent = paths["/v1/predict"]["post"]["requestBody"]["content"]
    assert set(sent) == {"image/*", "multipart/form-data"}
    assert sent["multipart/form-data"]["schema"]["properties"]["files"]["maxItems"] == 4
    assert set(paths) == {
        "/v1/predict",
        "/v1/explain",
        "/v1/model",
        "/healthz",
        "/readyz",
        "/metrics",
    }


def test_metrics_count_what_was_asked():
    with running(Toy()) as here:
        for content in (picture_bytes(), picture_bytes(), b"text"):
            here.ask(content)
        here.get("/made/up/by/a/stranger")
        series = 'deitkit_requests_total{route="%s",status="%d"}'
        assert here.metric(series % ("/v1/predict", 200)) == 2
        assert here.metric(series % ("/v1/predict", 400)) == 1
        assert here.metric(series % ("other", 404)) == 1
        assert here.metric("deitkit_batch_pictures_sum") == 3, "two, and the one to warm up"
        assert here.metric("process_resident_memory_bytes") > 10_000_000
        answer = here.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "stranger" not in answer.text
