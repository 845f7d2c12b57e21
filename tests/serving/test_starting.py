"""How `deitkit serve` begins, or says why not: S18, S26, S27."""

from __future__ import annotations

import errno
import resource
import socket
import time
from pathlib import Path

import pytest

from deitkit.errors import ConfigError, ResourceError
from deitkit.serving.server import bind, host_names
from tests.journeys.commands import Ended, installed
from tests.serving.process import Process, program
from tests.serving.running import Running


def refused(folder: Path, *words: object) -> Ended:
    """A start that fails, in less than 3 s of a processor's time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = installed("serve", *words, folder=folder)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime <= 3
    assert ended.out == "" and len(ended.err.splitlines()) == 1
    return ended


@pytest.fixture
def taken():
    """A port that somebody has."""
    with bind("127.0.0.1", 0) as listener:
        yield listener.getsockname()[1]


def test_s18_a_port_in_use(light_file, tmp_path, taken):
    ended = refused(tmp_path, light_file, f"port={taken}")
    assert ended.code == 6
    assert f"error [PORT] 127.0.0.1:{taken}: cannot listen there (Address already" in ended.err


@pytest.mark.parametrize("port", [-1, 65_536, 70_000])
def test_s18_a_port_that_cannot_be(port: int):
    """The system itself would listen at 70000 - 65536."""
    with pytest.raises(ConfigError, match=f"port: is {port}; give 0 to 65535"):
        bind("127.0.0.1", port)


def test_s18_a_file_that_is_no_model(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"hello")
    ended = refused(tmp_path, "model.onnx", "port=0")
    assert ended.code == 5
    assert "error [FORMAT]" in ended.err and "model.onnx" in ended.err


def test_s18_a_bad_model_leaves_the_port_free(light_file, tmp_path):
    (tmp_path / "model.onnx").write_bytes(light_file.read_bytes()[:-100])
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    assert refused(tmp_path, "model.onnx", f"port={port}").code == 5
    bind("127.0.0.1", port).close()


def test_s18_a_run_that_is_not_there(tmp_path):
    ended = refused(tmp_path, "runs/none", "port=0")
    assert ended.code == 2
    assert "error [NO_RUN]" in ended.err


def test_s18_no_permission(monkeypatch):
    def forbidden(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", forbidden)
    with pytest.raises(
        ResourceError, match=r"\[PORT\] 127.0.0.1:80: .*Permission denied"
    ) as caught:
        bind("127.0.0.1", 80)
    assert caught.value.exit_code == 6


def listening_addresses(process: Process) -> set[str]:
    """IPv4 addresses, in hexadecimal, at which its port listens (state 0A)."""
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    port = f"{process.port:04X}"
    return {row[1][:8] for row in rows if row[1].endswith(":" + port) and row[3] == "0A"}


def test_s27_this_machine_alone_is_answered_by_default(process: Process):
    assert process.said == f"serving light (model.onnx) at http://{process.host} (Ctrl-C stops)\n"
    assert listening_addresses(process) == {"0100007F"}


def test_s27_another_address_is_asked_for_and_warned_about(light_file):
    with program(light_file, "port=0", "host=127.0.0.2", ready=False) as process:
        assert listening_addresses(process) == {"0200007F"}
        process.popen.terminate()
        assert "warning: 127.0.0.2 can be reached from other machines" in (
            process.popen.stderr.read()
        )


def test_s26_further_names_are_answered_when_told(light_file):
    with program(light_file, "port=0", "allow_host=photos.example.org, proxy:8080") as process:
        for host, status in (
            ("photos.example.org", 200),
            (f"photos.example.org:{process.port}", 200),
            ("proxy:8080", 200),
            ("PROXY:8080", 200),
            ("proxy", 421),
            ("example.org", 421),
        ):
            assert process.get("/healthz", headers={"host": host}).status_code == status, host


def test_s26_names_by_hand():
    assert host_names("127.0.0.1", 80, ()) >= {"127.0.0.1", "localhost", "localhost:80"}
    assert "localhost" not in host_names("127.0.0.1", 8000, ())
    assert host_names("::1", 8000, ()) == {"[::1]:8000", "localhost:8000", "127.0.0.1:8000"}


def test_log_is_one_line_a_request_on_stderr(light_file):
    with program(light_file, "port=0", "log=true") as process:
        request_id = process.ask(b"text").json()["request_id"]
        time.sleep(0.1)
        process.popen.terminate()
        said = process.popen.stderr.read()
    (line,) = [line for line in said.splitlines() if line.startswith(request_id)]
    assert "127.0.0.1 POST /v1/predict 400" in line and "not_an_image" in line


def test_answers_leave_at_once(server: Running):
    """Without TCP_NODELAY an answer on a kept connection waits 40 ms for the client's ACK."""
    server.get("/healthz")
    sockets = [
        protocol.transport.get_extra_info("socket")
        for protocol in server.server.server_state.connections
    ]
    assert sockets
    assert all(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets)
