"""Views: what chance decides about a picture, drawn from a key, then applied at any size.

`deitkit.augmentation.mixing` needs torch and is imported by its own name.
"""

from deitkit.augmentation.render import render
from deitkit.augmentation.views import ViewPolicy, Views, draw_views, epoch_order

__all__ = ["ViewPolicy", "Views", "draw_views", "epoch_order", "render"]
