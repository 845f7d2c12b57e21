"""A student whose convolutions begin as the first stages of its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError
from deitkit.models import DeiT, ImageModel, SmallCNN
from deitkit.models.patch_embed import ResidualStem

if TYPE_CHECKING:
    from deitkit.teachers import Classifier


def _stages(
    model: ImageModel, teacher: Classifier | None, spec: Preprocessing
) -> tuple[ResidualStem, SmallCNN] | str:
    """The student's stem and the network that it may begin as, or what keeps it from that."""
    if not isinstance(model, DeiT) or not isinstance(model.patch_embed, ResidualStem):
        return "the student has no residual stem"
    if teacher is None or not isinstance(teacher.module, SmallCNN):
        return "the teacher is no small_cnn"
    if teacher.image_size != spec.image_size:
        return "the teacher sees another image size"
    if (teacher.mean, teacher.std) != (tuple(spec.mean), tuple(spec.std)):
        return "the teacher's images are normalised by other numbers"
    ours, theirs = model.patch_embed.stem[0], teacher.module.stem[0]
    assert isinstance(ours, nn.Conv2d) and isinstance(theirs, nn.Conv2d)
    if ours.stride != theirs.stride or ours.weight.shape != theirs.weight.shape:
        return (
            f"the teacher begins with {theirs.out_channels} channels at stride "
            f"{theirs.stride[0]}, the student with {ours.out_channels} at {ours.stride[0]}"
        )
    return model.patch_embed, teacher.module


def inherit_stem(
    model: ImageModel, teacher: Classifier | None, spec: Preprocessing, *, asked: str
) -> str | None:
    """Copy the teacher's first stages into the student's stem; what was done in words, or None.

    `asked` is the setting model.init_stem: fitting copies what fits, new nothing. The batch-norm
    statistics go along. What the student then does with them is its own.

    Raises:
        ConfigError: INIT_STEM, asked for and impossible.
    """
    if asked == "new":
        return None
    found = _stages(model, teacher, spec)
    if isinstance(found, str):
        if asked == "fitting":
            return None
        raise ConfigError(
            "INIT_STEM",
            "model.init_stem=teacher",
            found,
            "use teacher=auto with a model of the _res names, or leave model.init_stem out",
        )
    stem, network = found
    with torch.no_grad():
        stem.stem.load_state_dict(network.stem.state_dict())
        for ours, theirs in zip(stem.blocks, network.blocks, strict=False):
            ours.load_state_dict(theirs.state_dict())
    num = sum(p.numel() for p in (*stem.stem.parameters(), *stem.blocks.parameters()))
    return f"the stem begins as the first stages of the teacher ({num:,} weights)"
