"""simplejpeg gives Pillow's bytes, or leaves the file to Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from deitkit.data import decoding, quick_jpeg
from deitkit.data.decoding import DecodePolicy, decode
from deitkit.data.faults import DecodeFault

pytest.importorskip("simplejpeg")


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Coloured waves and grain: no block is plain."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / (5 + c) + y / (7 - c)) for c in range(3)]
    levels = np.stack(waves, axis=2) + chance.normal(0, 12, (height, width, 3))
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def with_and_without(encoded: bytes, monkeypatch, policy: DecodePolicy | None = None):
    """Pixels or the fault's reason, quickly and by Pillow alone."""
    answers = []
    for package in (quick_jpeg._simplejpeg(), None):
        monkeypatch.setattr(quick_jpeg, "_simplejpeg", lambda package=package: package)
        try:
            answers.append(decode(encoded, policy or DecodePolicy()))
        except DecodeFault as fault:
            answers.append(fault.reason)
        monkeypatch.undo()
    return answers


@given(
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    quality=st.integers(5, 100),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0", "440", "411"]),
    progressive=st.booleans(),
    seed=st.integers(0, 9),
)
def test_every_colour_jpeg_has_pillows_bytes(
    height, width, quality, subsampling, progressive, seed
):
    original = picture(height, width, seed)
    if ":" in subsampling:
        encoded = jpeg(original, quality=quality, progressive=progressive, subsampling=subsampling)
    else:  # Pillow writes none of these
        encoded = quick_jpeg._simplejpeg().encode_jpeg(
            np.asarray(original), quality=quality, colorsubsampling=subsampling
        )
    quick = quick_jpeg.rgb_of_jpeg(encoded)
    assert quick is not None
    np.testing.assert_array_equal(quick, np.asarray(Image.open(io.BytesIO(encoded))))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    quick, plain = with_and_without(jpeg(picture(40, 24), exif=exif), monkeypatch)
    assert quick.shape == ((40, 24, 3) if orientation < 5 else (24, 40, 3))
    np.testing.assert_array_equal(quick, plain)
    assert quick.flags.c_contiguous


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGB"])
@pytest.mark.parametrize("channels", [1, 3])
def test_other_colours_are_pillows(mode, channels, monkeypatch):
    encoded = jpeg(picture(30, 20).convert(mode))
    policy = DecodePolicy(channels=channels)
    quick, plain = with_and_without(encoded, monkeypatch, policy)
    assert quick.shape == (30, 20, channels)
    np.testing.assert_array_equal(quick, plain)


@pytest.mark.parametrize("cut", [0.3, 0.7, 0.99])
def test_a_cut_file_is_refused_alike(cut, monkeypatch):
    encoded = jpeg(picture(90, 70))
    quick, plain = with_and_without(encoded[: int(cut * len(encoded))], monkeypatch)
    assert quick == plain == "truncated"


@pytest.mark.parametrize("seed", range(20))
def test_flipped_bytes_end_alike(seed, monkeypatch):
    """The same pixels or the same refusal, whatever is broken."""
    encoded = bytearray(jpeg(picture(64, 64)))
    chance = np.random.default_rng(seed)
    encoded[int(chance.integers(200, len(encoded) - 2))] ^= int(chance.integers(1, 256))
    quick, plain = with_and_without(bytes(encoded), monkeypatch)
    np.testing.assert_array_equal(quick, plain)


def test_what_follows_the_picture_does_not_count(monkeypatch):
    quick, plain = with_and_without(jpeg(picture(32, 32)) + b"more" * 100, monkeypatch)
    np.testing.assert_array_equal(quick, plain)


def test_smaller_views_are_left_to_pillow(monkeypatch):
    """At half the sides, where the decoder itself leaves out the rest."""
    asked = []
    monkeypatch.setattr(decoding, "rgb_of_jpeg", asked.append)
    small = decoding.decode_with_facts(jpeg(picture(64, 80)), DecodePolicy(), least=(32, 40))
    assert small.pixels_HWC.shape == (32, 40, 3) and not asked


def test_real_photographs(shared_data, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet")
    file = parquet.ParquetFile(shared_data / "imagenet_samples100" / "test.parquet")
    for row in next(file.iter_batches(batch_size=30, columns=["image"])).to_pylist():
        quick, plain = with_and_without(row["image"]["bytes"], monkeypatch)
        np.testing.assert_array_equal(quick, plain)
