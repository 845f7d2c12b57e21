"""Loader workers whose memory stays: nothing that they touch is copied, epoch after epoch.

A worker shares the trainer's memory until one of the two writes to it. Python counts references in
the object itself, so a worker that walks over a list of a million objects copies all of them.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deitkit.augmentation import ViewPolicy
from deitkit.data.image_cache import open_image_cache
from deitkit.data.image_set import ImageSet
from deitkit.data.view_sources import CachedSources
from deitkit.flow import Batch
from deitkit.training.loader import TrainSteps
from deitkit.training.sizes import one_size
from deitkit.training.workers import load_steps
from tests.data.toy_photos import SIDE, open_split, write_toys

NUM_IMAGES, NUM_EPOCHS, BATCH_SIZE, WORKERS = 12_000, 10, 200, 2
MOST_GROWTH_BYTES = 6 << 20
"""From the first tenth of an epoch to the end, in all three processes. A list of as many records
would cost 14 MB; 3 MB are the interpreter's own objects, of which each worker copies some."""
MOST_DRIFT_BYTES = 2 << 20
"""From the third epoch on."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="Linux tells it"),
]


class Listed(TrainSteps):
    """As careless loaders are written: a record an image, each an object."""

    def __getitem__(self, step: int) -> Batch:
        batch = super().__getitem__(step)
        for index in batch.indices_B.tolist():
            assert self.records[index][0]
        return batch


def own_bytes() -> int:
    """Memory of this process and its workers that they share with nobody, and that they wrote."""
    total = 0
    for pid in [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
            if line.startswith("Private_Dirty:"):
                total += 1024 * int(line.split()[1])
    return total


def epochs_of(steps: TrainSteps) -> Iterator[int]:
    """What all hold, the median over each epoch; first while its first tenth is read."""
    early, seen = [], []
    last = NUM_EPOCHS * steps.steps_per_epoch
    for step, _ in enumerate(load_steps(steps, 0, last, workers=WORKERS)):
        seen.append(own_bytes())
        if step == steps.steps_per_epoch // 10:
            early = seen[2:]
            yield int(statistics.median(early))
        if (step + 1) % steps.steps_per_epoch == 0:
            yield int(statistics.median(seen[-steps.steps_per_epoch // 2 :]))
            seen = []


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("careless", [False, True], ids=["deitkit", "a list of records"])
def test_ten_epochs_take_no_more_memory_than_the_beginning_of_one(tmp_path, careless):
    few = open_split(write_toys(tmp_path / "toys"))
    cache, lock = open_image_cache(
        few,
        tmp_path / "caches",
        side=SIDE,
        source="toys",
        tell=lambda text: None,
        progress=lambda what, done, total: None,
    )
    images = few.subset(np.arange(NUM_IMAGES) % len(few), "many")
    steps = (Listed if careless else TrainSteps)(
        images,
        policy=ViewPolicy(),
        view_seed=0,
        batch_size=BATCH_SIZE,
        sizes=one_size((8, 8)),
        teacher_size=None,
        rank=0,
        world_size=1,
        op_fill=(128, 128, 128),
        sources=CachedSources(cache_of(images, cache)),
    )
    if careless:
        steps.records = [(f"images/{k}.jpg" + "x" * 500, float(k)) for k in range(NUM_IMAGES)]
    held = list(epochs_of(steps))
    assert lock is not None
    lock.release()
    assert len(held) == NUM_EPOCHS + 1
    growth = held[-1] - held[0]
    assert (growth > MOST_GROWTH_BYTES) == careless, [round(b / 1e6, 1) for b in held]
    assert held[-1] - held[3] < MOST_DRIFT_BYTES, [round(b / 1e6, 1) for b in held]
    print("MB, then after each epoch:", *(round(b / 1e6, 1) for b in held))


def cache_of(images: ImageSet, few: object) -> object:
    """The same cache, asked with the places of the many."""
    from deitkit.data.image_cache import ImageCache, ReducedImages

    assert isinstance(few, ImageCache) and few.stored is not None
    return ImageCache(ReducedImages(images, SIDE), few.stored, writable=False)
