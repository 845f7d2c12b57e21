"""Bodies that are too large, too slow, or not what they say: S01 to S03, and S06 of heads."""

from __future__ import annotations

import contextlib
import time

import pytest

from deitkit.serving import server as server_module
from deitkit.serving.exchange import Limits
from deitkit.serving.server import HEADER_TIMEOUT_S
from tests.serving.client import read_answer, wait_until
from tests.serving.running import Running, running
from tests.serving.toy import Toy, picture_bytes

SMALL = Limits(body_bytes=1000, body_timeout_s=0.5, held_bytes=1500)
PNG = "Content-Type: image/png"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def small():
    """A server of small limits."""
    with running(Toy(), limits=SMALL) as here:
        yield here


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def test_s01_a_body_that_says_it_is_too_large_is_refused_before_it_is_read(small: Running):
    said = small.talk(small.head(PNG, "Content-Length: 1001"))
    assert (said.status, said.code, said.closed) == (413, "too_large", True)


def test_s01_who_sends_it_all_the_same_still_hears_why(small: Running):
    said = small.talk(small.head(PNG, "Content-Length: 5000000"), *[b"x" * 50_000] * 100)
    assert (said.status, said.code, said.closed) == (413, "too_large", True)


def test_s01_a_body_at_the_limit_is_read(small: Running):
    said = small.talk(small.head(PNG, "Content-Length: 1000"), b"x" * 1000)
    assert (said.status, said.code) == (400, "not_an_image")


def test_s01_the_limit_is_16_mb():
    assert Limits().body_bytes == 16_000_000


def test_s02_a_body_without_a_length_is_refused_at_the_limit(small: Running):
    said = small.talk(small.head(PNG, CHUNKED), *[chunk(b"x" * 100)] * 11)
    assert (said.status, said.code, said.closed) == (413, "too_large", True)


def test_s02_a_body_without_a_length_is_answered(server: Running):
    picture = picture_bytes(51)
    half = len(picture) // 2
    pieces = chunk(picture[:half]), chunk(picture[half:]), chunk(b"")
    said = server.talk(server.head(PNG, CHUNKED), *pieces)
    assert said.status == 200
    assert b'"probability": 0.8,' in said.body


def test_s02_more_bytes_than_said_are_no_second_request(small: Running):
    said = small.talk(small.head(PNG, "Content-Length: 4", "Connection: close"), b"x" * 900)
    assert (said.status, said.code, said.closed) == (400, "not_an_image", True)


def test_s02_fewer_bytes_than_said_are_waited_for_and_refused(small: Running):
    said = small.talk(small.head(PNG, "Content-Length: 900"), b"x" * 10)
    assert (said.status, said.code, said.closed) == (408, "too_slow", True)


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "5, 6", "9" * 30])
def test_s02_a_length_that_is_no_number(small: Running, length: str):
    said = small.talk(small.head(PNG, f"Content-Length: {length}"), b"x")
    assert said.status in (400, 413)
    assert said.closed


def test_s02_a_million_chunks_of_one_byte_cost_less_than_a_second(process):
    before = process.cpu_seconds
    said = process.talk(process.head(PNG, CHUNKED), *[chunk(b"x") * 1000] * 1000)
    assert said.status in (400, 413)
    assert process.cpu_seconds - before <= 1
    assert process.ask(picture_bytes()).status_code == 200


def test_s02_a_body_without_end_takes_no_more_memory_than_twice_the_limit(process):
    before = process.kilobytes("VmRSS")
    said = process.talk(process.head(PNG, CHUNKED), *[chunk(b"x" * 1_000_000)] * 100)
    assert (said.status, said.code) == (413, "too_large")
    assert process.kilobytes("VmHWM") - before <= 32_000


def test_s02_bodies_held_at_once_are_limited_together(small: Running):
    """1,500 bytes may be held, two requests of 700 are under way: a third finds no room."""
    with small.connect() as first, small.connect() as second:
        for connection in (first, second):
            connection.sendall(small.head(PNG, "Content-Length: 800") + b"x" * 700)
        wait_until(lambda: small.server.guard.num_bytes == 1400)
        said = small.talk(small.head(PNG, "Content-Length: 200"), b"x" * 200)
        assert (said.status, said.code) == (503, "busy")
        assert int(said.headers["retry-after"]) >= 1
    wait_until(lambda: small.server.guard.num_bytes == 0)


def test_s03_slow_headers_end_at_the_deadline(monkeypatch, server: Running):
    monkeypatch.setattr(server_module, "HEADER_TIMEOUT_S", 0.3)
    with server.connect() as connection:
        start = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for place in range(200):
                connection.sendall(server.head(PNG)[place : place + 1])
                time.sleep(0.02)
                if time.monotonic() - start > 1.5:
                    break
        said = read_answer(connection)
    assert (said.status, said.code, said.closed) == (408, "too_slow", True)


def test_s03_slow_headers_of_a_later_request_too(monkeypatch, server: Running):
    monkeypatch.setattr(server_module, "HEADER_TIMEOUT_S", 0.3)
    with server.connect() as connection:
        connection.sendall(server.head(path="/healthz", method="GET"))
        assert read_answer(connection).status == 200
        connection.sendall(b"GET /hea")
        assert read_answer(connection).status == 408


def test_s03_a_slow_body_ends_at_the_deadline_however_it_trickles(small: Running):
    with small.connect() as connection:
        connection.sendall(small.head(PNG, "Content-Length: 900"))
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                connection.sendall(b"x")
                time.sleep(0.02)
        said = read_answer(connection)
    assert (said.status, said.code, said.closed) == (408, "too_slow", True)


def test_s03_headers_have_5_seconds_and_the_whole_request_30():
    assert HEADER_TIMEOUT_S == 5
    assert HEADER_TIMEOUT_S + Limits().body_timeout_s == 30


def test_s03_a_slow_body_that_nobody_reads_ends_too(monkeypatch, server: Running):
    """A GET has no business with a body; it is not waited for longer than the drain."""
    monkeypatch.setattr("deitkit.serving.exchange.DRAIN_TIMEOUT_S", 0.2)
    said = server.talk(server.head("Content-Length: 900", path="/healthz", method="GET"), b"x")
    assert (said.status, said.closed) == (200, True)


def test_s03_two_hundred_slow_clients_take_nobodys_place(server: Running):
    """More of them than pictures may be under way, of one client and in all."""
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(server.connect())
            body = b"x" if number % 2 else b""
            connection.sendall(server.head(PNG, "Content-Length: 900")[: None if body else 40])
            connection.sendall(body)
        answers = [server.ask(picture_bytes(level)) for level in range(50)]
    assert [answer.status_code for answer in answers] == [200] * 50


HEADS = {
    "two lengths": [CHUNKED, "Content-Length: 5"],
    "two different lengths": ["Content-Length: 5", "Content-Length: 6"],
    "two codings": [CHUNKED, CHUNKED],
    "another coding": ["Transfer-Encoding: gzip, chunked"],
    "a long header": ["A: " + "x" * 20_000],
    "a header without end": ["A: " + "x" * 1_000_000],
    "many headers": ["a: b"] * 10_000,
    "a CR in a header": ["A: b\rc"],
}


@pytest.mark.parametrize("name", HEADS)
def test_s06_a_head_that_can_be_read_in_two_ways_or_has_no_end(server: Running, name: str):
    """What follows it is not read as another request."""
    smuggled = b"0\r\n\r\n" + server.head(path="/healthz", method="GET")
    said = server.talk(server.head(PNG, *HEADS[name]), smuggled)
    assert (said.status, said.code, said.closed) == (400, "bad_request", True)


@pytest.mark.parametrize(
    "line", [b"GET /healthz", b"G@T /healthz HTTP/1.1", b"hello", b"\x16\x03\x01"]
)
def test_s06_what_is_no_request(server: Running, line: bytes):
    said = server.talk(line + b"\r\n\r\n")
    assert (said.status, said.code, said.closed) == (400, "bad_request", True)
