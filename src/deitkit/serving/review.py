"""The page on which a person looks at doubtful labels, and what they answer."""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from PIL import Image

from deitkit.data import printable
from deitkit.data.label_overlay import ACTIONS, CHANGE, LabelEdit, write_overlay
from deitkit.serving.pages import Json, add_page, add_refusals
from deitkit.serving.refusals import Refused

SHOWN_SIDE = 768
SMALL_SIDE = 384
"""Smaller pictures are enlarged in whole blocks up to this."""
PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/app.js": ("app.js", "text/javascript; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


@dataclass(eq=False)
class Review:
    """The labels to look at, and the answers so far."""

    rows: Sequence[Mapping[str, Any]]
    """id, path, label, doubt, said: as `api.reviewing.Doubtful.row`."""
    load: Callable[[int], np.ndarray]
    """The picture of a row, uint8 [H, W, C]."""
    class_names: Sequence[str]
    edits: dict[str, LabelEdit]
    path: Path
    """Where the answers are written, all of them after each."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def state(self) -> dict[str, Any]:
        """What the page shows."""
        return {
            "classes": list(self.class_names),
            "file": printable(self.path),
            "items": [
                {**row, "path": printable(str(row["path"])), **self._answer(str(row["id"]))}
                for row in self.rows
            ],
        }

    def _answer(self, image_id: str) -> dict[str, Any]:
        edit = self.edits.get(image_id)
        return {
            "action": None if edit is None else edit.action,
            "new_label": "" if edit is None else edit.label,
        }

    async def take(self, number: Any, action: Any, label: Any) -> None:
        """Keep an answer to a row, or with the action None take it back.

        Raises:
            Refused: bad_answer.
            ResourceError: the disk refused; the answer is then not kept.
        """
        if type(number) is not int or not 0 <= number < len(self.rows):
            raise Refused(400, "bad_answer", "there is no such picture")
        if action is not None and action not in ACTIONS:
            raise Refused(400, "bad_answer", f"the action is none of {', '.join(ACTIONS)}")
        if action == CHANGE and label not in self.class_names:
            raise Refused(400, "bad_answer", "there is no such class")
        row = self.rows[number]
        async with self.lock:
            edits = dict(self.edits)
            edits.pop(str(row["id"]), None)
            if action is not None:
                edits[str(row["id"])] = LabelEdit(
                    image_id=str(row["id"]),
                    path=str(row["path"]),
                    action=action,
                    label=label if action == CHANGE else "",
                )
            await asyncio.get_running_loop().run_in_executor(None, write_overlay, self.path, edits)
            self.edits = edits


def build_review(review: Review) -> FastAPI:
    """The application, without its guard."""
    app = FastAPI(title="deitkit review", docs_url=None, redoc_url=None, openapi_url=None)
    add_refusals(app)
    add_page(app, PAGE, folder="serving/review_page")

    @app.get("/v1/state")
    async def state() -> Response:
        return Json(review.state())

    @app.get("/v1/image/{number}")
    async def image(number: int) -> Response:
        if not 0 <= number < len(review.rows):
            raise Refused(404, "not_found", "there is no such picture")
        loop = asyncio.get_running_loop()
        content = await loop.run_in_executor(None, lambda: _jpeg(review.load(number)))
        return Response(content, media_type="image/jpeg")

    @app.post("/v1/answer")
    async def answer(request: Request) -> Response:
        try:
            said = await request.json()
        except ValueError as error:
            raise Refused(400, "bad_answer", "the answer is no JSON") from error
        if not isinstance(said, dict):
            raise Refused(400, "bad_answer", "the answer is no table")
        await review.take(said.get("number"), said.get("action"), said.get("label", ""))
        return Json({"saved": True})

    return app


def _jpeg(pixels_HWC: np.ndarray) -> bytes:
    channels = pixels_HWC.shape[2]
    image = Image.fromarray(pixels_HWC[:, :, 0] if channels == 1 else pixels_HWC).convert("RGB")
    longest = max(image.size)
    if longest > SHOWN_SIDE:
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.LANCZOS)
    elif longest * 2 <= SMALL_SIDE:
        factor = SMALL_SIDE // longest
        size = (image.width * factor, image.height * factor)
        image = image.resize(size, Image.Resampling.NEAREST)
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=88)
    return stream.getvalue()
