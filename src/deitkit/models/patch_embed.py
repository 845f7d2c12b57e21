"""Pixels -> patch tokens."""

# Shapes: B images, C channels, H height, W width, N patches, D width of a token.

from __future__ import annotations

from torch import Tensor, nn

from deitkit.models.quick_cnn import PoolingBlock, Whitening, pooling_blocks

STEMS = ("linear", "conv", "pooling")


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


class PoolingStem(nn.Module):
    """The first stages of a `QuickCNN` of the same `width`, down to the patch grid, then a 1x1
    projection.

    A pooling block for each halving, `num_blocks` of them at most; the convolution before them
    takes the stride that is left. Patches need not divide the image: pooling leaves an odd last
    row or column out. Dai et al. 2021, CoAtNet, arXiv:2106.04803, section 2.2, put whole stages of
    convolutions before those of attention. Weights of a quick_cnn that was trained at the same
    stride fit unrenamed below `patch_embed.`.

    Its batch norm learns far faster than the one group of `ConvStem`, and makes a training image's
    tokens depend on its batch: on the device's part of it, where gradients are accumulated.
    """

    def __init__(
        self, *, in_channels: int, embed_dim: int, patch_size: int, width: int, num_blocks: int
    ) -> None:
        super().__init__()
        stride = max(1, patch_size >> num_blocks)
        self.stem = Whitening(in_channels, stride)
        num_halvings = (patch_size // stride).bit_length() - 1
        self.blocks = pooling_blocks(self.stem.out_channels, width, num_halvings)
        last = self.blocks[-1]
        assert isinstance(last, PoolingBlock)
        self.proj = nn.Conv2d(last.conv2.out_channels, embed_dim, 1)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """[B, N, D], patches row by row."""
        return self.proj(self.blocks(self.stem(images_BCHW))).flatten(2).transpose(1, 2)


def build_patch_embed(
    stem: str,
    *,
    in_channels: int,
    embed_dim: int,
    patch_size: int,
    stem_width: int,
    stem_blocks: int,
) -> nn.Module:
    """One of `STEMS`; only the pooling one reads `stem_width` and `stem_blocks`."""
    shape = {"in_channels": in_channels, "embed_dim": embed_dim, "patch_size": patch_size}
    if stem == "pooling":
        return PoolingStem(**shape, width=stem_width, num_blocks=stem_blocks)
    return ConvStem(**shape) if stem == "conv" else PatchEmbed(**shape)
