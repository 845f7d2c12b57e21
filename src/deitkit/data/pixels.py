"""A decoded Pillow image of any mode -> uint8 pixels, upright, opaque, in 1 or 3 channels.

Colour profiles (ICC) are ignored, in training as everywhere else.
"""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import numpy as np
from PIL import Image

from deitkit.data.faults import DecodeFault

_ORIENTATION_TAG = 0x0112
_TIFF_BITS_TAG = 258
_TIFF_SAMPLE_FORMAT_TAG = 339
_GREY_MODES = {"1", "L", "LA", "La", "F"}


def is_grey(image: Image.Image) -> bool:
    """Whether the image holds one grey value a pixel, with or without transparency."""
    return image.mode in _GREY_MODES or image.mode.startswith("I")


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, or none that can be understood."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # A damaged EXIF block says nothing about the pixels; 1 is "as stored".
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(pixels_HWC: np.ndarray, orientation: int) -> np.ndarray:
    """Undo the camera's rotation and mirroring, EXIF 2.32 section 4.6.4 A, tag Orientation."""
    if orientation >= 5:
        pixels_HWC = pixels_HWC.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels_HWC = pixels_HWC[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels_HWC = pixels_HWC[::-1]
    return pixels_HWC


def pixels_of(
    image: Image.Image,
    *,
    channels: int,
    background: tuple[int, int, int],
    value_range: tuple[float, float] | None,
) -> np.ndarray:
    """uint8 [H, W, channels] of a loaded image; its orientation must be read before.

    `channels` 1 is luminance (ITU-R 601-2, as Pillow's "L"), 3 is RGB. Raises DecodeFault.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image = _to_eight_bits(image, value_range)
    if image.has_transparency_data:
        image = _on_background(image, background)
    wanted = "L" if channels == 1 else "RGB"
    if image.mode != wanted:
        image = image.convert(wanted)
    pixels = np.array(image)
    return pixels[:, :, None] if channels == 1 else pixels


def _on_background(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    """alpha x image + (1 - alpha) x background: what is under alpha 0 leaves no trace."""
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    opaque = Image.new("RGB", rgba.size, background)
    opaque.paste(rgba, mask=rgba.getchannel("A"))
    return opaque


def _to_eight_bits(image: Image.Image, value_range: tuple[float, float] | None) -> Image.Image:
    """Deep greyscale to "L": linear from the full range of its bit depth to 0..255."""
    values = np.asarray(image)
    low, high = (0.0, 1.0) if image.mode == "F" else (0.0, float(_top_value(image)))
    if image.mode != "F" and high == 2**32 - 1:
        values = values.view(np.uint32)
    if value_range is not None and not image.mode.startswith("I;16"):
        low, high = value_range
    # A comparison with NaN is false, so NaN counts as outside.
    if not bool(((values >= low) & (values <= high)).all()):
        raise DecodeFault("value_range", f"values must lie in {low:g} to {high:g}")
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    grey = Image.fromarray(np.rint(scaled).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _top_value(image: Image.Image) -> int:
    """Largest value the integers of this image can take, from its file's bit depth."""
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        bits = int(tags.get(_TIFF_BITS_TAG, (16,))[0])
        signed = tags.get(_TIFF_SAMPLE_FORMAT_TAG, (1,))[0] == 2
        return int(2 ** (bits - 1) - 1 if signed else 2**bits - 1)
    if image.mode.startswith("I;16") or getattr(image, "format", None) == "PNG":
        return 2**16 - 1
    return 2**31 - 1
