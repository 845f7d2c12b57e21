"""Who asks a server: requests of every kind, and plain sockets that send what they like."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

HUNG_S = 30
"""A wait that ends in failure: something hangs."""


@dataclass
class Client:
    """Of the server at 127.0.0.1 and `port`."""

    port: int
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=f"http://{self.host}", timeout=HUNG_S)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(self, content: bytes, path: str = "/v1/predict", **headers: str) -> httpx.Response:
        """POST a picture as the body; `content_type="image/jpeg"` is a header."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post(path, content=content, headers={"content-type": "image/png"} | named)

    def send(self, *files: tuple[str, bytes]) -> httpx.Response:
        """POST (name, content) of pictures as multipart."""
        return self.http.post("/v1/predict", files=[("files", file) for file in files])

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.http.get(path, **options)

    def metric(self, series: str) -> float:
        """The value of one time series, 0 while there is none."""
        for row in self.get("/metrics").text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == series:
                return float(value)
        return 0.0

    def head(self, *lines: str, path: str = "/v1/predict", method: str = "POST") -> bytes:
        """The head of a request for a plain socket."""
        all_lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", *lines, ""]
        return "".join(line + "\r\n" for line in all_lines).encode("latin-1")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=HUNG_S)

    def talk(self, *pieces: bytes) -> Said:
        """Send the bytes as they are, as far as the server takes them, and read its answer."""
        with self.connect() as connection:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    connection.sendall(piece)
            return read_answer(connection)


@dataclass
class Said:
    """An answer as it came over the wire; status 0: the connection ended without one."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool
    """Whether it said so, and the connection then ended."""

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


def read_answer(connection: socket.socket) -> Said:
    """One answer from a socket."""
    received = b""
    while b"\r\n\r\n" not in received and (piece := _receive(connection)):
        received += piece
    if not received:
        return Said(0, {}, b"", True)
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in rest)}
    while len(body) < int(headers.get("content-length", 0)) and (piece := _receive(connection)):
        body += piece
    closes = headers.get("connection") == "close"
    return Said(int(first.split()[1]), headers, body, closes and _receive(connection) == b"")


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionError:
        return b""


def wait_until(is_so: Callable[[], bool]) -> None:
    """Until it is so; a failure if it never is."""
    end = time.monotonic() + HUNG_S
    while not is_so():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
