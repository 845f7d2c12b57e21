"""The input pipeline, per core: from JPEG and from the image cache, against timm's.

    python benchmarks/input.py [--data FOLDER] [--images 64] [--rounds 5] [--side 224]

One process and one thread, which keeps the memory it frees, as every process of deitkit does: timm
gains a little by it too. In every round each way renders the same images once, one way after the
other, the order turned by one each round; medians over the rounds, in processor seconds, which
other programs on the machine disturb less than the clock.

timm      the file read as deitkit reads it, Pillow, then `timm.data.create_transform`: random
          resized crop with bicubic, flip, rand-m9-mstd0.5-inc1, normalise, erase with
          probability 0.25.
JPEG      deitkit without a cache: file read, decoded (scaled where the view allows), cropped,
          resized, flipped, the same RandAugment; then, as training does, to float, erased, and
          normalised.
cache     the same from an image cache whose larger images are reduced to 8/7 of the side.

The same work: crop areas 0.08 to 1, ratios 3/4 to 4/3, two draws of the same 15 operations with
probability 1/2 each at the same strengths, the same output. `tests/augmentation` holds every
operation to Pillow and timm within a level. Not the same: posterize keeps at least one bit where
timm asks Pillow for none (a ValueError, counted here), and reduced images hold less detail than the
files.
"""

from __future__ import annotations

import argparse
import io
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from finetune import declare_torchvision_ops
from PIL import Image
from turns import in_turn

from deitkit.augmentation import ViewPolicy
from deitkit.augmentation.erasing import erase_images_
from deitkit.data import ImageSet, open_split
from deitkit.data.image_cache import open_image_cache
from deitkit.data.view_sources import CachedSources, ScaledSources, ViewSources
from deitkit.runtime.threads import calm_process
from deitkit.training.loader import TrainSteps
from deitkit.training.parts import mean_levels
from deitkit.training.sizes import one_size

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RAND_AUGMENT = "rand-m9-mstd0.5-inc1"
BATCH_SIZE = 16


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--data", type=Path, help="a folder of JPEGs, or Parquet")
    arguments.add_argument("--images", type=int, default=64)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--side", type=int, default=224)
    asked = arguments.parse_args()
    calm_process()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.data or write_photographs(Path(temporary) / "photos", asked.images)
        images = open_split(folder)
        images = images.subset(np.arange(min(asked.images, len(images))), "few")
        cache, _ = open_image_cache(
            images,
            Path(temporary) / "caches",
            side=-(-asked.side * 8 // 7),
            source="benchmark",
            tell=lambda text: None,
            progress=lambda what, done, total: None,
        )
        failures: list[int] = []
        ways: dict[str, Callable[[int], None]] = {
            "timm": timm_pipeline(images, asked.side, failures),
            "JPEG": deitkit_pipeline(images, ScaledSources(images), asked.side),
            "cache": deitkit_pipeline(images, CachedSources(cache), asked.side),
        }
        tasks = {name: processor_seconds(way) for name, way in ways.items()}
        seconds = in_turn(tasks, rounds=asked.rounds, limit_s=math.inf)
    height, width = np.median(images.sizes, axis=0).astype(int)
    print(f"{len(images)} JPEGs of about {width}x{height} to {asked.side}, {asked.rounds} rounds\n")
    print("| | ms an image | img/s on one core | vs timm | least to most |")
    print("|---|---|---|---|---|")
    for name, times in seconds.items():
        each = [s / len(images) for s in times]
        ratios = [t / s for s, t in zip(times, seconds["timm"], strict=True)]
        middle = statistics.median(each)
        print(
            f"| {name} | {middle * 1e3:.2f} | {1 / middle:.0f} | {statistics.median(ratios):.2f} | "
            f"{min(ratios):.2f} to {max(ratios):.2f} |"
        )
    shown = len(images) * (asked.rounds + 1)
    print(f"\ntimm raised ValueError in {len(failures)} of {shown} images.")


def processor_seconds(way: Callable[[int], None]) -> Callable[[], float]:
    """The way as a task that tells its processor seconds, each time with the next views."""
    numbers = itertools.count()

    def run() -> float:
        start = time.process_time()
        way(next(numbers))
        return time.process_time() - start

    return run


def timm_reader(
    images: ImageSet,
    side: int,
    *,
    mean: tuple[float, ...] = MEAN,
    std: tuple[float, ...] = STD,
) -> Callable[[int], torch.Tensor]:
    """A view of the image at a place, as timm's training makes it."""
    declare_torchvision_ops()
    from timm.data import create_transform

    transform = create_transform(
        side,
        is_training=True,
        auto_augment=RAND_AUGMENT,
        interpolation="bicubic",
        mean=mean,
        std=std,
        re_prob=0.25,
        re_mode="pixel",
    )
    store = images._store

    def read(index: int) -> torch.Tensor:
        picture = Image.open(io.BytesIO(store.reread(index)))
        return transform(picture.convert("RGB"))

    return read


def timm_pipeline(images: ImageSet, side: int, failures: list[int]) -> Callable[[int], None]:
    read = timm_reader(images, side)

    def run(number: int) -> None:
        for first in range(0, len(images), BATCH_SIZE):
            batch = []
            for index in range(first, min(first + BATCH_SIZE, len(images))):
                try:
                    batch.append(read(index))
                except ValueError:
                    failures.append(number)
            torch.stack(batch)

    return run


def deitkit_pipeline(images: ImageSet, sources: ViewSources, side: int) -> Callable[[int], None]:
    steps = TrainSteps(
        images,
        policy=ViewPolicy(auto_augment=RAND_AUGMENT, erasing=0.25),
        view_seed=0,
        batch_size=BATCH_SIZE,
        sizes=one_size((side, side)),
        teacher_size=None,
        rank=0,
        world_size=1,
        op_fill=mean_levels(MEAN),
        sources=sources,
    )
    mean_C11, std_C11 = (torch.tensor(v).view(-1, 1, 1) for v in (MEAN, STD))

    def run(number: int) -> None:
        for step in range(number * steps.steps_per_epoch, (number + 1) * steps.steps_per_epoch):
            batch = steps[step]
            assert batch.images_BCHW is not None
            shown = batch.images_BCHW.float().div_(255)
            shown = erase_images_(shown, batch.views, fill="pixel", mean=MEAN, std=STD)
            shown.sub_(mean_C11).div_(std_C11)

    return run


def write_photographs(folder: Path, num: int) -> Path:
    """JPEGs of 500 x 375 at quality 90: waves of falling strength, and grain."""
    (folder / "photographs").mkdir(parents=True)
    y, x = np.mgrid[0:375, 0:500] / 500
    for number in range(num):
        chance = np.random.default_rng(number)
        picture = np.full((375, 500, 3), 128.0)
        for octave in range(1, 6):
            along, down = chance.uniform(2, 20 * octave, 2)
            wave = np.sin(along * x + down * y + chance.uniform(0, 6))
            picture += (40 / octave) * wave[:, :, None] * chance.uniform(0.3, 1, 3)
        picture += chance.normal(0, 6, picture.shape)
        stream = io.BytesIO()
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=90)
        (folder / "photographs" / f"{number}.jpg").write_bytes(stream.getvalue())
    return folder


if __name__ == "__main__":
    main()
