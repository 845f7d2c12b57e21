"""A server whose model takes its time: `python -m tests.serving.slow_program 0.5`."""

from __future__ import annotations

import sys

from deitkit.serving.app import build_app
from deitkit.serving.exchange import Limits
from deitkit.serving.server import bind, host_names, serve
from deitkit.serving.service import Service
from tests.serving.toy import CARD, Toy


def main() -> None:
    toy = Toy()
    service = Service(toy, CARD, None)
    with bind("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        print(f"http://127.0.0.1:{port}", flush=True)
        toy.seconds = float(sys.argv[1])
        serve(
            build_app(service),
            listener,
            hosts=host_names("127.0.0.1", port, ()),
            limits=Limits(),
            meter=service.meter,
            on_stop=service.stop,
        )


if __name__ == "__main__":
    main()
