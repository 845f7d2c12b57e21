"""A teacher that is asked once for every view."""

# Shapes: B images, C channels, H height, W width, K classes of the user.

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deitkit.runtime.transfer import sent
from deitkit.teachers.cache import TeacherCache


class AskedTeacher(Protocol):
    """What is asked for the views that are not stored yet, such as a `LiveTeacher`."""

    @property
    def image_size(self) -> tuple[int, int] | None: ...

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        """Logits [B, K]; an image's must be the same whatever batch it comes in."""


class Fresh(NamedTuple):
    """Answers that were not stored when they were needed."""

    view_epochs_B: NDArray[np.int64]
    repeat_B: NDArray[np.int64]
    sample_ids_B: NDArray[np.uint64]
    words_B: NDArray[np.uint64]
    logits_BK: NDArray[np.float32]


class CachedTeacher:
    """Answers from the cache, and from the live teacher where the cache has none.

    What is answered is always what a later reading gives, also the first time: with float16 the
    fresh logits are rounded as stored, with float32 they are the live teacher's bits. So a run
    does not depend on what was stored before it, or on where it was interrupted.
    """

    def __init__(self, live: AskedTeacher, cache: TeacherCache, *, device: torch.device) -> None:
        self.live = live
        self.cache = cache
        self.device = device
        self.num_hits = 0
        self.num_misses = 0
        self._fresh: list[Fresh] = []

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self.live.image_size

    @torch.no_grad()
    def __call__(
        self,
        images_BCHW: Tensor | Callable[[], Tensor],
        *,
        view_epoch: int,
        repeat_B: NDArray[np.integer],
        sample_ids_B: NDArray[np.uint64],
        words_B: NDArray[np.uint64],
    ) -> Tensor:
        """Logits [B, K], float32 on the device, of mixed images with values 0 to 1.

        A function is called for the images only where a view is missing. `sample_ids_B` are the
        ids the cache was opened with.

        Raises:
            ModelFileError: TEACHER_OUTPUT.
            CheckpointError: CACHE_GONE.
            ResourceError: the disk refused.
        """
        logits_BK, hit_B = self.cache.read(view_epoch, repeat_B, sample_ids_B, words_B)
        missing = np.flatnonzero(~hit_B)
        self.num_hits += len(hit_B) - len(missing)
        self.num_misses += len(missing)
        if len(missing):
            images = images_BCHW if isinstance(images_BCHW, Tensor) else images_BCHW()
            assert len(images) == len(hit_B), "one image for each view"
            asked = images[sent(missing, images.device)]
            logits = self.live(asked).float().cpu().numpy()
            fresh = Fresh(
                np.full(len(missing), view_epoch),
                repeat_B[missing].astype(np.int64),
                sample_ids_B[missing],
                words_B[missing],
                logits,
            )
            self.store(fresh)
            if self.cache.folder is None:
                self._fresh.append(fresh)
            logits_BK[missing] = self.cache.stored(logits)
        return sent(logits_BK, self.device)

    def take_fresh(self) -> Fresh:
        """What was asked since the last call, for those who share no disk with this process."""
        num_classes = self.cache.records.num_classes
        nothing = Fresh(
            np.zeros(0, np.int64),
            np.zeros(0, np.int64),
            np.zeros(0, np.uint64),
            np.zeros(0, np.uint64),
            np.zeros((0, num_classes), np.float32),
        )
        taken, self._fresh = [nothing, *self._fresh], []
        return Fresh(*(np.concatenate(rows) for rows in zip(*taken, strict=True)))

    def store(self, fresh: Fresh) -> None:
        """Keep answers, this teacher's or what another process was told.

        Raises:
            ModelFileError, CheckpointError, ResourceError: as when asked.
        """
        for view_epoch in np.unique(fresh.view_epochs_B):
            rows = np.flatnonzero(fresh.view_epochs_B == view_epoch)
            self.cache.write(
                int(view_epoch),
                fresh.repeat_B[rows],
                fresh.sample_ids_B[rows],
                fresh.words_B[rows],
                fresh.logits_BK[rows],
            )
