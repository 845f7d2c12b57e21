"""The routes: pictures in, classes out; how the server is; and the page."""

# Shapes: K classes.

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from deitkit.data import DecodePolicy
from deitkit.evaluation.answers import answer
from deitkit.serving.batching import Batcher
from deitkit.serving.metrics import Meter
from deitkit.serving.multipart import MAX_FILES, read_files
from deitkit.serving.pages import add_page, add_refusals
from deitkit.serving.pictures import decode_picture
from deitkit.serving.refusals import Refused

NUM_TOP = 10
NUM_DECODERS = 2
WAIT_TIMEOUT_S = 10.0
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
}
"""All that is served as a file, read when the server starts (FAULTS S20)."""
ACCEPTED = "image/*, application/octet-stream, or multipart/form-data with files"


class Answerer(Protocol):
    """A model that answers: a Predictor or an OnnxPredictor."""

    @property
    def decode_policy(self) -> DecodePolicy: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def threshold(self) -> float | None: ...

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray: ...


Explain = Callable[[np.ndarray], Mapping[str, Any]]
"""A picture uint8 [H, W, C] -> class, box and heads, as /v1/explain gives them."""


@dataclass(eq=False)
class Service:
    """One model being served."""

    model: Answerer
    card: Mapping[str, Any]
    explain: Explain | None
    meter: Meter = field(default_factory=Meter)
    is_warm: bool = False
    is_stopping: bool = False

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            lambda pictures: self.model.probabilities(pictures),
            meter=self.meter,
            wait_timeout_s=WAIT_TIMEOUT_S,
        )
        self.decoders = ThreadPoolExecutor(NUM_DECODERS, thread_name_prefix="deitkit-decodes")

    @property
    def is_ready(self) -> bool:
        return self.is_warm and self.batcher.is_well and not self.is_stopping

    def stop(self) -> None:
        """Say that no more pictures are welcome."""
        self.is_stopping = True

    async def warm_up(self) -> None:
        """Answer one grey picture, so that the first real one does not wait (FAULTS S19)."""
        grey_HWC = np.full((64, 64, self.model.decode_policy.channels), 128, np.uint8)
        with contextlib.suppress(Refused):
            await self.batcher.answer(grey_HWC)
            self.is_warm = True

    async def decode(self, encoded: bytes) -> np.ndarray:
        work = partial(decode_picture, encoded, self.model.decode_policy)
        return await asyncio.get_running_loop().run_in_executor(self.decoders, work)

    async def predict(self, encoded: bytes, name: str | None) -> dict[str, Any]:
        """What is said of one picture. Raises Refused."""
        probabilities_K = await self.batcher.answer(await self.decode(encoded))
        names = self.model.class_names
        said = answer(name or "", probabilities_K, names, self.model.threshold)
        order = np.argsort(-probabilities_K, kind="stable")[:NUM_TOP]
        return {
            "name": name,
            "class": said.class_name,
            "probability": said.probability,
            "abstains": said.abstains,
            "top": [{"class": names[k], "probability": float(probabilities_K[k])} for k in order],
        }


def build_app(service: Service) -> FastAPI:
    """The application, without its guard."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        warming = asyncio.get_running_loop().create_task(service.warm_up())
        yield
        warming.cancel()
        await service.batcher.close()
        service.decoders.shutdown(wait=False, cancel_futures=True)

    app = FastAPI(
        title="deitkit",
        summary=f"Classifies pictures with {service.card['name']}",
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
            predictions = [await _while_there(request, service.predict(content, None))]
        else:
            files = read_files(request.headers["content-type"], content)
            if not files:
                raise Refused(400, "no_picture", "the request holds no file")
            asked = asyncio.gather(*(_each(service, name, data) for name, data in files))
            predictions = await _while_there(request, asked)
        return JSONResponse({"request_id": request.state.request_id, "predictions": predictions})

    @app.post("/v1/explain", openapi_extra={"requestBody": {**body, "required": True}})
    async def explain(request: Request) -> Response:
        """Where each head of the model looked, on the grid of its patches."""
        if service.explain is None:
            raise Refused(404, "no_explanation", "this model cannot say what it looked at")
        if _kind_of(request) == "multipart/form-data":
            raise _wrong_type()
        picture_HWC = await service.decode(await _read(request))
        said = await service.batcher.run(partial(service.explain, picture_HWC))
        return JSONResponse({"request_id": request.state.request_id, **said})

    @app.get("/v1/model")
    async def model() -> Response:
        """What is being served."""
        return JSONResponse(dict(service.card))


async def _each(service: Service, name: str, data: bytes) -> dict[str, Any]:
    """One picture of several: a bad one fails alone."""
    try:
        return await service.predict(data, name)
    except Refused as refused:
        if refused.status >= 500:
            raise
        return {"name": name, "error": refused.to_dict()}


async def _while_there(request: Request, work: Any) -> Any:
    """The result, unless the client goes before: then the work is dropped (FAULTS S13)."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(request.receive())  # the body is read: next is the end
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            raise Refused(499, "client_gone", "the client went")
        return task.result()
    finally:
        gone.cancel()


async def _read(request: Request) -> bytes:
    """The whole body; its size and time are the guard's."""
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refused(499, "client_gone", "the client went")
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


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
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def readyz() -> Response:
        """Whether it answers pictures: warm, well and not stopping."""
        ready = service.is_ready
        return JSONResponse({"ready": ready}, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Counts, as Prometheus reads them."""
        return Response(service.meter.text(), media_type="text/plain; version=0.0.4")
