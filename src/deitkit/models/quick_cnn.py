"""A pooling network for images up to 64 px: what learns most in minutes, and a student's stem."""

# Shapes: B images, C channels, H height, W width, h and w of the last map, D width, K classes.

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.flow import StudentOutput
from deitkit.models import checks
from deitkit.models.base import ImageModel
from deitkit.models.deit_names import patch_size_for
from deitkit.models.initialise import init_convnet, pass_through
from deitkit.models.noise import ModelNoise

QUICK_CNN: dict[str, dict[str, Any]] = {
    "quick_cnn_narrow": {"width": 16},
    "quick_cnn": {"width": 32},
    "quick_cnn_wide": {"width": 64},
}

MAX_COMPONENTS = 12
"""That the first convolution keeps of a patch."""
PIXEL_CORRELATION, CHANNEL_CORRELATION = 0.95, 0.9
"""Between neighbours in natural images whose channels are normalised."""
WHITENING_FLOOR = 5e-4
"""Added to each component's variance, so that noise is not made large."""


def input_stride(patch_size: int) -> int:
    """Of the first convolution: two pooling blocks then lead to the grid of such patches, and one
    to that of patches of 2."""
    return max(1, patch_size // 4)


def _cosines(num: int) -> Tensor:
    """[num, num]: the orthonormal cosine transform of so many values, slow waves first."""
    place = torch.arange(num, dtype=torch.float64)
    waves = torch.cos(math.pi / num * place[:, None] * (place + 0.5)) * math.sqrt(2 / num)
    waves[0] /= math.sqrt(2)
    return waves


def whitening_filters(in_channels: int, side: int) -> Tensor:
    """[components, C, side, side]: a patch's largest components, each of variance about 1.

    The cosine transform over channels, rows and columns, which are the principal components of
    neighbours that fade with distance (Ahmed, Natarajan & Rao 1974, "Discrete Cosine Transform").
    """

    def waves_and_variances(num: int, correlation: float) -> tuple[Tensor, Tensor]:
        waves = _cosines(num)
        distance = (torch.arange(num)[:, None] - torch.arange(num)).abs()
        return waves, torch.einsum("wi,ij,wj->w", waves, correlation ** distance.double(), waves)

    colours, colour_variances = waves_and_variances(in_channels, CHANNEL_CORRELATION)
    lines, line_variances = waves_and_variances(side, PIXEL_CORRELATION)
    filters = torch.einsum("ac,by,dx->abdcyx", colours, lines, lines).flatten(0, 2)
    variances = torch.einsum("a,b,d->abd", colour_variances, line_variances, line_variances)
    order = variances.flatten().argsort(descending=True, stable=True)[:MAX_COMPONENTS]
    scale = (variances.flatten()[order] + WHITENING_FLOOR).rsqrt()
    return (filters[order] * scale[:, None, None, None]).float()


class Whitening(nn.Module):
    """Normalised pixels -> each patch's components and their negatives, through GELU.

    Patches of 2 `stride` pixels a side overlap by half. Nothing is learnt here: the filters are
    `whitening_filters`, kept with the weights.
    """

    filters: Tensor

    def __init__(self, in_channels: int, stride: int) -> None:
        super().__init__()
        filters = whitening_filters(in_channels, 2 * stride)
        self.register_buffer("filters", torch.cat([filters, -filters]))
        self.stride, self.out_channels = stride, 2 * len(filters)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        before, after = self.stride // 2, self.stride - self.stride // 2
        padded_BCHW = F.pad(images_BCHW, (before, after, before, after))
        return F.gelu(F.conv2d(padded_BCHW, self.filters, stride=self.stride))


class PoolingBlock(nn.Module):
    """Two 3x3 convolutions; after the first one only the largest of each 2x2 goes on."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.gelu(self.norm1(F.max_pool2d(self.conv1(x_BCHW), 2)))
        return F.gelu(self.norm2(self.conv2(x_BCHW)))


def pooling_blocks(in_width: int, width: int, num_blocks: int) -> nn.Sequential:
    """Blocks of `width`, 4 `width`, 4 `width`, each halving the sides."""
    widths = [in_width, width, 4 * width, 4 * width][: num_blocks + 1]
    return nn.Sequential(*(PoolingBlock(*pair) for pair in pairwise(widths)))


class QuickCNN(ImageModel):
    """Whitened patches, three pooling blocks of `width`, 4 `width`, 4 `width`, the map's maxima.

    After Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498,
    section 3: pooling right behind the first convolution of a block, kernels that begin by passing
    their input through, and GELU. `image_size` sets the stride of the first convolution only;
    images of any size from 8 px times that stride go through.

    Deviation: the first filters whiten natural images as a model describes them, not the training
    images themselves, so that a network is made without data; sides are padded, so that a
    transformer's grid of patches is one of its maps.

    Raises:
        ConfigError: MODEL_OPTION, before any allocation.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        image_size: int | Sequence[int] = 32,
        in_channels: int = 3,
        width: int = 32,
    ) -> None:
        super().__init__()
        self.image_size = checks.resolve_image_size(image_size)
        checks.check_counts(num_classes=num_classes, in_channels=in_channels)
        checks.check_counts(upper=checks.MAX_WIDTH // 4, width=width)
        # 3x3 kernels: 24 w, w w, w 4w, and 4w 4w three times.
        checks.check_size(9 * (2 * MAX_COMPONENTS + 53 * width) * width + 4 * width * num_classes)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.embed_dim = 4 * width
        self.stem = Whitening(in_channels, input_stride(patch_size_for(max(self.image_size))))
        self.blocks = pooling_blocks(self.stem.out_channels, width, 3)
        self.head = nn.Linear(self.embed_dim, num_classes)
        init_convnet(self)
        pass_through(self.blocks)

    def forward_features(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> Tensor:
        """[B, D, h, w]: the last block's map. `noise` is not read: nothing here is dropped."""
        self.check_channels(images_BCHW)
        return self.blocks(self.stem(images_BCHW))

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """[B, D]: each channel's largest value in the last map."""
        return self.forward_features(images_BCHW).amax(dim=(2, 3))

    def forward(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> StudentOutput:
        return StudentOutput(self.head(self.embed(images_BCHW)), None)
