"""Batches of steps made ahead, in processes of their own."""

from __future__ import annotations

import signal
from collections.abc import Generator

import torch
from torch.utils.data import DataLoader, Dataset

from deitkit.errors import DeitkitError, WorkerError
from deitkit.flow import Batch
from deitkit.training.loader import TrainSteps

PREFETCHED_STEPS = 4
"""Batches that each worker prepares ahead."""


class _Carried(Dataset):
    """Hands a worker's error over as a value: raised, it would arrive as another type."""

    def __init__(self, steps: TrainSteps) -> None:
        self.steps = steps

    def __getitem__(self, step: int) -> Batch | DeitkitError:
        try:
            return self.steps[step]
        except DeitkitError as error:
            return error


def load_steps(
    steps: TrainSteps, first: int, last: int, *, workers: int, pin_memory: bool = False
) -> Generator[Batch]:
    """Batches of the steps from `first` to `last` - 1, made ahead in `workers` processes and, with
    `pin_memory`, moved to where CUDA fetches them from by a thread of this one.

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
        pin_memory=pin_memory,
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
