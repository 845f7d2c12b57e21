"""What step.py trains: the students, one batch of images, and every matrix product of a step."""

# Shapes: B images, C channels, H height, W width, K classes.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MIXUP, CUTMIX, SMOOTHING = 0.8, 1.0, 0.1
LR, WEIGHT_DECAY, CLIP_NORM, EMA_DECAY = 5e-4, 0.05, 1.0, 0.9999
TEACHER_WEIGHT = 0.5


@dataclass(frozen=True)
class Shape:
    """A distilled DeiT and its batch."""

    size: str
    """Of the name: tiny, small."""
    patch_size: int
    side: int
    width: int
    heads: int
    batch_size: int
    num_classes: int
    depth: int = 12

    @property
    def name(self) -> str:
        return f"deit_{self.size}_distilled_patch{self.patch_size}_{self.side}"

    @property
    def num_patches(self) -> int:
        return (self.side // self.patch_size) ** 2


SHAPES = {
    "ti-224": Shape("tiny", 16, 224, 192, 3, batch_size=16, num_classes=1000),
    "s-224": Shape("small", 16, 224, 384, 6, batch_size=8, num_classes=1000),
    "ti-32": Shape("tiny", 4, 32, 192, 3, batch_size=128, num_classes=10),
}


class Given(NamedTuple):
    """The batch of every round: the same for all arms."""

    images_BCHW: Tensor
    """uint8."""
    labels_B: Tensor
    teacher_BK: Tensor
    """Logits."""


def given(shape: Shape) -> Given:
    chance = np.random.default_rng(0)
    size = (shape.batch_size, 3, shape.side, shape.side)
    pixels = torch.from_numpy(chance.integers(0, 256, size, dtype=np.uint8))
    labels_B = torch.from_numpy(chance.integers(0, shape.num_classes, shape.batch_size))
    logits_BK = chance.normal(size=(shape.batch_size, shape.num_classes)).astype(np.float32)
    return Given(pixels, labels_B, torch.from_numpy(logits_BK))


class Product(NamedTuple):
    """`times` products of `matrices` pairs [rows, inner] x [inner, columns]."""

    times: int
    matrices: int
    rows: int
    inner: int
    columns: int
    layout: str
    """As in torch: "nt" reads the second factor transposed, "tn" the first, "nn" neither."""


def products(shape: Shape) -> list[Product]:
    """Every matrix product of forward and backward, without what any fused kernel does again.

    y = x W^T has dx = dy W and dW = dy^T x; the patches' own gradient is not needed. Attention has
    two products forward, q k^T and p v, and two for the gradients of each.
    """
    images, width, depth = shape.batch_size, shape.width, shape.depth
    tokens = shape.num_patches + 2
    rows = images * tokens
    found: list[Product] = []

    def linear(times: int, rows: int, inner: int, columns: int, *, reads_images: bool) -> None:
        found.append(Product(times, 1, rows, inner, columns, "nt"))
        found.append(Product(times, 1, columns, rows, inner, "tn"))
        if not reads_images:
            found.append(Product(times, 1, rows, columns, inner, "nn"))

    patch_values = 3 * shape.patch_size**2
    linear(1, images * shape.num_patches, patch_values, width, reads_images=True)
    for inner, columns in ((width, 3 * width), (width, width)):
        linear(depth, rows, inner, columns, reads_images=False)
    for inner, columns in ((width, 4 * width), (4 * width, width)):
        linear(depth, rows, inner, columns, reads_images=False)
    linear(2, images, width, shape.num_classes, reads_images=False)
    heads, each = images * shape.heads, width // shape.heads
    found += [
        Product(2 * depth, heads, tokens, each, tokens, "nt"),
        Product(2 * depth, heads, tokens, tokens, each, "nn"),
        Product(2 * depth, heads, tokens, tokens, each, "tn"),
    ]
    return found


def flops(shape: Shape) -> float:
    """Multiplications and additions of a step's products."""
    return float(
        sum(2 * p.times * p.matrices * p.rows * p.inner * p.columns for p in products(shape))
    )


def floor_step(shape: Shape) -> Callable[[], None]:
    """All products of a step and nothing else, in MKL."""
    prepared = []
    for p in products(shape):
        first = torch.randn((p.matrices, p.rows, p.inner))
        second = torch.randn((p.matrices, p.inner, p.columns))
        if p.layout == "tn":
            first = torch.randn((p.matrices, p.inner, p.rows)).transpose(1, 2)
        if p.layout == "nt":
            second = torch.randn((p.matrices, p.columns, p.inner)).transpose(1, 2)
        out = torch.empty((p.matrices, p.rows, p.columns))
        if p.matrices == 1:
            first, second, out = first[0], second[0], out[0]
        prepared.append((p, first, second, out))

    def step() -> None:
        for p, first, second, out in prepared:
            multiply = torch.mm if p.matrices == 1 else torch.bmm
            for _ in range(p.times):
                multiply(first, second, out=out)

    return step
