"""A server on a thread of the test's own process."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from deitkit.serving.app import build_app
from deitkit.serving.exchange import Limits
from deitkit.serving.server import Server, bind, build_server, host_names
from deitkit.serving.service import Service
from tests.serving.client import HUNG_S, Client, wait_until
from tests.serving.toy import CARD


@dataclass
class Running(Client):
    """One server that runs."""

    service: Service
    server: Server
    log: list[str]
    """Its lines, one a request."""


@contextlib.contextmanager
def running(
    model: Any,
    *,
    limits: Limits | None = None,
    card: Any = CARD,
    explain: Any = None,
    ready: bool = True,
    **options: Any,
) -> Iterator[Running]:
    """Serve `model` until the block ends, begun when it is warm unless `ready` is false."""
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    service = Service(model, card, explain, **options)
    log: list[str] = []
    server = build_server(
        build_app(service),
        hosts=host_names("127.0.0.1", port, ()),
        limits=limits or Limits(),
        meter=service.meter,
        log=log.append,
        on_stop=service.stop,
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="server")
    thread.start()
    here = Running(port, service, server, log)
    try:
        if ready:
            wait_until(lambda: here.get("/readyz").status_code == 200)
        yield here
    finally:
        here.http.close()
        if not server.should_exit:
            server.handle_exit(signal.SIGTERM, None)
        thread.join(HUNG_S)
        assert not thread.is_alive(), "the server hangs"
