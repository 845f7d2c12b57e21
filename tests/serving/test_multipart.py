"""Several pictures in one request, and what is not that: S07, S08."""

from __future__ import annotations

import time

import pytest

from deitkit.serving.multipart import MAX_FILES, read_files
from deitkit.serving.refusals import Refused
from tests.serving.running import Running
from tests.serving.toy import picture_bytes

KIND = "multipart/form-data; boundary=XX"
END = b"--XX--\r\n"


def part(content: bytes = b"abc", *more: bytes, naming: bytes = b'; filename="a.png"') -> bytes:
    lines = [b'--XX\r\nContent-Disposition: form-data; name="files"' + naming, *more, b"", content]
    return b"\r\n".join([*lines, b""])


NESTED = part(b"--YY\r\n\r\nx\r\n--YY--", b"Content-Type: multipart/mixed; boundary=YY")
MALFORMED = {
    "no boundary": ("multipart/form-data", part() + END),
    "empty boundary": ("multipart/form-data; boundary=", part() + END),
    "boundary of 71 characters": (f"multipart/form-data; boundary={'b' * 71}", part() + END),
    "another boundary": ("multipart/form-data; boundary=YY", part() + END),
    "10,000 parts": (KIND, part() * 10_000 + END),
    "one part too many": (KIND, part() * (MAX_FILES + 1) + END),
    "no file name": (KIND, part(naming=b"") + END),
    "a field beside a file": (KIND, part() + part(naming=b"") + END),
    "no disposition": (KIND, b"--XX\r\n\r\nabc\r\n" + END),
    "nested": (KIND, NESTED + END),
    "bytes before": (KIND, b"hello\r\n" + part() + END),
    "bytes after": (KIND, part() + END + b"hello"),
    "no end": (KIND, part()),
    "an end alone": (KIND, END),
    "nothing": (KIND, b""),
    "16 MB of no part": (KIND, b"z" * 15_900_000),
    "a header without end": (KIND, b"--XX\r\n" + b"a" * 15_900_000),
    "a value without end": (KIND, b"--XX\r\na: " + b"a" * 15_900_000),
    "3,000 headers": (KIND, part(b"abc", *[b"a: b"] * 3000) + END),
    "a header that is none": (KIND, b"--XX\r\nfoo bar\r\n\r\nabc\r\n" + END),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_s07_malformed_is_400(server: Running, name: str):
    kind, body = MALFORMED[name]
    answer = server.ask(body, content_type=kind)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("bad_multipart", "too_many_files", "no_picture")


@pytest.mark.parametrize("name", MALFORMED)
def test_s07_malformed_costs_less_than_a_tenth_of_a_second(name: str):
    kind, body = MALFORMED[name]
    start = time.thread_time()
    try:
        assert read_files(kind, body) == []
    except Refused as refused:
        assert refused.status == 400
    assert time.thread_time() - start <= 0.1


def test_s07_a_boundary_of_1_mb_is_400(server: Running):
    kind = f"Content-Type: multipart/form-data; boundary={'b' * 1_000_000}"
    said = server.talk(server.head(kind, "Content-Length: 0"))
    assert (said.status, said.code, said.closed) == (400, "bad_request", True)


def test_s07_four_parts_are_answered_in_their_order(server: Running):
    levels = [0, 51, 204, 255]
    names = ["a.png", 'b";\r\n.png', "ü.png", "a.png"]
    answer = server.send(*zip(names, map(picture_bytes, levels), strict=True))
    assert answer.status_code == 200
    said = answer.json()["predictions"]
    light = [{row["class"]: row["probability"] for row in one["top"]}["light"] for one in said]
    assert light == [0.0, 0.2, 0.8, 1.0]
    assert said[0]["name"] == "a.png" and said[2]["name"] == "ü.png"


def test_s07_a_file_as_large_as_a_request_is_read_whole():
    content = bytes(range(256)) * 60_000 + b"\r\n--X\r\n--XXX"
    body = part(content).replace(b"--XX\r\n", b"--boundary\r\n", 1) + b"--boundary--\r\n"
    (found,) = read_files("multipart/form-data; boundary=boundary", body)
    assert found == ("a.png", content)


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/json", "application/x-www-form-urlencoded", "imagex/png", ""],
)
def test_s08_another_content_type_is_415_with_what_is_accepted(server: Running, kind: str):
    answer = server.ask(picture_bytes(), content_type=kind)
    assert answer.status_code == 415
    for accepted in ("image/*", "application/octet-stream", "multipart/form-data"):
        assert accepted in answer.json()["error"]["message"]


def test_s08_a_large_body_of_another_type_does_not_lose_its_answer(server: Running):
    """As `curl --data-binary @photo.jpg` without a type: said after the body, no reset."""
    answer = server.ask(b"x" * 15_000_000, content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 415
    assert server.get("/healthz").status_code == 200


@pytest.mark.parametrize("kind", ["image/jpeg", "IMAGE/PNG; q=1", "application/octet-stream"])
def test_s08_the_type_of_a_picture_is_its_content(server: Running, kind: str):
    answer = server.ask(picture_bytes(51), content_type=kind)
    assert answer.json()["predictions"][0]["class"] == "dark"
