"""Encoded bytes or Python pictures -> uint8 pixels. The only decoder: train, evaluate, predict.

Every image is decoded in full, but for training views that ask for less of a JPEG. Format by
content, never by name. Animations give their first frame.
"""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile

from deitkit.data.containers import ends_early, foreign_format, image_format
from deitkit.data.faults import DecodeFault
from deitkit.data.pixels import is_grey, orientation_of, pixels_of, upright
from deitkit.data.quick_jpeg import plain_size, rgb_of_jpeg
from deitkit.data.reduction import decoding_scale
from deitkit.errors import ConfigError, DataError

_READERS = {
    "JPEG": ("JpegImagePlugin", "jpeg_factory"),
    "PNG": ("PngImagePlugin", "PngImageFile"),
    "WEBP": ("WebPImagePlugin", "WebPImageFile"),
    "GIF": ("GifImagePlugin", "GifImageFile"),
    "BMP": ("BmpImagePlugin", "BmpImageFile"),
    "TIFF": ("TiffImagePlugin", "TiffImageFile"),
}
"""Format -> module of Pillow and what reads it, loaded when there is such a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecodePolicy:
    """What an image becomes. One policy serves training, evaluation and prediction."""

    channels: int = 3
    """1: luminance. 3: RGB, grey repeated. Other counts only from arrays that have them."""
    background: tuple[int, int, int] = (255, 255, 255)
    """RGB colour under transparent pixels."""
    max_pixels: int = 50_000_000
    """Height times width above which a picture is refused by its header, undecoded."""
    min_side: int = 8
    """Pictures with a side shorter than this, in pixels, are refused."""
    value_range: tuple[float, float] | None = None
    """Values that become black and white in 32-bit pictures. None: by bit depth; floats 0 to 1."""

    def __post_init__(self) -> None:
        for name, value in (
            ("channels", self.channels),
            ("max_pixels", self.max_pixels),
            ("min_side", self.min_side),
        ):
            if value < 1:
                raise ConfigError("BAD_VALUE", name, f"is {value}", "give 1 or more")
        if self.value_range is not None and not self.value_range[0] < self.value_range[1]:
            raise ConfigError(
                "BAD_VALUE", "value_range", f"is {self.value_range}", "give the lower value first"
            )


class Decoded(NamedTuple):
    """Pixels, and what the scan counts about the file they came from."""

    pixels_HWC: np.ndarray
    file_format: str
    """By content; empty for Python pictures."""
    animated: bool
    grey: bool


def decode(encoded: bytes, policy: DecodePolicy) -> np.ndarray:
    """uint8 [H, W, C] of an encoded picture, upright and opaque. Raises DecodeFault(reason)."""
    return decode_with_facts(encoded, policy).pixels_HWC


def decode_with_facts(
    encoded: bytes, policy: DecodePolicy, *, least: tuple[int, int] | None = None
) -> Decoded:
    """As `decode`, with format, animation and greyness. Raises DecodeFault(reason).

    With `least` rows and columns, upright, a JPEG is decoded at 1/2, 1/4 or 1/8 of its sides
    (rounded up) where that leaves as many.
    """
    file_format = _readable_format(encoded)
    _check_settings(policy)
    try:
        plain_HWC = _plain_jpeg(encoded, policy, least) if file_format == "JPEG" else None
        if plain_HWC is not None:
            return Decoded(plain_HWC, file_format, animated=False, grey=False)
        image = _reader_of(file_format)(BytesIO(encoded))
        _check_size(image, policy)
        whole = image.size
        if least is not None and file_format == "JPEG":
            _decode_scaled(image, least)
        is_whole_jpeg = file_format == "JPEG" and image.size == whole
        pixels_HWC = _quickly(image, encoded, policy) if is_whole_jpeg else None
        if pixels_HWC is None:
            image.load()
            pixels_HWC = _finished(image, policy)
        return Decoded(pixels_HWC, file_format, _is_animated(image, file_format), is_grey(image))
    except DecodeFault:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as fault:
        raise DecodeFault("too_large", str(fault)) from fault
    # Hostile bytes make decoders raise nearly anything: SyntaxError, struct.error,
    # OverflowError, MemoryError and more. Whatever it is, this one picture is unusable.
    except Exception as fault:
        cut = "truncated" in str(fault).lower() or ends_early(encoded, file_format)
        reason = "truncated" if cut and not isinstance(fault, MemoryError) else "decode_error"
        raise DecodeFault(reason, f"{type(fault).__name__}: {fault}"[:200]) from fault


def decode_array(
    image: Image.Image | np.ndarray, policy: DecodePolicy, *, subject: str = "the array"
) -> np.ndarray:
    """uint8 [H, W, C] of a Pillow image or of a uint8 array [H, W] or [H, W, C].

    Arrays are never guessed to be channels-first. Raises DecodeFault for a picture that is too
    large, too small or damaged, DataError BAD_ARRAY (`subject`) for any other type or shape.
    """
    if isinstance(image, Image.Image):
        _check_settings(policy)
        _check_size(image, policy)
        try:
            image.load()
            return _finished(image, policy)
        except DecodeFault:
            raise
        except Exception as fault:  # As above: a lazily opened file decodes only here.
            raise DecodeFault("decode_error", f"{type(fault).__name__}: {fault}"[:200]) from fault
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise DataError(
            "BAD_ARRAY",
            subject,
            f"is {array.dtype} of shape {array.shape}",
            "give uint8 of shape (height, width) or (height, width, channels)",
        )
    array_HWC = array[:, :, None] if array.ndim == 2 else array
    height, width, channels = array_HWC.shape
    if channels not in (1, 2, 3, 4, policy.channels):
        raise DataError(
            "BAD_ARRAY",
            subject,
            f"of shape {array.shape} has {channels} channels",
            f"give (height, width, channels) with {policy.channels} channels",
        )
    _check_sides(height, width, policy)
    if channels == policy.channels:
        return array_HWC.copy()
    _check_settings(policy)
    squeezed = array_HWC[:, :, 0] if channels == 1 else array_HWC
    return _finished(Image.fromarray(np.ascontiguousarray(squeezed)), policy)


def _readable_format(encoded: bytes) -> str:
    if not encoded:
        raise DecodeFault("empty_file")
    file_format = image_format(encoded)
    if file_format is None:
        foreign = foreign_format(encoded)
        if foreign:
            raise DecodeFault("format_not_allowed", f"{foreign}; use JPEG, PNG or WebP")
        raise DecodeFault("not_an_image")
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise DataError(
            "LENIENT_PILLOW",
            "PIL.ImageFile.LOAD_TRUNCATED_IMAGES",
            "is on, so damaged pictures would be padded with grey unnoticed",
            "set it to False",
        )
    return file_format


def _reader_of(file_format: str) -> Callable[[BytesIO], Image.Image]:
    if file_format != "HEIF":
        module, name = _READERS[file_format]
        found: Callable[[BytesIO], Image.Image] = getattr(
            importlib.import_module(f"PIL.{module}"), name
        )
        return found
    try:
        heif: Any = importlib.import_module("pillow_heif")
    except ImportError:
        raise DecodeFault(
            "format_not_allowed", 'HEIC; to read it: pip install "deitkit[heic]"'
        ) from None
    heif.register_heif_opener()
    return lambda stream: Image.open(stream, formats=["HEIF"])


def _check_settings(policy: DecodePolicy) -> None:
    if policy.channels not in (1, 3):
        raise ConfigError(
            "CHANNELS",
            "channels",
            f"{policy.channels} channels cannot come from a picture file",
            "set 1 or 3, or give uint8 arrays with that many channels from Python",
        )


def _check_size(image: Image.Image, policy: DecodePolicy) -> None:
    width, height = image.size
    _check_sides(height, width, policy)


def _check_sides(height: int, width: int, policy: DecodePolicy) -> None:
    if height * width > policy.max_pixels:
        raise DecodeFault(
            "too_large", f"{height}x{width} pixels, more than max_pixels={policy.max_pixels}"
        )
    if min(height, width) < policy.min_side:
        raise DecodeFault(
            "too_small", f"{height}x{width} pixels, a side under min_side={policy.min_side}"
        )


def _plain_jpeg(
    encoded: bytes, policy: DecodePolicy, least: tuple[int, int] | None
) -> np.ndarray | None:
    """The pixels of a JPEG that is wanted whole and in colour, where its header is quickly read."""
    size = plain_size(encoded) if policy.channels == 3 else None
    if size is None or (least is not None and decoding_scale(size, least) > 1):
        return None
    _check_sides(*size, policy)
    return rgb_of_jpeg(encoded)


def _decode_scaled(image: Image.Image, least: tuple[int, int]) -> None:
    """Have the decoder leave out what finer cosines would add; before loading."""
    width, height = image.size
    turned = orientation_of(image) >= 5
    scale = decoding_scale((height, width), least[::-1] if turned else least)
    if scale > 1:
        image.draft(image.mode, (width // scale, height // scale))


def _quickly(image: Image.Image, encoded: bytes, policy: DecodePolicy) -> np.ndarray | None:
    """The pixels of a colour JPEG that is wanted in colour; None where Pillow has to decode it."""
    is_colour = image.mode == "RGB" and policy.channels == 3
    rgb_HWC = rgb_of_jpeg(encoded) if is_colour else None
    if rgb_HWC is None:
        return None
    return np.ascontiguousarray(upright(rgb_HWC, orientation_of(image)))


def _finished(image: Image.Image, policy: DecodePolicy) -> np.ndarray:
    # Read after loading: Pillow turns TIFF itself while it loads, and then drops the tag.
    orientation = orientation_of(image)
    pixels_HWC = pixels_of(
        image,
        channels=policy.channels,
        background=policy.background,
        value_range=policy.value_range,
    )
    return np.ascontiguousarray(upright(pixels_HWC, orientation))


def _is_animated(image: Image.Image, file_format: str) -> bool:
    """Whether the file goes on after its first frame, without decoding or counting the rest."""
    if file_format == "JPEG":
        return False  # The further pictures of an MPO file are previews and depth maps.
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # The first frame is whole; damage behind it is of no concern.
        return False
