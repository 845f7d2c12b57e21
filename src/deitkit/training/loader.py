"""Rendered images of each step: order, views, ranks. A pure function of the step."""

# Shapes: B images, N all training images.

from __future__ import annotations

import signal
from collections.abc import Generator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from deitkit.augmentation import ViewPolicy, draw_views, epoch_order, render
from deitkit.data import ImageSet
from deitkit.errors import DeitkitError, WorkerError
from deitkit.flow import Batch

PREFETCHED_STEPS = 4
"""Batches that each worker prepares ahead."""


class TrainSteps(Dataset):
    """`steps[s]` is one rank's batch of optimisation step s.

    An epoch's images are divided evenly over its steps, in whole pairs of mix partners, and a
    step's over the ranks: no step is short, no image is dropped, and nothing but the order's seed
    decides which images meet.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        policy: ViewPolicy,
        view_seed: int,
        batch_size: int,
        image_size: tuple[int, int],
        teacher_size: tuple[int, int] | None,
        rank: int,
        world_size: int,
    ) -> None:
        self.images = images
        self.sample_ids_N = images.sample_ids
        self.policy = policy
        self.view_seed = view_seed
        self.image_size = image_size
        self.teacher_size = None if teacher_size == image_size else teacher_size
        self.rank = rank
        self.world_size = world_size
        self.num_pairs = -(-len(images) // 2)
        self.steps_per_epoch = -(-len(images) // batch_size)
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "_order"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._epoch_order)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        return epoch_order(self.view_seed, epoch, self.sample_ids_N)

    def positions(self, step: int) -> tuple[int, range, range]:
        """Epoch, the positions in its order of the whole step, and those of this rank."""
        epoch, part = divmod(step, self.steps_per_epoch)
        first = part * self.num_pairs // self.steps_per_epoch
        last = (part + 1) * self.num_pairs // self.steps_per_epoch
        mine_first = first + (last - first) * self.rank // self.world_size
        mine_last = first + (last - first) * (self.rank + 1) // self.world_size
        end = len(self.images)
        return (
            epoch,
            range(2 * first, min(2 * last, end)),
            range(2 * mine_first, min(2 * mine_last, end)),
        )

    def indices(self, step: int) -> np.ndarray:
        """Which training images this rank reads in `step`, in order."""
        epoch, _, mine = self.positions(step)
        return self._order(epoch)[mine.start : mine.stop]

    def __getitem__(self, step: int) -> Batch:
        epoch, whole, mine = self.positions(step)
        indices_B = self.indices(step)
        views = draw_views(
            self.policy,
            view_seed=self.view_seed,
            epoch=epoch,
            sample_ids_B=self.sample_ids_N[indices_B],
            sizes_B2=self.images.sizes[indices_B],
            aspect=self.image_size[1] / self.image_size[0],
        )
        if self.images.pixels is not None:
            sources = self.images.pixels[indices_B]
        else:
            sources = [self.images.image(int(i)) for i in indices_B]
        teacher_images = None
        if self.teacher_size is not None:
            teacher_images = torch.from_numpy(render(sources, views, self.teacher_size))
        return Batch(
            images_BCHW=torch.from_numpy(render(sources, views, self.image_size)),
            teacher_images_BCHW=teacher_images,
            labels_B=torch.from_numpy(self.images.labels[indices_B]),
            views=views,
            epoch=epoch,
            first=mine.start - whole.start,
            global_size=len(whole),
        )


class _Carried(Dataset):
    """Hands a worker's error over as a value: raised, it would arrive as another type."""

    def __init__(self, steps: TrainSteps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> Batch | DeitkitError:
        try:
            return self.steps[step]
        except DeitkitError as error:
            return error


def load_steps(steps: TrainSteps, first: int, last: int, *, workers: int) -> Generator[Batch]:
    """Batches of the steps from `first` to `last` - 1, made ahead in `workers` processes.

    Close it where its end is not reached: that is what ends the workers.

    Raises:
        DataError: an image changed or vanished.
        WorkerError: WORKER_DIED when a worker was killed.
    """
    loader: DataLoader[Batch | DeitkitError] = DataLoader(
        _Carried(steps),
        batch_size=None,
        sampler=range(first, last),
        num_workers=workers,
        prefetch_factor=PREFETCHED_STEPS if workers else None,
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_trainer,
    )
    try:
        for item in loader:
            if isinstance(item, DeitkitError):
                raise item
            yield item
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise WorkerError(
            "WORKER_DIED",
            "loader worker",
            str(error).splitlines()[0],
            "run the same command again to go on; workers=0 needs no shared memory",
        ) from error


def _leave_signals_to_the_trainer(worker: int) -> None:
    """Ctrl-C reaches the whole process group; the trainer needs its step's images to finish."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
