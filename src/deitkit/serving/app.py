"""The routes: pictures in, classes out; how the server is; and the page."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from fastapi import FastAPI, Request, Response

from deitkit.data import printable
from deitkit.serving.multipart import MAX_FILES, read_files
from deitkit.serving.pages import Json, add_page, add_refusals
from deitkit.serving.refusals import Refused
from deitkit.serving.service import Service

PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/asking.js": ("ask_server.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
}
"""All that is served as a file, read when the server starts (FAULTS S20)."""
ACCEPTED = "image/*, application/octet-stream, or multipart/form-data with files"


def build_app(service: Service) -> FastAPI:
    """The application, without its guard."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        kept = [asyncio.create_task(work) for work in (service.keep_warm(), service.keep_tidy())]
        yield
        for task in kept:
            task.cancel()
        await service.close()

    app = FastAPI(
        title="deitkit",
        summary=f"Classifies pictures with {printable(service.card['name'])}",
        version=str(service.card["deitkit"]),
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    add_refusals(app)
    _add_answers(app, service)
    _add_state(app, service)
    add_page(app, PAGE, folder="page")
    return app


def _add_answers(app: FastAPI, service: Service) -> None:
    body = {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}
    several = {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "files": {
                        "type": "array",
                        "maxItems": MAX_FILES,
                        "items": {"type": "string", "format": "binary"},
                    }
                },
            }
        }
    }
    both = {"requestBody": {"content": {**body["content"], **several}, "required": True}}

    @app.post("/v1/predict", openapi_extra=both)
    async def predict(request: Request) -> Response:
        """Classes of one picture (its bytes as the body) or of up to four (multipart)."""
        kind = _kind_of(request)
        content = await _read(request)
        if kind != "multipart/form-data":
            predictions = [await _while_there(request, service, service.predict(content, None))]
        else:
            files = read_files(request.headers["content-type"], content)
            if not files:
                raise Refused(400, "no_picture", "the request holds no file")
            predictions = await _while_there(request, service, _all(service, files))
        return Json({"request_id": request.state.request_id, "predictions": predictions})

    @app.post("/v1/explain", openapi_extra={"requestBody": {**body, "required": True}})
    async def explain(request: Request) -> Response:
        """Where each head of the model looked, on the grid of its patches."""
        if _kind_of(request) == "multipart/form-data":
            raise _wrong_type()
        asked = service.explained(await _read(request))
        said = await _while_there(request, service, asked)
        return Json({"request_id": request.state.request_id, **said})

    @app.get("/v1/model")
    async def model() -> Response:
        """What is being served."""
        return Json(dict(service.card))


async def _all(service: Service, files: list[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """Of one file alone as of a raw body; of several, a bad one fails alone."""
    if len(files) == 1:
        ((name, data),) = files
        return [await service.predict(data, name)]
    return list(await asyncio.gather(*(_each(service, name, data) for name, data in files)))


async def _each(service: Service, name: str, data: bytes) -> dict[str, Any]:
    try:
        return await service.predict(data, name)
    except Refused as refused:
        if refused.status >= 500:
            raise
        return {"name": name, "error": refused.to_dict()}


async def _while_there(request: Request, service: Service, work: Coroutine[Any, Any, Any]) -> Any:
    """The result, unless the client goes before: then the work is dropped (FAULTS S13)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: next is the end
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            service.meter.count_dropped("client_gone")
            raise Refused(499, "client_gone", "the client went")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


async def _read(request: Request) -> bytes:
    """The body, which the guard has read to its end."""
    content: bytes = (await request.receive()).get("body", b"")
    return content


def _kind_of(request: Request) -> str:
    """The content type. Raises Refused wrong_type (FAULTS S08)."""
    kind = request.headers.get("content-type", "application/octet-stream")
    kind = kind.partition(";")[0].strip().lower()
    accepted = ("multipart/form-data", "application/octet-stream")
    if kind not in accepted and not kind.startswith("image/"):
        raise _wrong_type()
    return kind


def _wrong_type() -> Refused:
    return Refused(415, "wrong_type", f"send {ACCEPTED}")


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """Whether the server runs."""
        return Json({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether it answers pictures: warm, well and not stopping."""
        ready = service.is_ready
        return Json({"ready": ready}, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts, as Prometheus reads them."""
        return Response(service.meter.text(), media_type="text/plain; version=0.0.4")
