"""Pictures that differ as photographs do: smooth shapes of their own, some texture."""

# Shapes: H height, W width.

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageEnhance


def scene(seed: int, height: int = 72, width: int = 96) -> Image.Image:
    """A dozen coloured blobs on a slope; the same at every size."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    rows, columns = rows / height, columns / width
    picture_HW3 = 110 + 60 * (rows * rng.uniform(-1, 1) + columns * rng.uniform(-1, 1))[..., None]
    picture_HW3 = np.repeat(picture_HW3, 3, axis=2)
    for _ in range(12):
        top, left, reach = *rng.random(2), rng.uniform(0.08, 0.3)
        blob = np.exp(-((rows - top) ** 2 + (columns - left) ** 2) / reach**2)
        picture_HW3 += blob[..., None] * rng.uniform(-110, 110, 3)
    return Image.fromarray(np.clip(picture_HW3, 0, 255).astype(np.uint8))


def next_frame(picture: Image.Image, seed: int) -> Image.Image:
    """The same scene a moment later: other sensor noise."""
    noise = np.random.default_rng(seed).normal(0, 4, (picture.height, picture.width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8))


def recompressed(picture: Image.Image, quality: int = 40) -> Image.Image:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return Image.open(stream).convert("RGB")


def trimmed(picture: Image.Image, share: float = 0.02) -> Image.Image:
    """A little cut off each side."""
    across, down = share * picture.width, share * picture.height
    return picture.crop((across, down, picture.width - across, picture.height - down))


COPIES = {
    "scaled to 60 %": lambda p: p.resize((int(0.6 * p.width), int(0.6 * p.height))),
    "twice as large": lambda p: p.resize((2 * p.width, 2 * p.height), Image.Resampling.BICUBIC),
    "JPEG of quality 40": recompressed,
    "2 % cut off each side": trimmed,
    "lighter by 20 %": lambda p: ImageEnhance.Brightness(p).enhance(1.2),
    "in grey": lambda p: p.convert("L").convert("RGB"),
    "the next frame": lambda p: next_frame(p, 7),
}
