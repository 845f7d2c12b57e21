"""deitkit serve"""

from __future__ import annotations

import sys


def serve(
    run: str,
    *,
    port: int = 8000,
    host: str = "127.0.0.1",
    allow_host: str | None = None,
    log: bool = False,
) -> int:
    """Answer over HTTP, with a page to drop pictures on.

    deitkit serve runs/flowers
    deitkit serve runs/flowers/export-onnx/model.onnx port=8080
    curl --data-binary @cat.jpg -H 'content-type: image/jpeg' http://127.0.0.1:8000/v1/predict

    POST /v1/predict takes the bytes of a picture, or up to four as multipart; /docs explains all
    routes. Pictures are answered in batches, from memory, and never stored. Ctrl-C finishes what is
    under way and ends.

    Parameters
    ----------
    run
        A run folder, the bundle in it, or a file of `deitkit export to=onnx`.
    port
        Where to listen; 0 takes a free one and says which.
    host
        Address to listen on. Others than this machine's own let the whole network ask.
    allow_host
        Further names the server is called by, as behind a proxy: photos.example.org,10.0.0.2:8000
    log
        One line on stderr for each request.
    """
    from deitkit.api.serving import serve_run

    if host not in ("127.0.0.1", "localhost", "::1"):
        print(
            f"deitkit: warning: {host} can be reached from other machines; there is no password",
            file=sys.stderr,
        )
    serve_run(
        run,
        port=port,
        host=host,
        allow_hosts=tuple(name.strip() for name in (allow_host or "").split(",") if name.strip()),
        on_listening=lambda name, address: print(
            f"serving {name} at {address} (Ctrl-C stops)", flush=True
        ),
        log=(lambda line: print(line, file=sys.stderr, flush=True)) if log else lambda line: None,
    )
    return 0
