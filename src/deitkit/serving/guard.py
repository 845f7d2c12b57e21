"""What every request passes before anything reads it: address, origin, size, time, its share."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from deitkit.serving.exchange import App, Exchange, Limits, Receive, Scope, Send, too_large
from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import Refused, busy, stopping, too_many


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
    num_bytes: int = 0
    """Of all bodies that are held."""
    _clients: Counter[str] = field(default_factory=Counter)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start = time.perf_counter()
        exchange = Exchange(
            scope, receive, send, limits=self.limits, is_last=lambda: self.is_stopping
        )
        client = str((scope.get("client") or ("?",))[0])
        scope["state"] |= {"request_id": exchange.id, "cause": None}
        try:
            self._check(exchange)
            if exchange.brings_pictures:
                await self._answer_pictures(exchange, client)
            else:
                await self._answer(exchange)
        except Refused as refused:
            await exchange.refuse(refused)
        except asyncio.CancelledError:  # the server's end has waited long enough (FAULTS S17)
            await exchange.refuse(stopping())
            raise
        except Exception as error:  # the application has said 500; the connection lives
            scope["state"]["cause"] = error
            await exchange.refuse(Refused(500, "failed", "the server could not do that"))
        finally:
            seconds = time.perf_counter() - start
            self.meter.count_request(_route(exchange.path), exchange.status, seconds)
            self.log(_line(exchange, client, seconds))

    def _check(self, exchange: Exchange) -> None:
        """Who asks, and for what, by the headers alone.

        Raises:
            Refused: wrong_host (FAULTS S26), foreign_origin (S25), too_large (S01), no_fetch (S21).
        """
        host = exchange.header(b"host").lower()
        if host not in self.hosts:
            raise Refused(421, "wrong_host", "this server does not answer under that name")
        origin = exchange.header(b"origin").lower()
        is_foreign = origin not in ("", f"http://{host}", f"https://{host}")
        if is_foreign and exchange.method not in ("GET", "HEAD"):
            raise Refused(403, "foreign_origin", "requests from other sites are not answered")
        if b"url=" in exchange.scope["query_string"]:
            raise Refused(400, "no_fetch", "send the picture itself: this server fetches nothing")
        length = exchange.header(b"content-length")
        if length and (not length.isdigit() or int(length) > self.limits.body_bytes):
            raise too_large(self.limits)

    async def _answer_pictures(self, exchange: Exchange, client: str) -> None:
        """Read the body, then count the request in: who still sends takes nobody's place (S03).

        Raises:
            Refused: busy, too_many_requests, stopping (FAULTS S12); as `Exchange.read_body`.
        """
        try:
            if self.is_stopping:
                raise stopping()
            await exchange.read_body(self._hold)
            self._admit(client)
            try:
                await self._answer(exchange)
            finally:
                self._release(client)
        finally:
            self.num_bytes -= exchange.num_held

    def _hold(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        if self.num_bytes > self.limits.held_bytes:
            raise busy()

    async def _answer(self, exchange: Exchange) -> None:
        # Every GET answers HEAD too; the server below drops the body.
        is_head = exchange.method == "HEAD"
        inner = {**exchange.scope, "method": "GET"} if is_head else exchange.scope
        await self.app(inner, exchange.receive, exchange.send)

    def _admit(self, client: str) -> None:
        if self.is_stopping:
            raise stopping()
        if self._clients[client] >= self.limits.pictures_per_client:
            raise too_many()
        if self.num_pictures >= self.limits.pictures:
            raise busy()
        self._clients[client] += 1
        self.num_pictures += 1

    def _release(self, client: str) -> None:
        self.num_pictures -= 1
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]


ROUTES = ("/v1/predict", "/v1/explain", "/v1/model", "/healthz", "/readyz", "/metrics", "/")


def _route(path: str) -> str:
    """The path, if it is one of ours: what strangers ask for makes no new time series."""
    return path if path in ROUTES else "other"


def _line(exchange: Exchange, client: str, seconds: float) -> str:
    cause = exchange.scope["state"]["cause"]
    why = "" if cause is None else f" {_one_line(f'{type(cause).__name__}: {cause}')}"
    return (
        f"{exchange.id} {_one_line(client)} {exchange.method} {_one_line(exchange.path)} "
        f"{exchange.status} {1e3 * seconds:.1f} ms{why}"
    )


def _one_line(text: str) -> str:
    """With everything escaped that could end a line or colour a terminal (FAULTS S31)."""
    return text.encode("unicode_escape").decode()[:200]
