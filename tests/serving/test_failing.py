"""A model that fails, and what is said of it and what not: S15, S19, S30, S31."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.serving.client import wait_until
from tests.serving.running import Running, running
from tests.serving.toy import Toy, lightness, picture_bytes

NAN = float("nan")


def raises(pictures):
    raise RuntimeError("CUDA error in /home/someone/model.py\nline 2 \x1b[31mred")


WRONG = {
    "raises": raises,
    "NaN": lambda pictures: lightness(pictures) * NAN,
    "infinite": lambda pictures: lightness(pictures) + float("inf"),
    "nothing": lambda pictures: None,
    "too few": lambda pictures: np.zeros((0, 2)),
    "no numbers": lambda pictures: ["a"] * len(pictures),
}


def is_ready(here: Running) -> bool:
    return here.get("/readyz").status_code == 200


@pytest.mark.parametrize("name", WRONG)
def test_s15_a_model_that_fails_is_500_with_the_request_id_and_no_more(name: str):
    toy = Toy()
    with running(toy) as here:
        toy.answers = WRONG[name]
        for number in range(3):
            assert is_ready(here), f"{number} failures in a row are not three"
            answer = here.ask(picture_bytes())
            assert answer.status_code == 500
            assert answer.json() == {
                "request_id": answer.headers["x-request-id"],
                "error": {
                    "code": "model_failed",
                    "message": "the model has no answer to this picture",
                },
            }
        assert here.get("/readyz").status_code == 503
        assert here.get("/readyz").json() == {"ready": False}
        assert here.get("/healthz").status_code == 200
        assert here.metric("deitkit_model_failures_total") == 3
        toy.answers = lightness
        assert here.ask(picture_bytes()).status_code == 200
        assert is_ready(here)


def test_s15_a_model_that_recovers_is_found_well_without_a_request():
    """A server that is not ready gets none; it asks its model itself."""
    toy = Toy()
    with running(toy, probe_interval_s=0.1) as here:
        toy.answers = raises
        wait_until(lambda: here.ask(picture_bytes()).status_code == 500 and not is_ready(here))
        toy.answers = lightness
        wait_until(lambda: is_ready(here))


def test_s15_an_explanation_that_is_no_number_is_500():
    with running(Toy(), explain=lambda picture: {"class": "dark", "probability": NAN}) as here:
        answer = here.ask(picture_bytes(), "/v1/explain")
        assert answer.status_code == 500
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert "NaN" not in answer.text
        assert here.ask(picture_bytes()).status_code == 200, "over the same connection"


def test_s19_a_server_is_not_ready_before_its_model_has_answered():
    toy = Toy()
    toy.gate.clear()
    with running(toy, ready=False) as here:
        wait_until(lambda: toy.batches == [1])
        answer = here.get("/readyz")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})
        assert here.get("/healthz").status_code == 200
        toy.gate.set()
        wait_until(lambda: is_ready(here))
        assert toy.batches == [1], "it asked once"


def test_s19_a_first_answer_that_fails_is_asked_for_again():
    toy = Toy(raises)
    with running(toy, ready=False, probe_interval_s=0.1) as here:
        wait_until(lambda: len(toy.batches) >= 2)
        assert not is_ready(here)
        toy.answers = lightness
        wait_until(lambda: is_ready(here))


@pytest.mark.parametrize("explain", [False, True])
def test_s30_a_fault_is_told_to_the_log_and_not_to_the_client(explain: bool):
    toy = Toy()
    with running(toy, explain=raises) as here:
        toy.answers = raises
        answer = here.ask(picture_bytes(), "/v1/explain" if explain else "/v1/predict")
        assert answer.status_code == 500
        told = answer.text + str(answer.headers)
        assert not re.search(r"home|model\.py|CUDA|RuntimeError|Traceback|python", told)
        request_id = answer.json()["request_id"]
        wait_until(lambda: any(line.startswith(request_id) for line in here.log))
        (line,) = [line for line in here.log if line.startswith(request_id)]
        assert r"RuntimeError: CUDA error in /home/someone/model.py\nline 2 \x1b[31mred" in line


@pytest.mark.parametrize(
    ("method", "path", "content"),
    [
        ("GET", "/no/such/path", b""),
        ("DELETE", "/v1/predict", b""),
        ("POST", "/v1/predict", b"text"),
        ("POST", "/v1/predict?url=http://example.org", b""),
        ("POST", "/v1/explain", b"text"),
        ("GET", "/v1/predict", b""),
    ],
)
def test_s30_errors_name_no_path_version_or_frame(server: Running, method, path, content):
    answer = server.http.request(
        method, path, content=content, headers={"content-type": "image/png"}
    )
    assert answer.status_code >= 400
    told = answer.text + str(dict(answer.headers))
    assert not re.search(
        r"/work|/home|/usr|\.py|[Uu]vicorn|[Ss]tarlette|Traceback|\d\.\d+\.\d", told
    )
    assert set(answer.json()) == {"request_id", "error"}
    assert set(answer.json()["error"]) == {"code", "message"}


def test_s31_whatever_a_request_says_its_log_is_one_plain_line():
    """On a server of its own: a line is written after its answer was sent."""
    paths = ["/%0d%0afake%20line", "/%1b%5b31mred", "/" + "a" * 5000, "/%e2%80%a8", "/%ff%fe"]
    forwarded = "X-Forwarded-For: 1.2.3.4\x1b[2J\x85fake"
    with running(Toy()) as here:
        for path in paths:
            here.talk(here.head("Connection: close", path=path, method="GET"))
        here.talk(here.head(method="EVIL", path="/\x1b[31m"))
        here.talk(here.head(forwarded, "Connection: close", path="/healthz", method="GET"))
        wait_until(lambda: any("/healthz" in line for line in here.log))
        wait_until(lambda: len(here.log) >= 1 + len(paths) + 1)
        lines = [line for line in here.log if " GET /readyz 200 " not in line]
    assert len(lines) == len(paths) + 1, "what is no HTTP has no line"
    for line in lines:
        assert line.isascii() and line.isprintable() and len(line.splitlines()) == 1
        assert len(line) < 400
    assert r"GET /\r\nfake line 404" in lines[0]
    assert r"1.2.3.4\x1b[2J\x85fake GET /healthz 200" in lines[-1]
