"""Who is answered, by the headers, and that nothing is fetched for anybody: S21, S25, S26."""

from __future__ import annotations

import pytest

from tests.serving.running import Running
from tests.serving.test_multipart import END, KIND, part
from tests.serving.toy import picture_bytes
from tests.serving.watching import reached_out, watching

TARGETS = [
    "http://127.0.0.1:1/",
    "http://2130706433/",
    "http://[::ffff:127.0.0.1]/",
    "http://localtest.me/",
    "file:///etc/passwd",
    "data:image/png;base64,iVBORw0KGgo=",
    "gopher://127.0.0.1/",
]


@pytest.mark.parametrize("target", TARGETS)
def test_s21_no_address_is_ever_fetched(server: Running, target: str):
    field = part(target.encode(), naming=b"").replace(b'"files"', b'"url"')
    with watching() as events:
        answers = [
            server.ask(picture_bytes(), f"/v1/predict?url={target}"),
            server.ask(target.encode()),
            server.ask(field + END, content_type=KIND),
            server.ask(part() + field + END, content_type=KIND),
            server.ask(b'{"url": "%s"}' % target.encode(), content_type="application/json"),
            server.ask(b"url=" + target.encode(), content_type="application/x-www-form-urlencoded"),
            server.ask(target.encode(), content_type="text/uri-list"),
            server.ask(svg(target), content_type="image/svg+xml"),
        ]
        server.get("/metrics")
    assert [answer.status_code for answer in answers] == [400, 400, 400, 400, 415, 415, 415, 400]
    assert events, "the hook sees the server"
    assert reached_out(events) == []


def svg(target: str) -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>'.encode()


def test_s21_a_picture_that_is_answered_needs_no_network_either(server: Running):
    with watching() as events:
        assert server.ask(picture_bytes()).status_code == 200
        assert server.get("/").status_code == 200
        server.get("/metrics")
    assert events
    assert reached_out(events) == []


OWN = "http://{host}"


@pytest.mark.parametrize(
    ("method", "origin", "status"),
    [
        ("POST", None, 200),
        ("POST", OWN, 200),
        ("POST", "null", 403),
        ("POST", "http://example.org", 403),
        ("POST", "http://127.0.0.1", 403),
        ("POST", "http://127.0.0.1:1", 403),
        ("POST", OWN + ".example.org", 403),
        ("OPTIONS", "http://example.org", 403),
        ("OPTIONS", "null", 403),
        ("PUT", "http://example.org", 403),
    ],
)
def test_s25_other_sites_may_not_ask(server: Running, method: str, origin, status: int):
    headers = {"content-type": "image/png", "access-control-request-method": "POST"}
    if origin is not None:
        headers["origin"] = origin.format(host=server.host)
    answer = server.http.request(method, "/v1/predict", content=picture_bytes(), headers=headers)
    assert answer.status_code == status
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_s25_other_sites_may_not_read_either(server: Running):
    """A GET is answered, but no header lets the other site's script see it."""
    answer = server.get("/v1/model", headers={"origin": "http://example.org"})
    assert answer.status_code == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("LOCALHOST:{port}", 200),
        ("[::1]:{port}", 200),
        ("127.0.0.1", 421),
        ("127.0.0.1:1", 421),
        ("example.org", 421),
        ("example.org:{port}", 421),
        ("127.0.0.1:{port}.example.org", 421),
        ("localhost.example.org:{port}", 421),
        ("", 421),
    ],
)
def test_s26_only_its_own_names_are_answered(server: Running, host: str, status: int):
    for path in ("/healthz", "/"):
        answer = server.get(path, headers={"host": host.format(port=server.port)})
        assert answer.status_code == status
    answer = server.ask(picture_bytes(), host=host.format(port=server.port))
    assert answer.status_code == status
    if status == 421:
        assert answer.json()["error"]["code"] == "wrong_host"


def test_s26_two_names_are_none(server: Running):
    said = server.talk(server.head("Host: example.org", path="/healthz", method="GET"))
    assert said.status == 400
