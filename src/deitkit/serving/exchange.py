"""One request on its way in, and its answer on the way out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from deitkit.serving.refusals import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
DRAIN_TIMEOUT_S = 5.0
"""For the rest of a body that nobody wants, before its answer is sent."""
LINGER_S = 2.0
"""For the rest of one that is too large, after its refusal is sent."""
LINGER_BYTES = 64_000_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server allows."""

    body_bytes: int = 16_000_000
    body_timeout_s: float = 25.0
    """From the end of a request's headers, which have 5 s, to its last byte."""
    held_bytes: int = 256_000_000
    """Of all bodies that are being read or answered."""
    pictures: int = 64
    """Requests with pictures that are being answered at once."""
    pictures_per_client: int = 48


class Exchange:
    """Reads a body within its limits, gives it whole, and adds the headers every answer has."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        limits: Limits,
        is_last: Callable[[], bool],
    ) -> None:
        """`is_last` says, when the answer begins, whether the connection ends with it."""
        self.scope = scope
        self.id = secrets.token_hex(8)
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.status = 499
        """What was sent; 499 while nothing is: the client went before."""
        self.num_held = 0
        """Bytes of the body that were read."""
        self._receive = receive
        self._send = send
        self._limits = limits
        self._is_last = is_last
        self._headers = dict(scope["headers"])
        self._pieces: list[bytes] = []
        self._is_read = not (self._has_body() or self.brings_pictures)
        self._is_given = not self.brings_pictures
        self._refused = 0
        """The status of a refusal."""

    @property
    def brings_pictures(self) -> bool:
        return self.method == "POST" and self.path.startswith("/v1/")

    def header(self, name: bytes) -> str:
        return str(self._headers.get(name, b"").decode("latin-1"))

    def _has_body(self) -> bool:
        return self.header(b"content-length") not in ("", "0") or bool(
            self.header(b"transfer-encoding")
        )

    async def read_body(self, hold: Callable[[int], None]) -> None:
        """Read the body, to give it whole later; `hold` is told the bytes of each piece.

        Raises:
            Refused: too_large (FAULTS S02), too_slow (S03), client_gone; what `hold` raises.
        """
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                while not self._is_read:
                    piece = await self._next_piece()
                    if self.num_held + len(piece) > self._limits.body_bytes:
                        raise too_large(self._limits)
                    self.num_held += len(piece)
                    hold(len(piece))
                    self._pieces.append(piece)
        except TimeoutError as error:
            raise Refused(408, "too_slow", "the picture did not arrive in time") from error

    async def _next_piece(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Refused(499, "client_gone", "the client went")
        self._is_read = not message.get("more_body", False)
        piece: bytes = message.get("body", b"")
        return piece

    async def receive(self) -> Message:
        """The body whole, then the end of the connection."""
        if self._is_given:
            return await self._receive()
        self._is_given = True
        body = b"".join(self._pieces)
        self._pieces.clear()
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        """Pass an answer on, without a reset of the connection that could lose it.

        A connection that is closed over bytes nobody read is reset. So the rest of a body is read
        and dropped: before the answer, or, where it is too large for that, after it.
        """
        if message["type"] == "http.response.start":
            await self._finish_reading()
            self.status = message["status"]
            own = [*HEADERS, (b"x-request-id", self.id.encode())]
            if self._is_last() or not self._is_read:
                own.append((b"connection", b"close"))
            sent = [(k, v) for k, v in message.get("headers", []) if k.lower() != b"connection"]
            message = {**message, "headers": [*sent, *own]}
        elif self._refused == 413 and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._drop(LINGER_S, LINGER_BYTES)
            message = {"type": "http.response.body"}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with the reason, unless an answer has begun."""
        if self.status != 499 or refused.status == 499:
            return
        self._refused = refused.status
        self._pieces.clear()
        body = json.dumps({"request_id": self.id, "error": refused.to_dict()}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if refused.retry_after_s is not None:
            headers.append((b"retry-after", str(refused.retry_after_s).encode()))
        start = {"type": "http.response.start", "status": refused.status, "headers": headers}
        await self.send(start)
        await self.send({"type": "http.response.body", "body": body})

    async def _finish_reading(self) -> None:
        expects = self.header(b"expect").lower() == "100-continue" and not self.num_held
        if not self._is_read and not expects and self._refused not in (408, 413):
            await self._drop(DRAIN_TIMEOUT_S, self._limits.body_bytes)

    async def _drop(self, seconds: float, num_bytes: int) -> None:
        with contextlib.suppress(TimeoutError, Refused):
            async with asyncio.timeout(seconds):
                while not self._is_read and num_bytes > 0:
                    num_bytes -= len(await self._next_piece())


def too_large(limits: Limits) -> Refused:
    """413: a body over the limit."""
    return Refused(413, "too_large", f"a request may have {limits.body_bytes:,} bytes")


def refusal_bytes(refused: Refused) -> bytes:
    """A whole answer, of a connection that brought no request and is closed."""
    body = json.dumps({"request_id": secrets.token_hex(8), "error": refused.to_dict()}).encode()
    lines = [
        f"HTTP/1.1 {refused.status} {HTTPStatus(refused.status).phrase}".encode(),
        b"content-type: application/json",
        b"content-length: " + str(len(body)).encode(),
        b"connection: close",
        *(name + b": " + value for name, value in HEADERS),
    ]
    return b"\r\n".join([*lines, b"", body])
