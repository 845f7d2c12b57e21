"""RegNetY: convolutional networks whose stage widths follow one quantised line."""

# Shapes: B images, C channels, H height, W width, h and w of the last map, D width, K classes.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from deitkit.flow import StudentOutput
from deitkit.models import checks
from deitkit.models.base import ImageModel
from deitkit.models.initialise import init_convnet
from deitkit.models.noise import ModelNoise


def _published(
    depth: int, initial_width: int, width_slope: float, width_ratio: float, group_width: int
) -> dict[str, Any]:
    return {
        "depth": depth,
        "initial_width": initial_width,
        "width_slope": width_slope,
        "width_ratio": width_ratio,
        "group_width": group_width,
    }


REGNETY: dict[str, dict[str, Any]] = {
    "regnety_002": _published(13, 24, 36.44, 2.49, 8),
    "regnety_004": _published(16, 48, 27.89, 2.09, 8),
    "regnety_006": _published(15, 48, 32.54, 2.32, 16),
    "regnety_008": _published(14, 56, 38.84, 2.4, 16),
    "regnety_016": _published(27, 48, 20.71, 2.65, 24),
    "regnety_032": _published(21, 80, 42.63, 2.66, 24),
    "regnety_040": _published(22, 96, 31.41, 2.24, 64),
    "regnety_064": _published(25, 112, 33.22, 2.27, 72),
    "regnety_080": _published(17, 192, 76.82, 2.19, 56),
    "regnety_120": _published(19, 168, 73.36, 2.37, 112),
    "regnety_160": _published(18, 200, 106.23, 2.48, 112),
}
"""d, w_0, w_a, w_m and g of the RegNetY models of Radosavovic et al. 2020, arXiv:2003.13678."""


class Stage(NamedTuple):
    """Blocks that share one width."""

    depth: int
    width: int
    group_width: int


def stage_shapes(
    *,
    depth: int,
    initial_width: int,
    width_slope: float,
    width_ratio: float,
    group_width: int,
) -> list[Stage]:
    """The stages of a RegNet, arXiv:2003.13678, equations 2 to 4.

    u_j = w_0 + w_a j for block j; s_j = round(log_{w_m}(u_j / w_0)); w_j = w_0 w_m^{s_j}, rounded
    to a multiple of 8, at least 8; then each stage's width to a multiple of its group width.
    """
    widths = []
    for j in range(depth):
        line = initial_width + width_slope * j
        exponent = round(math.log(line / initial_width) / math.log(width_ratio))
        widths.append(max(1, round(initial_width * width_ratio**exponent / 8)) * 8)
    stages = []
    for width, num_blocks in sorted(Counter(widths).items()):
        group = min(group_width, width)
        stages.append(Stage(num_blocks, round(width / group) * group, group))
    return stages


class ConvNorm(nn.Module):
    """Convolution without bias, batch norm, and ReLU unless `act` is False."""

    def __init__(
        self,
        in_width: int,
        out_width: int,
        kernel_size: int,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_width,
            out_width,
            kernel_size,
            stride=stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_width)
        self.act = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.act(self.bn(self.conv(x_BCHW)))


class SqueezeExcite(nn.Module):
    """A gate for each channel that reads the mean of all (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(width, hidden_width, 1)
        self.act = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(hidden_width, width, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC11 = x_BCHW.mean(dim=(2, 3), keepdim=True)
        return x_BCHW * self.fc2(self.act(self.fc1(mean_BC11))).sigmoid()


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, gate, 1x1, added to the input: the paper's Y block, bottleneck ratio 1.

    The gate's hidden width is a share of the width the block reads, as in the published networks.
    """

    def __init__(
        self, in_width: int, out_width: int, *, stride: int, group_width: int, se_ratio: float
    ) -> None:
        super().__init__()
        groups = out_width // group_width
        self.conv1 = ConvNorm(in_width, out_width, 1)
        self.conv2 = ConvNorm(out_width, out_width, 3, stride=stride, groups=groups)
        self.se = SqueezeExcite(out_width, max(1, round(in_width * se_ratio)))
        self.conv3 = ConvNorm(out_width, out_width, 1, act=False)
        self.act3 = nn.ReLU(inplace=True)
        changes_shape = in_width != out_width or stride != 1
        self.downsample: nn.Module = (
            ConvNorm(in_width, out_width, 1, stride=stride, act=False)
            if changes_shape
            else nn.Identity()
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        branch_BCHW = self.conv3(self.se(self.conv2(self.conv1(x_BCHW))))
        return self.act3(branch_BCHW + self.downsample(x_BCHW))


class Head(nn.Module):
    """Mean over the map, then one linear layer."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        return self.fc(x_BDhw.mean(dim=(2, 3)))


class RegNet(ImageModel):
    """RegNetY, Radosavovic et al. 2020, arXiv:2003.13678: the teachers of the DeiT paper.

    A stem and stages that each halve the map; images of any size from 32 px work. The parameters
    carry timm's names. `depth`, `initial_width`, `width_slope`, `width_ratio` and `group_width` are
    the paper's d, w_0, w_a, w_m and g. Residual branches start at zero through their last norm
    (Goyal et al. 2017, arXiv:1706.02677, section 5.1).

    Raises:
        ConfigError: MODEL_OPTION, before any allocation.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        image_size: int | Sequence[int] = 224,
        in_channels: int = 3,
        depth: int = 13,
        initial_width: int = 24,
        width_slope: float = 36.44,
        width_ratio: float = 2.49,
        group_width: int = 8,
        se_ratio: float = 0.25,
        stem_width: int = 32,
    ) -> None:
        super().__init__()
        self.image_size = checks.resolve_image_size(image_size)
        checks.check_counts(num_classes=num_classes, in_channels=in_channels)
        checks.check_counts(initial_width=initial_width, group_width=group_width)
        checks.check_counts(stem_width=stem_width)
        checks.check_counts(upper=checks.MAX_DEPTH, depth=depth)
        checks.check_numbers(above=0, upper=checks.MAX_WIDTH, width_slope=width_slope)
        checks.check_numbers(above=1, upper=16, width_ratio=width_ratio)
        checks.check_numbers(above=0, upper=1, se_ratio=se_ratio)
        stages = stage_shapes(
            depth=depth,
            initial_width=initial_width,
            width_slope=width_slope,
            width_ratio=width_ratio,
            group_width=group_width,
        )
        for stage in stages:
            checks.check_counts(stage_width=stage.width)
        checks.check_size(
            sum(s.depth * s.width * (2 * s.width + 9 * s.group_width) for s in stages)
            + stages[-1].width * num_classes
        )

        self.num_classes, self.in_channels = num_classes, in_channels
        self.stem = ConvNorm(in_channels, stem_width, 3, stride=2)
        self.stage_names = [f"s{i + 1}" for i in range(len(stages))]
        in_width = stem_width
        for name, stage in zip(self.stage_names, stages, strict=True):
            blocks = nn.Sequential()
            for i in range(stage.depth):
                block = Bottleneck(
                    in_width,
                    stage.width,
                    stride=2 if i == 0 else 1,
                    group_width=stage.group_width,
                    se_ratio=se_ratio,
                )
                blocks.add_module(f"b{i + 1}", block)
                in_width = stage.width
            self.add_module(name, blocks)
        self.embed_dim = in_width
        self.head = Head(in_width, num_classes)
        self._init_weights()

    @torch.no_grad()
    def _init_weights(self) -> None:
        init_convnet(self)
        for module in self.modules():
            if isinstance(module, Bottleneck):
                nn.init.zeros_(module.conv3.bn.weight)

    def forward_features(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> Tensor:
        """[B, D, h, w]: the last stage's map. `noise` is not read: nothing here is dropped."""
        self.check_channels(images_BCHW)
        x_BCHW = self.stem(images_BCHW)
        for name in self.stage_names:
            x_BCHW = self.get_submodule(name)(x_BCHW)
        return x_BCHW

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """[B, D]: the mean of the last map."""
        return self.forward_features(images_BCHW).mean(dim=(2, 3))

    def forward(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> StudentOutput:
        return StudentOutput(self.head(self.forward_features(images_BCHW, noise)), None)
