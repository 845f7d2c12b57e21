"""One decoder: what each kind of file becomes, and why a bad one is refused."""

from __future__ import annotations

import subprocess
import sys
from io import BytesIO
from types import ModuleType

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from deitkit.data import DecodeFault, DecodePolicy, decode, decode_array
from deitkit.data.decoding import decode_with_facts
from deitkit.errors import ConfigError, DataError
from tests.data import faulty_images as fi

# Pillow remarks on damaged files; the scan silences it, these tests call the decoder alone.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

POLICY = DecodePolicy()
NO_LIMIT = DecodePolicy(min_side=1)


def fault_of(encoded: bytes, policy: DecodePolicy = POLICY) -> DecodeFault:
    with pytest.raises(DecodeFault) as caught:
        decode(encoded, policy)
    return caught.value


def test_no_bytes():
    """D12."""
    assert fault_of(b"").reason == "empty_file"


@pytest.mark.parametrize("kind", fi.NOT_IMAGES)
def test_other_content_is_not_an_image(kind):
    """D13."""
    assert fault_of(fi.NOT_IMAGES[kind]).reason == "not_an_image"


@pytest.mark.parametrize("name", fi.CUT_FORMATS)
def test_half_a_file_is_truncated(name):
    """D14."""
    whole = fi.encoded_photo(name)
    assert fault_of(whole[: len(whole) // 2]).reason == "truncated"


@pytest.mark.parametrize("name", fi.CUT_FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused_or_whole_never_padded(name, share):
    """D14: A file may lose its end mark and still hold every pixel; then it is the full picture."""
    whole = fi.encoded_photo(name)
    cut = whole[: int(share * len(whole))]
    try:
        got = decode(cut, POLICY)
    except DecodeFault as fault:
        expected = ("truncated", "not_an_image", "empty_file")
        assert fault.reason in (expected if len(cut) < 18 else ("truncated",))
    else:
        np.testing.assert_array_equal(got, decode(whole, POLICY))


def test_padding_pillow_is_not_used(monkeypatch):
    """D14."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(DataError, match="LENIENT_PILLOW"):
        decode(fi.encoded_photo("JPEG"), POLICY)


@pytest.mark.parametrize("kind", fi.FOREIGN)
def test_formats_not_allowed_start_no_process(kind):
    """D16."""
    started = []

    def hook(event: str, _: tuple[object, ...]) -> None:
        if watching and event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"):
            started.append(event)

    watching = True
    sys.addaudithook(hook)  # Stays for good; the flag silences it.
    fault = fault_of(fi.FOREIGN[kind])
    watching = False
    assert fault.reason == "format_not_allowed"
    assert started == []


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(file_format):
    """D17."""
    frames = [Image.fromarray(np.full((12, 12, 3), level, np.uint8)) for level in (255, 0, 128)]
    options = {"lossless": True} if file_format == "WEBP" else {}
    encoded = fi.encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    decoded = decode_with_facts(encoded, POLICY)
    assert decoded.animated
    np.testing.assert_array_equal(decoded.pixels_HWC, 255)
    assert not decode_with_facts(fi.encode(frames[0], file_format, **options), POLICY).animated


def test_frames_after_the_first_are_not_decoded():
    """D17: The second frame is damaged; nobody looks."""
    frames = [Image.fromarray(fi.photo(seed)) for seed in (0, 1)]
    encoded = fi.encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    first = fi.encode(frames[0], "GIF")
    np.testing.assert_array_equal(
        decode(encoded[:-200] + bytes(199) + b";", POLICY), decode(first, POLICY)
    )


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (7, 40)])
def test_a_side_under_8_pixels_is_too_small_unless_allowed(shape):
    """D24."""
    image = fi.photo(0, *shape)
    encoded = fi.encode(image)
    assert fault_of(encoded).reason == "too_small"
    np.testing.assert_array_equal(decode(encoded, NO_LIMIT), image)


def test_eight_pixels_are_enough():
    """D24."""
    assert decode(fi.encode(fi.photo(0, 8, 8)), POLICY).shape == (8, 8, 3)


@pytest.mark.parametrize("size", [(30_000, 30_000), (8_000, 8_000), (2**31 - 1, 2**31 - 1)])
def test_too_large_by_the_header(size):
    """D25."""
    assert fault_of(fi.png_bomb(*size)).reason == "too_large"


_COUNT_BOMBS = """
import resource, sys
from deitkit.data import DecodeFault, DecodePolicy, decode
bombs = [open(path, "rb").read() for path in sys.argv[1:]]
for turn in range(50):
    for encoded in bombs:
        try:
            decode(encoded, DecodePolicy())
            sys.exit("a bomb was decoded")
        except DecodeFault as fault:
            assert fault.reason == "too_large", fault
    if turn == 0:
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb)
"""


def test_a_hundred_bombs_take_no_memory(tmp_path):
    """D25: In a process of its own, whose highest memory use nothing else has raised."""
    pytest.importorskip("resource")
    for name, encoded in (("a.png", fi.png_bomb()), ("b.webp", fi.webp_bomb())):
        (tmp_path / name).write_bytes(encoded)
    command = [
        sys.executable,
        "-c",
        _COUNT_BOMBS,
        str(tmp_path / "a.png"),
        str(tmp_path / "b.webp"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 20_000


def test_compressed_text_bomb_and_looping_tiff():
    """D26."""
    assert fault_of(fi.png_text_bomb()).reason == "decode_error"
    assert fault_of(fi.looping_tiff()).reason in ("decode_error", "truncated")


@pytest.mark.parametrize(
    "error",
    [SyntaxError, ValueError, OverflowError, MemoryError, EOFError, KeyError, RuntimeError],
)
def test_whatever_a_decoder_raises_is_a_decode_error(error, monkeypatch):
    """D27."""

    def explode(*_: object) -> None:
        raise error("broken")

    monkeypatch.setattr(Image.Image, "convert", explode)
    assert fault_of(fi.encode(Image.new("L", (16, 16)))).reason == "decode_error"


@pytest.mark.parametrize("name", fi.CUT_FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_mutants_decode_or_fault(name, data):
    """D27: Flipped header bytes end in pixels or in a DecodeFault, in nothing else."""
    mutant = bytearray(fi.encoded_photo(name))
    for _ in range(data.draw(st.integers(1, 4))):
        mutant[data.draw(st.integers(0, min(len(mutant), 200) - 1))] = data.draw(
            st.integers(0, 255)
        )
    try:
        got = decode(bytes(mutant), POLICY)
    except DecodeFault:
        return
    assert got.dtype == np.uint8
    assert got.ndim == 3
    assert got.shape[2] == 3


def test_heic_is_named_where_it_cannot_be_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    fault = fault_of(fi.HEIC)
    assert fault.reason == "format_not_allowed"
    assert 'pip install "deitkit[heic]"' in str(fault)


def test_heic_is_read_where_pillow_heif_is(monkeypatch):
    """A stand-in for pillow_heif: registers an opener for the HEIC signature."""
    image = fi.photo(4)

    def register() -> None:
        def opener(stream: object, filename: object) -> Image.Image:
            return Image.open(BytesIO(fi.encode(image)))

        Image.register_open("HEIF", opener, lambda prefix: prefix[4:8] == b"ftyp")

    stand_in = ModuleType("pillow_heif")
    stand_in.register_heif_opener = register  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillow_heif", stand_in)
    try:
        np.testing.assert_array_equal(decode(fi.HEIC, POLICY), image)
    finally:
        Image.OPEN.pop("HEIF", None)
        Image.ID.remove("HEIF")


def test_arrays_and_pillow_images_from_python():
    image = fi.photo(6)
    grey = image[:, :, 0]
    np.testing.assert_array_equal(decode_array(image, POLICY), image)
    np.testing.assert_array_equal(decode_array(Image.fromarray(image), POLICY), image)
    np.testing.assert_array_equal(decode_array(grey, POLICY), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(decode_array(grey, DecodePolicy(channels=1)), grey[:, :, None])
    luminance = np.asarray(Image.fromarray(image).convert("L"))[:, :, None]
    np.testing.assert_array_equal(decode_array(image, DecodePolicy(channels=1)), luminance)
    five = np.concatenate((image, image[:, :, :2]), axis=2)
    np.testing.assert_array_equal(decode_array(five, DecodePolicy(channels=5)), five)


def test_arrays_are_never_guessed_to_be_channels_first():
    """D24."""
    with pytest.raises(DataError, match=r"BAD_ARRAY.*item 3.*\(3, 24, 32\)"):
        decode_array(np.zeros((3, 24, 32), np.uint8), POLICY, subject="item 3")
    with pytest.raises(DataError, match="float32"):
        decode_array(np.zeros((24, 32, 3), np.float32), POLICY)
    with pytest.raises(DecodeFault, match="too_small"):
        decode_array(np.zeros((4, 24, 3), np.uint8), POLICY)


def test_five_channels_do_not_come_from_files():
    with pytest.raises(ConfigError, match="CHANNELS"):
        decode(fi.encode(fi.photo(0)), DecodePolicy(channels=5))


def test_the_result_can_be_written_to_and_is_contiguous():
    exif = Image.Exif()
    exif[0x0112] = 6
    got = decode(fi.encode(fi.photo(0), exif=exif), POLICY)
    assert got.flags.c_contiguous
    assert got.flags.writeable
