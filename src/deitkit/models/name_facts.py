"""What a model's name alone says, for those who choose its images and learning rate."""

from __future__ import annotations

from typing import NamedTuple

from deitkit.models.deit import DeiT
from deitkit.models.factory import family_of


class NameFacts(NamedTuple):
    """None where the family leaves it to the data."""

    is_transformer: bool
    image_size: int | None
    """Pixels a side that the position embedding of the name is made for."""
    patch_size: int | None
    embed_dim: int | None


def name_facts(name: str) -> NameFacts:
    """Facts of `name`. Convolutional networks take any image size.

    Raises:
        ConfigError: MODEL for an unknown name.
    """
    family, arguments = family_of(name)
    if family is not DeiT:
        return NameFacts(False, None, None, None)
    return NameFacts(True, arguments["image_size"], arguments["patch_size"], arguments["embed_dim"])
