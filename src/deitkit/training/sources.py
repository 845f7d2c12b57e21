"""Where a run's training views are cut from: chosen, and opened on every rank."""

# Shapes: N images.

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from deitkit.data import Dataset, ImageSet
from deitkit.data.image_cache import ReducedImages, num_missing, open_image_cache
from deitkit.data.threads import map_rows, num_decode_threads
from deitkit.data.view_sources import (
    CachedSources,
    ReducedSources,
    SampledSources,
    ScaledSources,
    SourceSide,
    ViewSources,
    WholeSources,
    reduction_facts,
)
from deitkit.errors import ConfigError
from deitkit.runtime.disk_space import readable_bytes
from deitkit.runtime.shared_folder import SharedLock
from deitkit.runtime.user_cache import user_cache
from deitkit.runtime.world import World
from deitkit.training.choice import Choice
from deitkit.training.order_choice import choose_order
from deitkit.training.resolution import Resolution

DISK_SHARE = 0.5
"""Of the free disk, what an image cache may fill unasked."""
SIDE_OVER_CROP = (8, 7)
"""A stored image's short side over the largest side that views are rendered at: 256 for 224."""
NUM_SAMPLED = 64
"""Images that are decoded to tell how long an image cache takes to fill."""

ImageCacheMode = Literal["auto", "memory", "disk", "off"]


@dataclass(frozen=True, kw_only=True)
class OpenSources:
    """A run's training images and what its views are cut from."""

    images: ImageSet
    sources: ViewSources
    source_side: SourceSide = "whole"
    lock: SharedLock | None = None

    def close(self) -> None:
        """Let others remove the image cache."""
        if self.lock is not None:
            self.lock.release()


def training_images(dataset: Dataset, *, window_bytes: int | None) -> ImageSet:
    """The labelled images, then those without labels; of shards that are read in the order blocks
    so many bytes are held."""
    images = dataset.train
    if dataset.unlabelled is not None:
        images = dataset.train.joined(dataset.unlabelled)
    return images.holding(window_bytes or 0)


def whole_images(dataset: Dataset, *, window_bytes: int | None = None) -> OpenSources:
    """Views of whole images, from memory where they are kept."""
    images = training_images(dataset, window_bytes=window_bytes)
    return OpenSources(images=images, sources=WholeSources(images))


def open_sources(
    images: ImageSet,
    *,
    source_side: SourceSide,
    image_cache: ImageCacheMode,
    folder: str | None,
    source: str,
    world: World,
    tell: Callable[[str], None],
    progress: Callable[[str, int, int | None], None],
) -> OpenSources:
    """What `source_side` says views are cut from, out of the place `image_cache` says.

    Every rank comes here; the image cache is filled by one of them, in `folder` (None: the user's
    own cache folder), and used by all.

    Raises:
        ResourceError: the image cache does not fit on the disk.
        DataError: an image vanished or changed.
    """
    if source_side == "scaled":
        if image_cache in ("memory", "disk"):
            tell("this run decodes each image for its view (data.source_side): nothing is cached")
        return OpenSources(images=images, sources=ScaledSources(images), source_side=source_side)
    side = None if source_side == "whole" else source_side
    if image_cache == "disk":
        root = user_cache("images") if folder is None else Path(folder)
        cache, lock = open_image_cache(
            images, root, side=side, source=source, tell=tell, progress=progress
        )
        world.barrier()
        return OpenSources(
            images=images, sources=CachedSources(cache), source_side=source_side, lock=lock
        )
    if image_cache == "memory" and not images.is_in_memory:
        tell("the decoded images do not fit into memory: each is decoded whenever it is shown")
    if side is None:
        return OpenSources(images=images, sources=WholeSources(images))
    sources = ReducedSources(ReducedImages(images, side))
    return OpenSources(images=images, sources=sources, source_side=source_side)


class SampledFilling(NamedTuple):
    """A few images of an image cache that is not there yet, and what all of them will take."""

    sources: OpenSources
    seconds: float


def sample_filling(
    images: ImageSet,
    *,
    source_side: int | Literal["whole"],
    folder: str | None,
    source: str,
    progress: Callable[[str, int, int | None], None] = lambda what, done, total: None,
) -> SampledFilling | None:
    """Make and write `NUM_SAMPLED` images of the cache as filling it would; None where it is full.

    What an earlier data set's cache would hand over is not looked for.

    Raises:
        DataError: an image vanished or changed.
    """
    side = None if source_side == "whole" else source_side
    root = user_cache("images") if folder is None else Path(folder)
    missing = num_missing(images, root, side=side, source=source)
    if missing == 0:
        return None
    reduced = ReducedImages(images, side)
    chosen = np.linspace(0, len(images) - 1, min(NUM_SAMPLED, len(images))).astype(int)
    threads = num_decode_threads() if images.can_decode_in_threads else 1
    start = time.monotonic()
    few: list[np.ndarray] = []
    made = map_rows(lambda row: reduced.make(int(chosen[row])), len(chosen), num_threads=threads)
    with closing(made):
        for image_HWC in made:
            few.append(image_HWC)
            progress("decoding a few images", len(few), len(chosen))
    with tempfile.TemporaryFile() as file:
        for image_HWC in few:
            file.write(image_HWC.data)
        file.flush()
        os.fsync(file.fileno())
    seconds = (time.monotonic() - start) * missing / len(chosen)
    sources = OpenSources(images=images, sources=SampledSources(few), source_side=source_side)
    return SampledFilling(sources, seconds)


def settle_sources(
    r: Resolution,
    images: ImageSet,
    *,
    render_size: tuple[int, int],
    in_memory: bool,
    free_disk: int | None,
) -> None:
    """Choose where decoded images are kept and what views are cut from, for views rendered at
    `render_size` (height, width) at most; `in_memory` says whether the scan could keep them.

    Raises:
        ConfigError: SOURCE_SIDE, views would be cut from fewer pixels than they are rendered at.
    """
    asked = r.get("data.source_side")
    times, over = SIDE_OVER_CROP
    side = -(-max(render_size) * times // over)
    if isinstance(asked, int):
        if asked < max(render_size):
            raise ConfigError(
                "SOURCE_SIDE",
                f"data.source_side={asked}",
                f"views are rendered at {max(render_size)} pixels, more than a whole image has",
                f"use {side} or more, or 'whole'",
            )
        side = asked
    r.settle(
        "data.image_cache",
        choose_image_cache(
            images,
            side=None if asked == "whole" else side,
            in_memory=in_memory,
            free_disk=0 if asked == "scaled" else free_disk,
        ),
    )
    choice = choose_source_side(r.get("data.image_cache"), side)
    if not reduction_facts(images.sizes, choice.value, render_size):
        choice = Choice("whole", "no image is larger than its views need")
    r.settle("data.source_side", choice)
    r.settle(
        "data.order",
        choose_order(
            images.labels,
            shard_bytes=images.blocks.num_bytes(),
            window_mb=r.config.data.window_mb,
            is_kept=in_memory or r.get("data.image_cache") == "disk",
            reads_singly=images.reads_singly,
        ),
    )


def choose_image_cache(
    images: ImageSet, *, side: int | None, in_memory: bool, free_disk: int | None
) -> Choice:
    """Memory, else disk, else nowhere."""
    area = int(images.sizes.astype(np.int64).prod(axis=1).sum())
    if in_memory:
        size = readable_bytes(area * images.decode.channels)
        return Choice("memory", f"{size} decoded, at most a quarter of the free memory")
    num_bytes = ReducedImages(images, side).layout.num_bytes
    size = readable_bytes(num_bytes)
    if free_disk is None or num_bytes <= DISK_SHARE * free_disk:
        return Choice("disk", f"{size} decoded, too much for memory: once, for all later runs too")
    return Choice("off", f"{size} decoded, too much for memory and for half of the free disk")


def choose_source_side(image_cache: str, side: int) -> Choice:
    """What views are cut from where images are large."""
    if image_cache == "disk":
        return Choice(side, "a little more than views are rendered at; smaller images stay whole")
    if image_cache == "off":
        return Choice("scaled", "JPEGs are decoded to no more than a view needs")
    return Choice("whole", "as they are in memory")
