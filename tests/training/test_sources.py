"""What views are cut from: chosen for the data and the machine, and the same from any place."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deitkit.augmentation import ViewPolicy, render
from deitkit.config import build_config
from deitkit.data import ImageSet, open_split
from deitkit.data.view_sources import SampledSources, ScaledSources, WholeSources, reduction_facts
from deitkit.errors import ConfigError
from deitkit.runtime.world import World
from deitkit.training.loader import TrainSteps
from deitkit.training.resolution import Resolution
from deitkit.training.sizes import one_size
from deitkit.training.sources import OpenSources, open_sources, sample_filling, settle_sources
from deitkit.training.workers import load_steps
from tests.augmentation.plain_views import plain_views
from tests.data import faulty_images as fi
from tests.data.toy_photos import write_toys

SIZE = (28, 28)


@pytest.fixture
def images(tmp_path: Path) -> ImageSet:
    return open_split(write_toys(tmp_path / "toys"))


def opened(images: ImageSet, tmp_path: Path, source_side, image_cache: str) -> OpenSources:
    return open_sources(
        images,
        source_side=source_side,
        image_cache=image_cache,
        folder=str(tmp_path / "caches"),
        source="toys",
        world=World(),
        tell=lambda text: None,
        progress=lambda what, done, total: None,
    )


def batches(
    images: ImageSet, sources, *, workers: int = 0, teacher_size=(20, 20)
) -> list[tuple[bytes, bytes]]:
    steps = TrainSteps(
        images,
        policy=ViewPolicy(auto_augment="rand-m9-mstd0.5-inc1"),
        view_seed=1,
        batch_size=5,
        sizes=one_size(SIZE),
        teacher_size=teacher_size,
        rank=0,
        world_size=1,
        sources=sources,
    )
    with closing(load_steps(steps, 0, 2 * steps.steps_per_epoch, workers=workers)) as loaded:
        return [
            (b.images_BCHW.numpy().tobytes(), b.teacher_images_BCHW.numpy().tobytes())
            for b in loaded
        ]


@pytest.mark.parametrize("source_side", ["whole", 32])
def test_where_pixels_come_from_changes_none(images, tmp_path, source_side):
    """From memory, from the files, from a fresh cache, an old one, a damaged one, by workers."""
    expected = batches(images, opened(images, tmp_path, source_side, "off").sources)
    kept = images.in_memory(10**9)
    assert batches(kept, opened(kept, tmp_path, source_side, "memory").sources) == expected
    fresh = opened(images, tmp_path, source_side, "disk")
    assert batches(images, fresh.sources) == expected
    old = opened(kept, tmp_path, source_side, "disk")
    assert batches(images, old.sources, workers=2) == expected
    (folder,) = (tmp_path / "caches").iterdir()
    pixels = bytearray((folder / "pixels.bin").read_bytes())
    pixels[::997] = bytes(len(pixels[::997]))
    (folder / "pixels.bin").write_bytes(pixels)
    assert batches(images, opened(images, tmp_path, source_side, "disk").sources) == expected


def test_small_images_are_the_same_from_all_three(tmp_path):
    """A short side of at most 8/7 of the views': to the bit as image_cache=off."""
    folder = tmp_path / "small" / "a"
    folder.mkdir(parents=True)
    for k, size in enumerate([(32, 32), (20, 90), (32, 40), (14, 16)]):
        (folder / f"{k}.jpg").write_bytes(fi.encode(fi.photo(k, *size), "JPEG"))
    images = open_split(tmp_path / "small")
    whole, scaled, reduced = (
        batches(images, opened(images, tmp_path, side, cache).sources)
        for side, cache in (("whole", "off"), ("scaled", "off"), (32, "disk"))
    )
    assert whole == scaled == reduced
    for side in ("whole", "scaled", 32):
        assert reduction_facts(images.sizes, side, SIZE) == {}


def test_scaled_decoding_is_pillows_and_only_where_the_view_allows_it(tmp_path):
    """Of 301 x 200 pixels, 28 are wanted of: everything, half, a sixth of each side."""
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "0.jpg").write_bytes(fi.encode(fi.photo(3, 301, 200), "JPEG"))
    images = open_split(tmp_path)
    for share, scale in ((1.0, 4), (0.5, 2), (1 / 6, 1)):
        box_B4 = np.array([[0.1, 0.2, share, share]], np.float32)
        (got,) = ScaledSources(images).read(np.array([0]), box_B4, SIZE)
        picture = Image.open(folder / "0.jpg")
        picture.draft("RGB", (200 // scale, 301 // scale))
        np.testing.assert_array_equal(got, np.asarray(picture))
        assert got.shape[:2] == (-(-301 // scale), 200 // scale)
    assert reduction_facts(images.sizes, "scaled", SIZE) == {"scaled_for": [28, 28]}
    assert reduction_facts(images.sizes, 32, SIZE) == {"reduced_to": 32}


@pytest.mark.parametrize("turned", [1, 3, 6, 8])
def test_a_turned_photograph_is_scaled_as_it_stands(tmp_path, turned):
    """D22: the least rows and columns are those of the upright picture."""
    folder = tmp_path / "a"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = turned
    (folder / "0.jpg").write_bytes(fi.encode(fi.photo(3, 320, 120), "JPEG", exif=exif))
    images = open_split(tmp_path)
    height, width = images.sizes[0].tolist()
    scaled = images.image_of_least(0, (height // 2, width // 2))
    assert scaled.shape[:2] == (height // 2, width // 2)
    halved = images.image(0).reshape(height // 2, 2, width // 2, 2, 3).mean(axis=(1, 3))
    assert np.abs(scaled - halved).mean() < 4


@pytest.mark.parametrize("source_side", ["scaled", 32])
def test_a_view_shows_the_same_place_of_a_smaller_source(tmp_path, source_side):
    """Of a picture of slow waves, within a few levels of the view of the whole one."""
    folder = tmp_path / "photos" / "a"
    folder.mkdir(parents=True)
    y, x = np.mgrid[0:240, 0:360] / 40
    waves = 128 + 100 * np.sin(np.stack([x, y, x + y], axis=2))
    (folder / "0.png").write_bytes(fi.encode(waves.astype(np.uint8)))
    (folder / "1.jpg").write_bytes(fi.encode(waves.astype(np.uint8), "JPEG", quality=98))
    images = open_split(tmp_path / "photos")
    box_B4 = np.array([[0.1, 0.05, 0.8, 0.6], [0.0, 0.3, 1.0, 0.7]], np.float32)
    views = plain_views(2, box_B4=box_B4, flip_B=np.array([True, False]))
    sources = opened(images, tmp_path, source_side, "off").sources
    indices_B = np.array([0, 1])
    whole = render(WholeSources(images).read(indices_B, box_B4, SIZE), views, SIZE)
    small = render(sources.read(indices_B, box_B4, SIZE), views, SIZE)
    assert np.abs(whole.astype(int) - small).max() <= 12
    assert np.abs(whole.astype(int) - small).mean() < 2


def settled(images: ImageSet, **asked) -> tuple[str, object, dict[str, str]]:
    in_memory, free_disk = asked.pop("in_memory", False), asked.pop("free_disk", 10**12)
    settings = {f"data.{name}": value for name, value in asked.items()}
    r = Resolution(build_config(settings))
    settle_sources(r, images, render_size=SIZE, in_memory=in_memory, free_disk=free_disk)
    return r.get("data.image_cache"), r.get("data.source_side"), r.reasons


def test_the_choice_goes_from_memory_to_disk_to_neither(images):
    """Stored pixels: of 32 x 48, 32 x 32, 48 x 32, 32 x 51, 20 x 30, 32 x 90, each twice."""
    area = 32 * 48 + 32 * 32 + 48 * 32 + 32 * 51 + 20 * 30 + 32 * 90
    needed = 2 * 3 * area
    assert settled(images, in_memory=True)[:2] == ("memory", "whole")
    assert settled(images, free_disk=2 * needed + 100)[:2] == ("disk", 32)
    assert settled(images, free_disk=2 * needed - 100)[:2] == ("off", "scaled")
    assert settled(images, image_cache="off")[:2] == ("off", "scaled")
    assert settled(images, image_cache="disk", in_memory=True)[:2] == ("disk", 32)
    assert settled(images, source_side="whole")[:2] == ("disk", "whole")
    assert settled(images, source_side="scaled")[:2] == ("off", "scaled")
    assert settled(images, source_side=40)[:2] == ("disk", 40)
    assert all(settled(images)[2].values())


def test_where_no_image_is_large_everything_is_whole(images):
    small = images.subset(np.flatnonzero(images.sizes.min(axis=1) <= 32), "small")
    for image_cache in ("memory", "disk", "off"):
        assert settled(small, image_cache=image_cache)[1] == "whole"


def test_fewer_pixels_than_are_rendered_are_refused(images):
    with pytest.raises(ConfigError, match=r"SOURCE_SIDE.*source_side=20.*use 32 or more"):
        settled(images, source_side=20)


def test_a_few_images_stand_for_all():
    """Image 5 of many is the second of three; what a reader writes into it stays with him."""
    few = [np.full((2, 3, 3), level, np.uint8) for level in (10, 20, 30)]
    sources = SampledSources(few)
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (3, 1))
    read = sources.read(np.array([0, 4, 8]), boxes, (2, 3))
    assert [int(image.mean()) for image in read] == [10, 20, 30]
    read[0][:] = 0
    assert int(few[0].mean()) == 10


def test_filling_is_sampled_until_it_is_done(images, tmp_path):
    """The sampled images are those the cache will hold."""
    asked = {"source_side": 32, "folder": str(tmp_path / "caches"), "source": "toys"}
    found = sample_filling(images, **asked)
    assert found is not None
    assert found.seconds > 0
    assert not (tmp_path / "caches").exists()
    filled = opened(images, tmp_path, 32, "disk").sources
    everything = np.arange(len(images))
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(images), 1))
    for expected, got in zip(
        filled.read(everything, boxes, SIZE),
        found.sources.sources.read(everything, boxes, SIZE),
        strict=True,
    ):
        np.testing.assert_array_equal(got, expected)
    assert sample_filling(images, **asked) is None
