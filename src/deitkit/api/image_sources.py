"""What a run's views are cut from, as its config says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deitkit.config import AUTO, RunConfig
from deitkit.data import Dataset
from deitkit.runtime.disk_faults import free_space_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from deitkit.runtime.world import World
    from deitkit.training.resolution import Resolution
    from deitkit.training.sources import OpenSources


def settle_run_sources(
    resolution: Resolution,
    dataset: Dataset,
    world: World,
    *,
    teacher_size: tuple[int, int] | None,
) -> None:
    """Replace "auto" in where images are kept and what views are cut from, alike on all ranks.

    Raises:
        ConfigError: SOURCE_SIDE.
    """
    from deitkit.training.resolve import as_pair
    from deitkit.training.sources import settle_sources, training_images

    size = as_pair(resolution.get("data.image_size"))
    larger = size if teacher_size is None else teacher_size
    images = training_images(dataset, window_bytes=None)
    settle_sources(
        resolution,
        images,
        render_size=(max(size[0], larger[0]), max(size[1], larger[1])),
        in_memory=world.broadcast_json(images.is_in_memory),
        free_disk=world.broadcast_json(_free_disk_bytes(resolution.config)),
    )


def open_run_sources(
    config: RunConfig,
    dataset: Dataset,
    world: World,
    *,
    tell: Callable[[str], None],
    progress: Callable[[str, int, int | None], None],
) -> OpenSources:
    """Open what the frozen `config` says; a run from before there was a choice has whole images.

    Raises:
        ResourceError, DataError: see `open_sources`.
    """
    from deitkit.training.assemble import window_bytes_of
    from deitkit.training.sources import open_sources, training_images

    data = config.data
    return open_sources(
        training_images(dataset, window_bytes=window_bytes_of(config)),
        source_side="whole" if data.source_side == AUTO else data.source_side,
        image_cache=data.image_cache,
        folder=data.image_cache_folder,
        source=dataset.source,
        world=world,
        tell=tell,
        progress=progress,
    )


def plan_run_sources(
    config: RunConfig,
    dataset: Dataset,
    world: World,
    *,
    tell: Callable[[str], None],
    progress: Callable[[str, int, int | None], None],
) -> tuple[OpenSources, float]:
    """As `open_run_sources`, but an image cache that is not there is not filled: a few images stand
    for all, and the seconds that filling it would take are told.

    Raises:
        DataError: see `sample_filling`.
    """
    from deitkit.training.assemble import window_bytes_of
    from deitkit.training.sources import sample_filling, training_images

    data = config.data
    if data.image_cache == "disk" and data.source_side != "scaled":
        found = sample_filling(
            training_images(dataset, window_bytes=window_bytes_of(config)),
            source_side="whole" if data.source_side == AUTO else data.source_side,
            folder=data.image_cache_folder,
            source=dataset.source,
            progress=progress,
        )
        if found is not None:
            return found.sources, world.max(found.seconds)
    return open_run_sources(config, dataset, world, tell=tell, progress=progress), 0.0


def _free_disk_bytes(config: RunConfig) -> int | None:
    from deitkit.runtime.user_cache import user_cache

    folder = config.data.image_cache_folder
    return free_space_bytes(user_cache("images") if folder is None else Path(folder))
