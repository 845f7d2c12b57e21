"""Position embeddings for another grid of patches."""

# Shapes: M = special tokens + grid rows * grid columns, D width, h and w rows and columns.

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from deitkit.errors import ModelFileError


def resize_pos_embed(
    pos_embed_1MD: Tensor,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_special_tokens: int,
) -> Tensor:
    """Interpolate the grid part bicubically; the rows of the special tokens stay as they are.

    Grids are (rows, columns). Touvron et al. 2021, arXiv:2012.12877, section 4: bicubic because it
    nearly keeps the norm of the vectors, which bilinear reduces. No antialiasing, as the authors.

    Raises:
        ModelFileError: POS_EMBED, when the tensor does not hold `old_grid`.
    """
    num_old = num_special_tokens + old_grid[0] * old_grid[1]
    if pos_embed_1MD.ndim != 3 or pos_embed_1MD.shape[1] != num_old:
        raise ModelFileError(
            "POS_EMBED",
            "pos_embed",
            f"its shape is {list(pos_embed_1MD.shape)}, but {num_special_tokens} special tokens "
            f"and a grid of {old_grid[0]}x{old_grid[1]} make {num_old} rows",
            "give the grid and the tokens of the model it comes from",
        )
    if old_grid == new_grid:
        return pos_embed_1MD
    special_1SD = pos_embed_1MD[:, :num_special_tokens]
    grid_1Dhw = (
        pos_embed_1MD[:, num_special_tokens:].unflatten(1, old_grid).permute(0, 3, 1, 2).float()
    )
    grid_1Dhw = F.interpolate(grid_1Dhw, size=new_grid, mode="bicubic", align_corners=False)
    grid_1ND = grid_1Dhw.flatten(2).transpose(1, 2).to(pos_embed_1MD.dtype)
    return torch.cat([special_1SD, grid_1ND], dim=1)


def grid_of_rows(
    num_rows: int,
    *,
    num_tokens: int,
    patch_size: int,
    image_sizes: Sequence[tuple[int, int]] = (),
) -> tuple[int, tuple[int, int]]:
    """(rows of special tokens, grid) of a position embedding with `num_rows` rows.

    Its model has `num_tokens` special tokens, and all of them have a row or none has (DeiT III).
    The grid is that of the first of `image_sizes`, (height, width) in pixels, that makes the
    number of rows; else it is a square. No two squares lie 1 or 2 apart, but for 0 and 1: so the
    answer is never a choice.

    Raises:
        ModelFileError: GRID, when neither an image size nor a square explains the rows.
    """
    for height, width in image_sizes:
        grid = height // patch_size, width // patch_size
        for num_special in (num_tokens, 0):
            if num_rows == num_special + grid[0] * grid[1]:
                return num_special, grid
    for num_special in (num_tokens, 0):
        side = math.isqrt(max(0, num_rows - num_special))
        if side > 0 and num_special + side * side == num_rows:
            return num_special, (side, side)
    raise ModelFileError(
        "GRID",
        "pos_embed",
        f"{num_rows} rows are no square grid, with or without {num_tokens} special token"
        f"{'s' if num_tokens > 1 else ''}",
        "give the folder with the config.json that tells the image size",
    )
