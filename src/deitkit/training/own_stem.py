"""A student whose convolutions begin as the first stages of its teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError
from deitkit.models import DeiT, ImageModel, QuickCNN
from deitkit.models.patch_embed import PoolingStem
from deitkit.models.quick_cnn import PoolingBlock

if TYPE_CHECKING:
    from deitkit.teachers import Classifier


def _stages(
    model: ImageModel, teacher: Classifier | None, spec: Preprocessing
) -> tuple[PoolingStem, QuickCNN] | str:
    """The student's stem and the network that it may begin as, or what keeps it from that."""
    if not isinstance(model, DeiT) or not isinstance(model.patch_embed, PoolingStem):
        return "the student has no pooling stem"
    if teacher is None or not isinstance(teacher.module, QuickCNN):
        return "the teacher is no quick_cnn"
    if teacher.image_size != spec.image_size:
        return "the teacher sees another image size"
    if (teacher.mean, teacher.std) != (tuple(spec.mean), tuple(spec.std)):
        return "the teacher's images are normalised by other numbers"
    ours, theirs = _facts(model.patch_embed), _facts(teacher.module)
    if ours != theirs:
        return "the teacher begins with {} channels at stride {}, the student with {} at {}".format(
            *theirs, *ours
        )
    return model.patch_embed, teacher.module


def _facts(network: PoolingStem | QuickCNN) -> tuple[int, int]:
    """Channels of the first block, and the stride before it."""
    first = network.blocks[0]
    assert isinstance(first, PoolingBlock)
    return first.conv1.out_channels, network.stem.stride


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
            "use teacher=auto and a model with _quick or _hybrid in its name, or leave "
            "model.init_stem out",
        )
    stem, network = found
    with torch.no_grad():
        for ours, theirs in zip(stem.blocks, network.blocks, strict=False):
            ours.load_state_dict(theirs.state_dict())
    num = sum(parameter.numel() for parameter in stem.blocks.parameters())
    return f"the stem begins as the first stages of the teacher ({num:,} weights)"
