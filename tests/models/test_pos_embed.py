"""Resizing the grid of positions (FACTS A.6)."""

from __future__ import annotations

import pytest
import torch

from deitkit.errors import ModelFileError
from deitkit.models import resize_pos_embed


def test_equal_grids_change_nothing():
    pos_embed = torch.randn(1, 2 + 12, 8)
    same = resize_pos_embed(pos_embed, old_grid=(3, 4), new_grid=(3, 4), num_special_tokens=2)
    assert torch.equal(same, pos_embed)


@pytest.mark.parametrize("num_special_tokens", [0, 1, 2])
@pytest.mark.parametrize(("old", "new"), [((14, 14), (24, 24)), ((3, 5), (7, 4)), ((8, 8), (4, 2))])
def test_agrees_with_timm_and_leaves_special_rows_alone(num_special_tokens, old, new):
    timm_layers = pytest.importorskip("timm.layers")
    torch.manual_seed(0)
    pos_embed = torch.randn(1, num_special_tokens + old[0] * old[1], 6)
    got = resize_pos_embed(
        pos_embed, old_grid=old, new_grid=new, num_special_tokens=num_special_tokens
    )
    expected = timm_layers.resample_abs_pos_embed(
        pos_embed, list(new), list(old), num_special_tokens, antialias=False
    )
    torch.testing.assert_close(got, expected)
    assert torch.equal(got[:, :num_special_tokens], pos_embed[:, :num_special_tokens])


def test_rows_and_columns_are_not_confused():
    """A grid that depends on the row alone still does after resizing (3x5 -> 6x2)."""
    rows = torch.tensor([0.0, 1.0, 2.0]).repeat_interleave(5).reshape(1, 15, 1)
    grid = resize_pos_embed(rows, old_grid=(3, 5), new_grid=(6, 2), num_special_tokens=0)
    grid = grid.reshape(6, 2)
    torch.testing.assert_close(grid[:, 0], grid[:, 1])
    assert (grid[1:, 0] > grid[:-1, 0]).all()


def test_the_norm_of_trained_positions_is_kept(shared_data):
    """Bicubic 14 -> 24 keeps the mean norm of DeiT-tiny's vectors within 3 %."""
    path = shared_data / "weights" / "deit_tiny_patch16_224" / "deit_tiny_patch16_224.pth"
    pos_embed = torch.load(path, weights_only=True)["model"]["pos_embed"]
    bigger = resize_pos_embed(pos_embed, old_grid=(14, 14), new_grid=(24, 24), num_special_tokens=1)
    before, after = (p[0, 1:].norm(dim=1).mean().item() for p in (pos_embed, bigger))
    assert after == pytest.approx(before, rel=0.03)


def test_a_tensor_of_another_grid_is_refused():
    with pytest.raises(ModelFileError, match="grid of 14x14 make 197 rows"):
        resize_pos_embed(
            torch.zeros(1, 198, 4), old_grid=(14, 14), new_grid=(7, 7), num_special_tokens=1
        )
