"""Explained pictures as one image: a row a picture, a cell for each map, words below."""

# Shapes: H height, W width.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from deitkit.reporting.contact_sheet import wrap

Cell = tuple[NDArray[np.uint8], str, Sequence[str]]
"""Pixels [H, W, 3], a title, and lines below."""

CELL_SIDE = 256
GAP = 18
TITLE_SIZE, TEXT_SIZE = 15, 13
LINE_HEIGHT = 18
PAPER, INK, QUIET = (255, 255, 255), (24, 24, 24), (96, 96, 96)


def draw_explanations(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """All rows in one picture; each has its cells side by side, as high as its highest caption."""
    title_font, font = ImageFont.load_default(TITLE_SIZE), ImageFont.load_default(TEXT_SIZE)
    drawn = [
        [
            (
                _fitted(pixels),
                wrap(title, CELL_SIDE, title_font),
                [part for line in lines for part in wrap(line, CELL_SIDE, font)],
            )
            for pixels, title, lines in row
        ]
        for row in rows
    ]
    heights = [
        max(picture.height for picture, _, _ in row)
        + 6
        + LINE_HEIGHT * max(len(titles) + len(lines) for _, titles, lines in row)
        for row in drawn
    ]
    num_columns = max(map(len, drawn))
    size = (GAP + num_columns * (CELL_SIDE + GAP), GAP + sum(h + GAP for h in heights))
    sheet = Image.new("RGB", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(drawn, heights, strict=True):
        tallest = max(picture.height for picture, _, _ in row)
        for column, (picture, titles, lines) in enumerate(row):
            left = GAP + column * (CELL_SIDE + GAP)
            sheet.paste(picture, (left, top))
            below = top + tallest + 6
            for line in titles:
                pen.text((left, below), line, font=title_font, fill=INK)
                below += LINE_HEIGHT
            for line in lines:
                pen.text((left, below), line, font=font, fill=QUIET)
                below += LINE_HEIGHT
        top += height + GAP
    return sheet


def _fitted(pixels_HWC: NDArray[np.uint8]) -> Image.Image:
    """As wide or high as a cell; small pictures are enlarged in whole blocks."""
    picture = Image.fromarray(pixels_HWC)
    scale = CELL_SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    resample = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS
    return picture.resize(size, resample)
