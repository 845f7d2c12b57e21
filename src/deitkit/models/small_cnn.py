"""A small residual network for images up to 64 px: a teacher that two CPU cores can afford."""

# Shapes: B images, C channels, H height, W width, h and w of the last map, D width, K classes.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.flow import StudentOutput
from deitkit.models import checks
from deitkit.models.base import ImageModel
from deitkit.models.initialise import init_convnet
from deitkit.models.noise import ModelNoise

SMALL_CNN: dict[str, dict[str, Any]] = {"small_cnn": {"width": 16}}


def _norm_conv(in_width: int, out_width: int, kernel_size: int, stride: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm."""
    padding = kernel_size // 2
    return nn.Sequential(
        nn.Conv2d(in_width, out_width, kernel_size, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(out_width),
    )


def input_conv(in_channels: int, width: int, stride: int) -> nn.Sequential:
    """The first convolution, from pixels: its kernel of 2 stride + 1 skips none of them."""
    return _norm_conv(in_channels, width, 2 * stride + 1, stride)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions added to the input (He et al. 2016, arXiv:1512.03385, section 3.2)."""

    def __init__(self, in_width: int, out_width: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _norm_conv(in_width, out_width, 3, stride)
        self.conv2 = _norm_conv(out_width, out_width, 3)
        changes_shape = in_width != out_width or stride != 1
        self.shortcut: nn.Module = (
            _norm_conv(in_width, out_width, 1, stride) if changes_shape else nn.Identity()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch_BCHW = self.conv2(F.relu(self.conv1(x_BCHW)))
        return F.relu(branch_BCHW + self.shortcut(x_BCHW))


class SmallCNN(ImageModel):
    """A stem and three residual blocks of `width`, 2 `width`, 4 `width`, then the mean of the map.

    The stem brings the shorter side to 8 to 16 px: its stride is side // 14, at least 1 and at most
    4, with a kernel of 2 stride + 1 so that no pixel is skipped. `image_size` sets that stride
    only; images of any size from 8 px go through.

    Raises:
        ConfigError: MODEL_OPTION, before any allocation.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        image_size: int | Sequence[int] = 32,
        in_channels: int = 3,
        width: int = 16,
    ) -> None:
        super().__init__()
        self.image_size = checks.resolve_image_size(image_size)
        checks.check_counts(num_classes=num_classes, in_channels=in_channels)
        checks.check_counts(upper=checks.MAX_WIDTH // 4, width=width)
        # 3x3 kernels: w w twice, w 2w and 2w 2w, 2w 4w and 4w 4w; the shortcuts add w 2w and 2w 4w.
        checks.check_size((9 * 32 + 10) * width**2 + 4 * width * num_classes)
        self.num_classes, self.in_channels = num_classes, in_channels
        self.embed_dim = 4 * width
        stem_stride = min(4, max(1, min(self.image_size) // 14))
        self.stem = input_conv(in_channels, width, stem_stride)
        self.blocks = nn.Sequential(
            ResidualBlock(width, width, stride=1),
            ResidualBlock(width, 2 * width, stride=2),
            ResidualBlock(2 * width, 4 * width, stride=2),
        )
        self.head = nn.Linear(self.embed_dim, num_classes)
        init_convnet(self)

    def forward_features(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> Tensor:
        """[B, D, h, w]: the last block's map. `noise` is not read: nothing here is dropped."""
        self.check_channels(images_BCHW)
        return self.blocks(F.relu(self.stem(images_BCHW)))

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """[B, D]: the mean of the last map."""
        return self.forward_features(images_BCHW).mean(dim=(2, 3))

    def forward(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> StudentOutput:
        return StudentOutput(self.head(self.embed(images_BCHW)), None)
