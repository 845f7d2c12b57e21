"""One process that serves until it is told to stop: uvicorn, with absolute deadlines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from deitkit.errors import ConfigError, ResourceError
from deitkit.serving.exchange import Limits, refusal_bytes
from deitkit.serving.guard import Guard
from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import Refused

HEADER_TIMEOUT_S = 5.0
MAX_CHUNKS = 10_000
"""Pieces that a body may be cut into by its sender: each costs time."""
MAX_HEADER_BYTES = 16_384
DRAIN_TIMEOUT_S = 10
GRACE_S = 0.5
"""After the signal, for clients that keep their connection, to be told to close it."""
ARRIVAL_S = 0.2
"""After the last connection was accepted, for its request to come."""
BACKLOG = 1024


class _Connection(h11.Connection):
    """Counts the chunks of a body (FAULTS S02), and is strict about heads (S06)."""

    num_chunks = 0

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            _check_head(event)
        elif isinstance(event, h11.Data) and event.chunk_start:
            self.num_chunks += 1
            if self.num_chunks > MAX_CHUNKS:
                raise h11.RemoteProtocolError("too many chunks")
        elif isinstance(event, h11.EndOfMessage):
            self.num_chunks = 0
        return event


def _check_head(request: h11.Request) -> None:
    """Raises RemoteProtocolError for a head too long, or with two lengths: which holds?"""
    names = {name for name, _ in request.headers}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise h11.RemoteProtocolError("two lengths")
    if sum(len(name) + len(value) for name, value in request.headers) > MAX_HEADER_BYTES:
        raise h11.RemoteProtocolError("the headers are too long")


class _Protocol(H11Protocol):
    """Gives the headers of a request a deadline, however slowly they trickle (FAULTS S03)."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conn = _Connection(h11.SERVER, MAX_HEADER_BYTES)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._start_timer()

    def data_received(self, data: bytes) -> None:
        if self._timer is None and self.conn.their_state is h11.IDLE:
            self._start_timer()
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        self._refuse(Refused(400, "bad_request", "this is no HTTP request that can be read"))

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(HEADER_TIMEOUT_S, self._too_slow)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._refuse(Refused(408, "too_slow", "the request did not arrive in time"))

    def _refuse(self, refused: Refused) -> None:
        """Answer before there is a request, unless an answer is on its way, and close."""
        if self.transport.is_closing():
            return
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.write(refusal_bytes(refused))
        self.transport.close()


class Server(uvicorn.Server):
    """Ends with what is under way answered, and code 0; at the second signal at once."""

    def __init__(self, config: uvicorn.Config, guard: Guard, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self.guard = guard
        self._on_stop = on_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread hears signals
            return
        before = {
            number: signal.signal(number, self.handle_exit)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            os._exit(128 + sig)
        self.guard.is_stopping = True
        self._on_stop()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await asyncio.sleep(GRACE_S)
        for server in self.servers:
            server.close()
        await asyncio.sleep(ARRIVAL_S)
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens, before the model is loaded (FAULTS S18).

    Raises:
        ConfigError: BAD_VALUE, a port that cannot be.
        ResourceError: PORT, it is in use or not allowed.
    """
    if not 0 <= port <= 65_535:  # the system would take what is left of it
        raise ConfigError("BAD_VALUE", "port", f"is {port}", "give 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        # With its protocol named, or asyncio leaves Nagle's 40 ms in each answer.
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(
            "PORT", f"{host}:{port}", f"cannot listen there ({reason})", "choose another port="
        ) from error
    listener.setblocking(False)
    return listener


def host_names(host: str, port: int, more: tuple[str, ...]) -> frozenset[str]:
    """Values of Host that are answered: the address, this machine's own names, and `more`."""
    shown = f"[{host}]" if ":" in host else host
    names = {shown, "localhost", "127.0.0.1", "[::1]", *more}
    with_port = {name if ":" in name.rpartition("]")[2] else f"{name}:{port}" for name in names}
    return frozenset(name.lower() for name in with_port | (names if port == 80 else set(more)))


def build_server(
    app: Any,
    *,
    hosts: frozenset[str],
    limits: Limits,
    meter: Meter,
    log: Callable[[str], None] = lambda line: None,
    on_stop: Callable[[], None] = lambda: None,
) -> Server:
    """What answers for `app`; `run(sockets=[bind(...)])` does so until SIGTERM or SIGINT.

    It then finishes what is under way. `on_stop` is called by the signal, `log` with one line a
    request.
    """
    for name in ("uvicorn.error", "python_multipart"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # each request has its own line
    guard = Guard(app, limits, meter, hosts, log)
    config = uvicorn.Config(
        guard,
        http=_Protocol,
        ws="none",
        loop="asyncio",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=DRAIN_TIMEOUT_S,
        backlog=BACKLOG,
    )
    return Server(config, guard, on_stop)


def serve(app: Any, listener: socket.socket, **options: Any) -> None:
    """Answer on `listener` until SIGTERM or SIGINT; `options` are those of `build_server`."""
    build_server(app, **options).run(sockets=[listener])
