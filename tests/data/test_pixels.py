"""What each mode, depth, transparency and orientation becomes: uint8, opaque, upright."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageOps, TiffImagePlugin

from deitkit.data import DecodeFault, DecodePolicy, decode
from tests.data import faulty_images as fi

# Pillow remarks on damaged files; the scan silences it, these tests call the decoder alone.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

POLICY = DecodePolicy()


def fault_of(encoded: bytes, policy: DecodePolicy = POLICY) -> DecodeFault:
    with pytest.raises(DecodeFault) as caught:
        decode(encoded, policy)
    return caught.value


def test_cmyk_jpeg_by_hand():
    """D18: Inks (C, M, Y, K) on paper: R = 255 (1 - C)(1 - K), and so on; within 3 levels."""
    inks = np.array([(0, 0, 0, 0), (255, 0, 0, 0), (0, 128, 255, 0), (51, 102, 0, 128)], np.uint8)
    flat = np.repeat(np.repeat(inks.reshape(2, 2, 4), 16, axis=0), 16, axis=1)
    encoded = fi.encode(Image.fromarray(flat, "CMYK"), "JPEG", quality=100, subsampling=0)
    share = inks.astype(float) / 255
    expected = 255 * (1 - share[:, :3]) * (1 - share[:, 3:])
    got = decode(encoded, POLICY)[8::16, 8::16].reshape(4, 3)
    np.testing.assert_allclose(got, expected, atol=3)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled(file_format):
    """D19: v 255 / 65535; a ramp of all values has the mean 127.5."""
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = decode(fi.encode(Image.fromarray(ramp), file_format), POLICY)
    np.testing.assert_array_equal(got[:, :, 0], np.rint(ramp / 257.0).astype(np.uint8))
    assert abs(got.mean() - 127.5) < 0.5


def test_float_tiff_lies_between_0_and_1():
    """D19."""
    values = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
    encoded = fi.encode(Image.fromarray(values), "TIFF")
    np.testing.assert_array_equal(decode(encoded, POLICY)[:, :, 2].ravel(), np.arange(256))
    wide = fi.encode(Image.fromarray(values * 200 - 100), "TIFF")
    assert fault_of(wide).reason == "value_range"
    stated = decode(wide, DecodePolicy(value_range=(-100, 100)))
    np.testing.assert_allclose(stated[:, :, 0].ravel(), np.arange(256), atol=1)
    holes = values.copy()
    holes[0, 0] = np.nan
    assert fault_of(fi.encode(Image.fromarray(holes), "TIFF")).reason == "value_range"


def test_32_bit_tiff_is_scaled_by_its_bit_depth():
    """D19."""
    values = np.array([[0, 2**30], [2**31 - 1, 2**29]], np.int32).repeat(8, 0).repeat(8, 1)
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[339] = 2  # Signed.
    got = decode(fi.encode(Image.fromarray(values), "TIFF", tiffinfo=info), POLICY)
    np.testing.assert_array_equal(got[::8, ::8, 1], [[0, 128], [255, 64]])
    assert fault_of(fi.encode(Image.fromarray(-values), "TIFF", tiffinfo=info)).reason == (
        "value_range"
    )


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P"])
def test_grey_becomes_three_equal_channels(mode):
    """D20."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    image = ramp.convert(mode)
    got = decode(fi.encode(image), POLICY)
    expected = np.asarray(image.convert("L"))
    for channel in range(3):
        np.testing.assert_array_equal(got[:, :, channel], expected)


def test_one_channel_is_luminance():
    """D20: ITU-R 601-2: L = 0.299 R + 0.587 G + 0.114 B."""
    image = fi.photo(3)
    got = decode(fi.encode(image), DecodePolicy(channels=1))
    assert got.shape == (24, 32, 1)
    np.testing.assert_allclose(got[:, :, 0], image @ [0.299, 0.587, 0.114], atol=1)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 200, 30)])
def test_transparency_lies_on_the_background(background):
    """D21: alpha x colour + (1 - alpha) x background; red under alpha 0 does not leak."""
    rgba = np.zeros((16, 16, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[..., 3] = np.arange(256).reshape(16, 16)
    got = decode(fi.encode(rgba), DecodePolicy(background=background))
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(
        got, alpha * rgba[..., :3] + (1 - alpha) * np.array(background), atol=1
    )
    np.testing.assert_array_equal(got[0, 0], background)


def test_palette_and_key_colours_are_transparent_too():
    """D21."""
    palette = Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for file_format in ("PNG", "GIF"):
        encoded = fi.encode(palette, file_format, transparency=1)
        np.testing.assert_array_equal(decode(encoded, POLICY), 255)
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    np.testing.assert_array_equal(decode(fi.encode(red, transparency=(255, 0, 0)), POLICY), 255)
    deep = Image.fromarray(np.full((16, 16), 1000, np.uint16))
    np.testing.assert_array_equal(decode(fi.encode(deep, transparency=1000), POLICY), 255)


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_eight_orientations_give_the_same_pixels(file_format):
    """D22: Each file stores the picture turned the other way round and says so."""
    upright = Image.fromarray(fi.photo(5, 16, 24))
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    for orientation, turn in undo.items():
        stored = upright if turn is None else upright.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        encoded = fi.encode(stored, file_format, exif=exif, **options.get(file_format, {}))
        got = decode(encoded, POLICY)
        atol = 4 if file_format == "JPEG" else 0
        np.testing.assert_allclose(got.astype(int), np.asarray(upright).astype(int), atol=atol)
        oracle = ImageOps.exif_transpose(Image.open(BytesIO(encoded))).convert("RGB")
        np.testing.assert_array_equal(got, np.asarray(oracle))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_invalid_orientation_counts_as_upright(orientation):
    """D22."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = fi.photo(1)
    np.testing.assert_array_equal(decode(fi.encode(image, exif=exif), POLICY), image)


def test_a_damaged_exif_block_counts_as_upright():
    """D22."""
    image = fi.photo(1)
    np.testing.assert_array_equal(
        decode(fi.encode(image, exif=b"Exif\x00\x00XXnot a header at all"), POLICY), image
    )


def test_colour_profiles_are_ignored():
    """D23."""
    image = fi.photo(2)
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    np.testing.assert_array_equal(decode(fi.encode(image, icc_profile=profile), POLICY), image)
