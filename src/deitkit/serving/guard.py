"""What every request passes before anything reads it: address, origin, size, time, its share."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import Refused, busy, stopping, too_many

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


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one server allows."""

    body_bytes: int = 16_000_000
    body_timeout_s: float = 30.0
    """From the first byte of the request's body to its last."""
    pictures: int = 64
    """Requests with pictures under way at once."""
    pictures_per_client: int = 48


@dataclass(eq=False)
class Guard:
    """ASGI middleware. `hosts` are the values of Host that are answered, in lower case."""

    app: App
    limits: Limits
    meter: Meter
    hosts: Collection[str]
    log: Callable[[str], None]
    is_stopping: bool = False
    num_pictures: int = 0
    _clients: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        request = _Request(scope, receive, send, self.limits)
        scope["state"]["request_id"] = request.id
        request.closes = self.is_stopping
        is_admitted = False
        client = str((scope.get("client") or ("?",))[0])
        try:
            self._check(request)
            if request.brings_pictures:
                await self._admit(request, client)
                is_admitted = True
            # Every GET answers HEAD too; the server below drops the body.
            inner = {**scope, "method": "GET"} if request.method == "HEAD" else scope
            await self.app(inner, request.receive, request.send)
        except Refused as refused:
            await request.refuse(refused)
        finally:
            if is_admitted:
                self._release(client)
            seconds = time.perf_counter() - start
            self.meter.count_request(_route(request.path), request.status, seconds)
            self.log(
                f"{request.id} {client} {request.method} {_one_line(request.path)} "
                f"{request.status} {1e3 * seconds:.1f} ms"
            )

    def _check(self, request: _Request) -> None:
        """Who asks, and for what, by the headers alone.

        Raises:
            Refused: wrong_host (FAULTS S26), foreign_origin (S25), too_large (S01), no_fetch (S21).
        """
        host = request.header(b"host").lower()
        if host not in self.hosts:
            raise Refused(421, "wrong_host", "this server does not answer under that name")
        origin = request.header(b"origin").lower()
        is_foreign = origin not in ("", f"http://{host}", f"https://{host}")
        if is_foreign and request.method not in ("GET", "HEAD"):
            raise Refused(403, "foreign_origin", "requests from other sites are not answered")
        if b"url=" in request.scope["query_string"]:
            raise Refused(400, "no_fetch", "send the picture itself: this server fetches nothing")
        length = request.header(b"content-length")
        if length and (not length.isdigit() or int(length) > self.limits.body_bytes):
            raise _too_large(self.limits)

    async def _admit(self, request: _Request, client: str) -> None:
        """Count the request in, before its body is read.

        Raises:
            Refused: busy, too_many_requests, stopping (FAULTS S12). The body is read and dropped
                first: to close over unread bytes would reset the connection, and lose the answer.
        """
        refused = None
        if self.is_stopping:
            refused = stopping()
        elif self._clients[client] >= self.limits.pictures_per_client:
            refused = too_many()
        elif self.num_pictures >= self.limits.pictures:
            refused = busy()
        if refused is not None:
            await request.drain()
            raise refused
        self._clients[client] += 1
        self.num_pictures += 1

    def _release(self, client: str) -> None:
        self.num_pictures -= 1
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


class _Request:
    """One request on its way in, and its answer on the way out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        self.scope = scope
        self.id = secrets.token_hex(8)
        self.path: str = scope["path"]
        self.method: str = scope["method"]
        self.status = 499
        """What was sent; 499 while nothing is: the client went before."""
        self.closes = False
        self._receive = receive
        self._send = send
        self._limits = limits
        self._headers = dict(scope["headers"])
        self._num_bytes = 0
        self._deadline: float | None = None
        self._is_read = False

    @property
    def brings_pictures(self) -> bool:
        return self.method == "POST" and self.path.startswith("/v1/")

    def header(self, name: bytes) -> str:
        return str(self._headers.get(name, b"").decode("latin-1"))

    async def receive(self) -> Message:
        """The next piece of the body.

        Raises:
            Refused: too_large (FAULTS S02), too_slow (S03).
        """
        if self._is_read:
            return await self._receive()
        now = asyncio.get_running_loop().time()
        self._deadline = self._deadline or now + self._limits.body_timeout_s
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError as error:
            self.closes = True
            raise Refused(408, "too_slow", "the picture did not arrive in time") from error
        self._num_bytes += len(message.get("body", b""))
        self._is_read = not message.get("more_body", False)
        if self._num_bytes > self._limits.body_bytes:
            self.closes = True
            raise _too_large(self._limits)
        return message

    async def drain(self) -> None:
        """Read the rest of the body, if it comes soon and is not too large."""
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                while not self._is_read:
                    await self.receive()
        except TimeoutError:
            self.closes = True

    async def send(self, message: Message) -> None:
        """Add the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = [*HEADERS, (b"x-request-id", self.id.encode())]
            if self.closes or (not self._is_read and self.brings_pictures):
                own.append((b"connection", b"close"))
            sent = [(k, v) for k, v in message.get("headers", []) if k.lower() != b"connection"]
            message = {**message, "headers": [*sent, *own]}
        await self._send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with the reason, unless an answer has begun."""
        if self.status != 499:
            return
        if refused.status == 413:
            self.closes = True
        body = json.dumps({"request_id": self.id, "error": refused.to_dict()}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        if refused.retry_after_s is not None:
            headers.append((b"retry-after", str(refused.retry_after_s).encode()))
        start = {"type": "http.response.start", "status": refused.status, "headers": headers}
        await self.send(start)
        content = b"" if self.method == "HEAD" else body
        await self.send({"type": "http.response.body", "body": content})


def _too_large(limits: Limits) -> Refused:
    return Refused(413, "too_large", f"a request may have {limits.body_bytes:,} bytes")


ROUTES = ("/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/readyz", "/metrics", "/")


def _route(path: str) -> str:
    """The path, if it is one of ours: what strangers ask for makes no new time series."""
    return path if path in ROUTES else "other"


def _one_line(text: str) -> str:
    """With everything escaped that could end a line or colour a terminal (FAULTS S31)."""
    return text.encode("unicode_escape").decode()[:200]
