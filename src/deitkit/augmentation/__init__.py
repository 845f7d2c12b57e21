"""Views: what chance decides about a picture, drawn from a key, then applied at any size.

`mixing`, `erasing` and `device_render` need torch and are imported by their own names.
"""

from deitkit.augmentation.block_order import block_windows
from deitkit.augmentation.render import render
from deitkit.augmentation.view_policy import ViewPolicy
from deitkit.augmentation.views import (
    Views,
    draw_views,
    epoch_order,
    pair_alike,
    shuffle_pairs,
)

__all__ = [
    "ViewPolicy",
    "Views",
    "block_windows",
    "draw_views",
    "epoch_order",
    "pair_alike",
    "render",
    "shuffle_pairs",
]
