"""What the two servers share: files from memory, and refusals as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from deitkit.serving.refusals import Refused


class Json(JSONResponse):
    """ASCII: a class can be named after a folder whose name is no text, and JSON can say that."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


def add_page(app: FastAPI, page: Mapping[str, tuple[str, str]], *, folder: str) -> None:
    """Serve path -> (file name, content type), read now: nothing else is ever read (S20)."""
    home = resources.files("deitkit") / folder
    for path, (name, kind) in page.items():
        content = home.joinpath(*name.split("/")).read_bytes()
        app.add_route(path, partial(_file, content, kind), methods=["GET"], include_in_schema=False)


async def _file(content: bytes, kind: str, request: Request) -> Response:
    return Response(content, headers={"content-type": kind})


def add_refusals(app: FastAPI) -> None:
    """Answer `Refused`, unknown paths and wrong methods with JSON (FAULTS S30, S33)."""

    def refusal(request: Request, refused: Refused) -> Response:
        headers = {}
        if refused.retry_after_s is not None:
            headers["Retry-After"] = str(refused.retry_after_s)
        content = {"request_id": request.state.request_id, "error": refused.to_dict()}
        return Json(content, status_code=refused.status, headers=headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> Response:
        request.state.cause = error.__cause__
        return refusal(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "wrong_method"}
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"  # the guard sees to it
        if request.method == "OPTIONS" and error.status_code == 405:
            return Response(status_code=204, headers=headers)
        words = codes.get(error.status_code, "error")
        response = refusal(request, Refused(error.status_code, words, words.replace("_", " ")))
        response.headers.update(headers)
        return response

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return refusal(request, Refused(500, "failed", "the server could not do that"))
