"""Position embeddings for another grid of patches."""

# Shapes: M = special tokens + grid rows * grid columns, D width, h and w rows and columns.

from __future__ import annotations

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
