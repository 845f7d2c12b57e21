"""The end of a server: what is under way is answered, S17; nothing else is there to end it, S28."""

from __future__ import annotations

import signal
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from deitkit.serving import server as server_module
from tests.serving.client import HUNG_S, Said, read_answer, wait_until
from tests.serving.process import Process, program
from tests.serving.running import running
from tests.serving.toy import Toy, picture_bytes

SLOW = "tests.serving.slow_program"
NUM = 32


def begin(process: Process) -> list:
    """So many requests on their way, each over its own connection."""
    content = picture_bytes()
    head = process.head("Content-Type: image/png", f"Content-Length: {len(content)}")
    connections = [process.connect() for _ in range(NUM)]
    for connection in connections:
        connection.sendall(head + content)
    return connections


def all_answers(connections: list) -> list[Said]:
    with ThreadPoolExecutor(NUM) as threads:
        answers = list(threads.map(read_answer, connections))
    for connection in connections:
        connection.close()
    return answers


def test_s17_what_is_under_way_is_answered_and_the_code_is_0():
    with program(SLOW, 0.5, installed=False) as process:
        connections = begin(process)
        wait_until(lambda: process.metric("deitkit_pictures_waiting") >= NUM - 16)
        idle = process.connect()
        process.popen.send_signal(signal.SIGTERM)
        answers = all_answers(connections)
        assert Counter(answer.status for answer in answers) == {200: NUM}
        assert all(answer.closed for answer in answers)
        assert process.popen.wait(HUNG_S) == 0
        assert idle.recv(1) == b"", "who has asked nothing is not waited for"
        idle.close()
        with pytest.raises(ConnectionRefusedError):
            process.connect()


def test_s17_requests_sent_just_before_the_signal_are_answered_too():
    """Before any of them was read, or the model has begun: told to come again, or answered."""
    with program(SLOW, 0.1, installed=False) as process:
        connections = begin(process)
        process.popen.send_signal(signal.SIGTERM)
        answers = all_answers(connections)
        counts = Counter(answer.status for answer in answers)
        assert counts[200] + counts[503] == NUM
        for answer in answers:
            assert answer.closed
            assert answer.status == 200 or int(answer.headers["retry-after"]) >= 1
        assert process.popen.wait(HUNG_S) == 0


def test_s17_a_second_signal_ends_it_at_once():
    with program(SLOW, 20, installed=False, ready=False) as process:
        connections = begin(process)
        wait_until(lambda: process.metric("deitkit_pictures_waiting") > 0)
        process.popen.send_signal(signal.SIGTERM)
        wait_until(lambda: process.get("/readyz").headers.get("connection") == "close")
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(5) == 128 + signal.SIGTERM
        for connection in connections:
            connection.close()


def test_s17_while_it_stops_it_says_so(monkeypatch):
    monkeypatch.setattr(server_module, "GRACE_S", 1.5)
    with running(Toy()) as here:
        here.server.handle_exit(signal.SIGTERM, None)
        ready = here.get("/readyz")
        assert (ready.status_code, ready.headers["connection"]) == (503, "close")
        refused = here.ask(picture_bytes())
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "stopping")
        assert refused.headers["connection"] == "close"
        assert int(refused.headers["retry-after"]) >= 1
        assert here.get("/healthz").status_code == 200


def test_s17_what_takes_longer_than_the_drain_is_told_to_come_again(monkeypatch):
    monkeypatch.setattr(server_module, "DRAIN_TIMEOUT_S", 0.3)
    toy = Toy()
    with running(toy) as here, ThreadPoolExecutor(1) as threads:
        toy.gate.clear()
        asked = threads.submit(here.ask, picture_bytes())
        wait_until(lambda: here.server.guard.num_pictures == 1)
        here.server.handle_exit(signal.SIGTERM, None)
        answer = asked.result()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopping")
        assert answer.headers["connection"] == "close"
        assert int(answer.headers["retry-after"]) >= 1
        toy.gate.set()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_s17_the_installed_program_ends_well(light_file, number):
    with program(light_file, "port=0") as process:
        assert process.ask(picture_bytes(51)).json()["predictions"][0]["class"] == "dark"
        process.popen.send_signal(number)
        assert process.popen.wait(HUNG_S) == 0
        assert process.popen.stderr.read() == ""


@pytest.mark.parametrize("path", ["/shutdown", "/v1/shutdown", "/v1/models", "/admin", "/v1/load"])
def test_s28_nothing_over_http_ends_or_changes_it(server, path: str):
    assert server.ask(b"", path).status_code == 404
    assert server.http.put("/v1/model", content=b"").status_code == 405
    assert server.http.delete("/v1/model").status_code == 405
