"""Pictures that are none, or odd, or too much; and that none is kept: S09, S10, S29."""

from __future__ import annotations

import asyncio
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from deitkit.data import DecodePolicy
from deitkit.serving.metrics import Meter
from deitkit.serving.pictures import Decoder
from deitkit.serving.refusals import Refused
from tests.serving.running import Running
from tests.serving.toy import encoded, picture_bytes
from tests.serving.watching import watching, written

NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)


def png(width: int, height: int) -> bytes:
    """The beginning of a grey PNG of that size; what follows is no picture."""

    def block(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    ends = block(b"IDAT", zlib.compress(bytes(1000))), block(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header) + b"".join(ends)


def code_of(answer) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


BAD = {
    "empty": (b"", "not_an_image"),
    "text": (b"hello, this is text", "not_an_image"),
    "page": (b"<!doctype html><script>alert(1)</script>", "not_an_image"),
    "cut JPEG": (encoded(Image.fromarray(NOISE), "JPEG")[:-500], "truncated"),
    "cut PNG": (encoded(Image.fromarray(NOISE))[:-500], "truncated"),
    "cut WebP": (encoded(Image.fromarray(NOISE), "WEBP", lossless=True)[:-500], "truncated"),
    "PDF": (b"%PDF-1.7\n" + b"x" * 100, "format_not_allowed"),
}


@pytest.mark.parametrize("name", BAD)
def test_s09_no_picture_is_400_and_the_server_lives(server: Running, name: str):
    content, code = BAD[name]
    assert code_of(server.ask(content)) == (400, code)
    assert code_of(server.send(("a.png", content))) == (400, code)
    assert server.ask(picture_bytes()).status_code == 200


def test_s10_a_bomb_is_refused_by_its_header_in_no_memory(process):
    before = process.kilobytes("VmRSS")
    codes = {code_of(process.ask(png(30_000, 30_000))) for _ in range(20)}
    assert codes == {(422, "too_large")}
    assert process.kilobytes("VmHWM") - before < 20_000


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1)])
def test_s10_a_picture_of_one_pixel_is_too_small(server: Running, size):
    assert code_of(server.ask(picture_bytes(size=size))) == (422, "too_small")


def lightness_of(server: Running, content: bytes) -> float:
    answer = server.ask(content)
    assert answer.status_code == 200, answer.text
    rows = answer.json()["predictions"][0]["top"]
    return {row["class"]: row["probability"] for row in rows}["light"]


def test_s10_sixteen_bits_are_scaled_by_their_depth(server: Running):
    ramp = np.linspace(0, 65_535, 64 * 64).astype(np.uint16).reshape(64, 64)
    assert lightness_of(server, encoded(Image.fromarray(ramp))) == pytest.approx(0.5, abs=0.002)


def test_s10_cmyk_becomes_rgb(server: Running):
    """No ink at all is white, and all of it black."""
    for ink, expected in ((0, 1.0), (255, 0.0)):
        image = Image.new("CMYK", (32, 32), (ink, ink, ink, ink))
        assert lightness_of(server, encoded(image, "JPEG")) == pytest.approx(expected, abs=0.02)


def test_s10_an_animation_is_its_first_frame(server: Running):
    frames = [Image.new("L", (32, 32), level) for level in (255, 0, 0)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=50)
    assert lightness_of(server, content) == pytest.approx(1.0, abs=0.01)


def test_s10_decoded_pictures_wait_in_bounded_memory():
    """While one picture fills the room, the next is not decoded: it waits, or is refused."""

    async def ask() -> None:
        meter = Meter()
        decoder = Decoder(DecodePolicy(), meter=meter, room_bytes=1)
        now = asyncio.get_running_loop().time()
        async with decoder.decoded(picture_bytes(1), now + 10) as first_HWC:
            assert first_HWC[0, 0].tolist() == [1, 1, 1]
            with pytest.raises(Refused) as caught:
                async with decoder.decoded(picture_bytes(2), now + 0.1):
                    pass
            assert caught.value.code == "busy"
            waiting = asyncio.create_task(enter(decoder, now))
            await asyncio.sleep(0.05)
            assert not waiting.done()
        assert await waiting == [3, 3, 3]
        assert 'dropped_total{reason="deadline"} 1' in meter.text()
        decoder.close()

    async def enter(decoder: Decoder, now: float) -> list[int]:
        async with decoder.decoded(picture_bytes(3), now + 10) as third_HWC:
            return third_HWC[0, 0].tolist()

    asyncio.run(ask())


def photograph() -> bytes:
    """A JPEG that says where it was taken, by whom, and what it is called."""
    exif = Image.Exif()
    exif[0x010E] = "secret title"
    exif[0x013B] = "secret author"
    exif.get_ifd(0x8825)[2] = (48.0, 51.0, 29.5)
    return encoded(Image.fromarray(NOISE), "JPEG", exif=exif, comment=b"secret comment")


def test_s29_no_picture_is_written_anywhere(server: Running):
    large = encoded(Image.fromarray(np.tile(NOISE, (24, 24, 1))), "BMP")
    assert len(large) > 7_000_000
    with watching() as events:
        assert server.ask(photograph()).status_code == 200
        assert server.ask(large).status_code == 200
        assert server.send(("a.bmp", large), ("b.jpg", photograph())).status_code == 200
        assert server.send(("a.bmp", b"x" * 10_000_000), ("b", b"")).status_code == 200
        server.get("/metrics")
    assert [name for name, _ in events] == ["open"], "it reads how much memory it takes"
    assert written(events) == []


def test_s29_what_a_photograph_says_of_its_maker_is_not_returned(server: Running):
    content = photograph()
    assert b"secret" in content
    said = server.ask(content).text + server.send(("a.jpg", content)).text
    assert "secret" not in said and "48.0" not in said
    assert set(server.ask(content).json()["predictions"][0]) == {
        "name",
        "class",
        "probability",
        "abstains",
        "top",
    }
