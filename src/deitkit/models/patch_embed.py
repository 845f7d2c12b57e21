"""Pixels -> patch tokens."""

# Shapes: B images, C channels, H height, W width, N patches, D width of a token.

from __future__ import annotations

from torch import Tensor, nn

STEMS = ("linear", "conv")


class PatchEmbed(nn.Module):
    """Cut the image into square patches and project each to one token: a strided convolution."""

    def __init__(self, *, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, embed_dim, patch_size, stride=patch_size)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, N, D], patches row by row."""
        return self.proj(images_BCHW).flatten(2).transpose(1, 2)


class ConvStem(nn.Module):
    """Overlapping 3x3 convolutions of stride 2 down to the patch grid, then a 1x1 projection.

    Xiao et al. 2021, "Early Convolutions Help Transformers See Better", arXiv:2106.14881, section
    4. Patches of 2 get one convolution of stride 1 before, so that there are at least two.

    Deviation: normalised per image (one group) and not over the batch, so that an image's tokens
    do not depend on the images it came with, on ranks or on accumulation.
    """

    def __init__(self, *, in_channels: int, embed_dim: int, patch_size: int) -> None:
        super().__init__()
        num_halvings = patch_size.bit_length() - 1
        strides = [1] * max(0, 2 - num_halvings) + [2] * num_halvings
        layers: list[nn.Module] = []
        for place, stride in enumerate(strides):
            width = max(8, embed_dim >> (len(strides) - 1 - place))
            layers += [
                nn.Conv2d(in_channels, width, 3, stride=stride, padding=1, bias=False),
                nn.GroupNorm(1, width),
                nn.GELU(),
            ]
            in_channels = width
        self.convs = nn.Sequential(*layers)
        self.proj = nn.Conv2d(in_channels, embed_dim, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, N, D], patches row by row."""
        return self.proj(self.convs(images_BCHW)).flatten(2).transpose(1, 2)
