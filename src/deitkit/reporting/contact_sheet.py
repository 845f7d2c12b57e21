"""Drawn views as people see them: their parameters in words, their pixels on one sheet."""

# Shapes: B images, C channels, H height, W width.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.augmentation import Views, render
from deitkit.augmentation.op_codes import OP_NAMES, PARAMETERS
from deitkit.data import printable

Bytes = NDArray[np.uint8]
Box = tuple[float, float, float, float]

CELL_SIDES = (160, 448)
"""Least and most pixels of a cell's longer side; small views are enlarged by whole factors."""
GAP = 14
FONT_SIZE = 13
LINE_HEIGHT = 17
PAPER, INK, NAME_INK = (255, 255, 255), (30, 30, 30), (0, 90, 160)

_WORDS = {
    "rotate": "{:.1f}°",
    "posterize": "{:.0f} bits",
    "solarize": "from {:.0f}",
    "solarize_add": "{:+.0f}",
    "color": "x{:.2f}",
    "contrast": "x{:.2f}",
    "brightness": "x{:.2f}",
    "sharpness": "x{:.2f}",
    "shear_x": "{:.2f}",
    "shear_y": "{:.2f}",
    "translate_x": "{:.1%}",
    "translate_y": "{:.1%}",
    "blur": "{:.2%} of the side",
}
"""How the parameter of an operation is said."""


@dataclass(frozen=True, kw_only=True)
class DrawnView:
    """One view of one picture, and what chance decided about it."""

    picture: str
    epoch: int
    box: Box
    """Top, left, height, width in shares of the picture."""
    flipped: bool
    operations: tuple[tuple[str, float | None], ...]
    """Names and physical parameters, in the order they are applied; None where there is none."""
    erased: Box | None
    """Top, left, bottom, right in shares of the view."""
    own_share: float
    """Of the picture itself in the mix, 0 to 1."""
    cut: Box | None
    """Top, left, bottom, right of the partner's patch in shares of the view."""
    partner: str | None
    """The picture it is mixed with."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        operations = [{"name": name, "parameter": value} for name, value in self.operations]
        return {**asdict(self), "operations": operations}

    @property
    def crop_words(self) -> str:
        top, left, height, width = self.box
        if height * width < 0.995:
            return f"crop {_percent(height * width)}"
        down, right = top - (1 - height) / 2, left - (1 - width) / 2
        moves = [
            f"{_percent(abs(share))} {words[share < 0]}"
            for share, words in ((down, ("down", "up")), (right, ("right", "left")))
            if abs(share) >= 0.005
        ]
        return f"moved {' '.join(moves)}" if moves else "whole"

    @property
    def operation_words(self) -> str:
        return ", ".join(
            name.replace("_", " ")
            + ("" if value is None else " " + _WORDS[name].format(value).replace("%", " %"))
            for name, value in self.operations
        )

    @property
    def erased_words(self) -> str:
        if self.erased is None:
            return ""
        top, left, bottom, right = self.erased
        return _percent((bottom - top) * (right - left))

    @property
    def mix_words(self) -> str:
        if self.partner is None:
            return ""
        kind = "mixed" if self.cut is None else "cutmix"
        return f"{kind} {self.own_share:.2f} with {printable(self.partner)}"

    def caption(self) -> list[str]:
        """The lines under its cell, the picture's name first."""
        erased = f"erased {self.erased_words}" if self.erased else ""
        geometry = self.crop_words + (", flipped" if self.flipped else "")
        lines = (geometry, self.operation_words, erased, self.mix_words)
        return [f"{printable(self.picture)}, epoch {self.epoch}", *filter(None, lines)]


def describe_views(views: Views, names: Sequence[str], size: tuple[int, int]) -> list[DrawnView]:
    """The views of the pictures called `names`, as drawn for an output of this (height, width)."""
    own_share_B = views.lam_at(size)
    described = []
    for k, name in enumerate(names):
        operations = [
            (OP_NAMES[code], float(value) if PARAMETERS[OP_NAMES[code]] else None)
            for code, value in zip(views.ops_BL[k], views.params_BL[k], strict=True)
            if code
        ]
        is_mixed = views.lam_B[k] < 1.0
        described.append(
            DrawnView(
                picture=name,
                epoch=views.epoch,
                box=_box(views.box_B4[k]),
                flipped=bool(views.flip_B[k]),
                operations=tuple(operations),
                erased=_box(views.erase_B4[k]) if views.erase_B4[k].any() else None,
                own_share=float(own_share_B[k]),
                cut=_box(views.cut_B4[k]) if views.cut_B4[k].any() else None,
                partner=names[k ^ 1] if is_mixed else None,
            )
        )
    return described


def show_views(
    images: Sequence[Bytes],
    views: Views,
    size: tuple[int, int],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    erasing_fill: str,
) -> Bytes:
    """What the model would see, before normalisation: uint8 [B, H, W, C].

    `mean` and `std` of each channel, 0 to 1, are the noise of erased boxes; the mean also fills
    what rotations uncover.
    """
    import torch

    from deitkit.augmentation.erasing import erase_images_
    from deitkit.augmentation.mixing import mix_images

    op_fill = [round(255 * level) for level in mean]
    rendered_BCHW = torch.from_numpy(render(images, views, size, op_fill=op_fill))
    shown_BCHW = rendered_BCHW.float() / 255
    shown_BCHW = erase_images_(shown_BCHW, views, fill=erasing_fill, mean=mean, std=std)
    shown_BCHW = mix_images(shown_BCHW, views)
    levels_BCHW = (shown_BCHW * 255).round().clamp(0, 255).to(torch.uint8)
    return levels_BCHW.permute(0, 2, 3, 1).contiguous().numpy()


def draw_sheet(
    originals: Sequence[tuple[str, Bytes]], drawn: Sequence[tuple[DrawnView, Bytes]]
) -> Image.Image:
    """All cells in one picture, the originals [H, W, C] first, each over its caption.

    All of `drawn` have one size, which is that of the cells; originals are fitted into it.
    """
    height, width = drawn[0][1].shape[:2]
    least, most = CELL_SIDES
    factor = max(1, math.ceil(least / max(height, width)))
    shrink = min(1.0, most / max(height, width))
    cell = tuple(max(1, round(side * factor * shrink)) for side in (width, height))
    cells = [
        (_fitted(pixels, cell, Image.Resampling.LANCZOS), [printable(name), "original"])
        for name, pixels in originals
    ]
    resample = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS
    cells += [(_fitted(pixels, cell, resample), view.caption()) for view, pixels in drawn]
    font = ImageFont.load_default(FONT_SIZE)
    pitch = max(cell[0], least)
    captions = [[part for line in lines for part in wrap(line, pitch, font)] for _, lines in cells]
    num_columns = min(len(cells), max(1, round(math.sqrt(1.5 * len(cells)))))
    rows = [range(k, min(k + num_columns, len(cells))) for k in range(0, len(cells), num_columns)]
    heights = [cell[1] + 4 + LINE_HEIGHT * max(len(captions[k]) for k in row) for row in rows]
    sheet_size = (GAP + num_columns * (pitch + GAP), GAP + sum(h + GAP for h in heights))
    sheet = Image.new("RGB", sheet_size, PAPER)
    pen = ImageDraw.Draw(sheet)
    top = GAP
    for row, row_height in zip(rows, heights, strict=True):
        for column, k in enumerate(row):
            left = GAP + column * (pitch + GAP)
            sheet.paste(cells[k][0], (left, top))
            for number, line in enumerate(captions[k]):
                place = (left, top + cell[1] + 4 + LINE_HEIGHT * number)
                pen.text(place, line, font=font, fill=NAME_INK if number == 0 else INK)
        top += row_height + GAP
    return sheet


def wrap(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """`text` in lines at most `width` pixels wide, broken at spaces, or inside a longer word.

    Characters that Pillow's own font lacks become escapes.
    """
    text = text.encode("latin-1", "backslashreplace").decode("latin-1")
    text = "".join(c if c.isascii() or c == "°" else f"\\x{ord(c):02x}" for c in text)
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".lstrip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines


def print_views(console: Console, views: Sequence[DrawnView]) -> None:
    """The parameters as a table, a row a view."""
    table = Table()
    for column in ("", "picture", "epoch", "crop", "flip", "operations", "erased", "mix"):
        table.add_column(column, overflow="fold")
    for number, view in enumerate(views, start=1):
        table.add_row(
            str(number),
            Text(printable(view.picture)),
            str(view.epoch),
            view.crop_words.removeprefix("crop "),
            "yes" if view.flipped else "",
            view.operation_words,
            view.erased_words,
            Text(view.mix_words),
        )
    console.print(table)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _box(values_4: NDArray[np.float32]) -> Box:
    first, second, third, fourth = (float(value) for value in values_4)
    return first, second, third, fourth


def _fitted(pixels: Bytes, cell: tuple[int, ...], resample: Image.Resampling) -> Image.Image:
    """One picture in the middle of a cell of this (width, height), its shape kept."""
    picture = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    fitted = picture.resize(
        (max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), resample
    )
    framed = Image.new("RGB", (cell[0], cell[1]), PAPER)
    framed.paste(fitted, ((cell[0] - fitted.width) // 2, (cell[1] - fitted.height) // 2))
    return framed
