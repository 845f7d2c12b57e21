"""The teacher as a training step asks it: not there, live, or once for each stored view."""

# Shapes: B images, C channels, H height, W width, K classes.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from deitkit.augmentation.view_words import policy_digest, record_ids, view_settings, view_words
from deitkit.augmentation.views import Views
from deitkit.flow import Batch
from deitkit.runtime.world import World
from deitkit.teachers import LiveTeacher, Teacher
from deitkit.teachers.cache import TeacherCache
from deitkit.teachers.cache_folder import default_root
from deitkit.teachers.cached import CachedTeacher, Fresh
from deitkit.training.loader import TrainSteps

MAX_BYTES_LOOKED_THROUGH = 2 * 10**9
"""A larger cache is not read through to learn which epochs of it are complete."""


class Teaching(Protocol):
    """Whatever stands where the teacher stands in `train_step`."""

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Size the teacher wants its views rendered at; None reads no images."""

    def __call__(self, share: Batch, images: Callable[[], Tensor]) -> Tensor | None:
        """Logits [B, K] of mixed views; `images` gives them [B, C, H, W] with values 0 to 1."""

    def answered_epochs(self) -> frozenset[int]:
        """View epochs for which no image is needed any more."""

    def keeps_answers(self) -> bool:
        """Whether a view that was shown once needs no image from then on."""

    def end_epoch(self, world: World) -> None:
        """After an epoch every rank knows what any was told: views are shown to others again."""

    def flush(self) -> None:
        """What was said so far outlasts a power cut, if it is kept at all."""

    def close(self) -> None:
        """The end of the run."""


class LiveTeaching:
    """A teacher that is asked for every view, or none at all."""

    def __init__(self, teacher: Teacher) -> None:
        self.teacher = teacher

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self.teacher.image_size

    def __call__(self, share: Batch, images: Callable[[], Tensor]) -> Tensor | None:
        return self.teacher(images())

    def answered_epochs(self) -> frozenset[int]:
        return frozenset()

    def keeps_answers(self) -> bool:
        return False

    def end_epoch(self, world: World) -> None:
        return None

    def flush(self) -> None:
        return None

    def close(self) -> None:
        return None


class StoredTeaching:
    """A teacher whose answers are kept; `words` tells the word of each view it is shown."""

    def __init__(self, cached: CachedTeacher, *, words: Callable[[Views], np.ndarray]) -> None:
        self.cached = cached
        self.words = words

    @property
    def image_size(self) -> tuple[int, int] | None:
        return self.cached.image_size

    def __call__(self, share: Batch, images: Callable[[], Tensor]) -> Tensor:
        return self.cached(
            images,
            view_epoch=share.view_epoch,
            repeat_B=share.views.repeat_B,
            sample_ids_B=share.record_ids_B,
            words_B=self.words(share.views),
        )

    def answered_epochs(self) -> frozenset[int]:
        cache = self.cached.cache
        if cache.num_bytes > MAX_BYTES_LOOKED_THROUGH:
            return frozenset()
        return frozenset(e for e in range(cache.num_view_epochs) if cache.is_complete(e))

    def keeps_answers(self) -> bool:
        return True

    def end_epoch(self, world: World) -> None:
        if self.cached.cache.folder is not None:
            # On disk they read each other's files.
            return
        fresh = self.cached.take_fresh()
        if world.world_size > 1 and world.any(len(fresh.logits_BK) > 0):
            rows: list[Any] = [world.gather_rows(one) for one in fresh]
            self.cached.store(Fresh(*rows))

    def flush(self) -> None:
        self.cached.cache.flush()

    def close(self) -> None:
        self.cached.cache.close()


def open_stored_teaching(
    teacher: LiveTeacher,
    steps: TrainSteps,
    *,
    world: World,
    mode: str,
    folder: str | None,
    num_view_epochs: int,
    dtype: str,
    top_k: int | None,
    erasing_fill: str,
    mean: Sequence[float],
    std: Sequence[float],
    decoding: Mapping[str, Any],
    tell: Callable[[str], None],
) -> StoredTeaching:
    """The teacher behind the cache of its answers to the views of `steps`.

    `mode` is "disk", in `folder` (None: the user's own cache folder), or "memory". The first rank
    opens the cache before the others and alone has something to `tell`. `mean` and `std` are the
    student's, which some fills of erased boxes are made of.

    Raises:
        ConfigError, ResourceError: as `TeacherCache.open`.
    """
    root = None
    if mode == "disk":
        root = default_root() if folder is None else Path(folder)
    settings = view_settings(
        steps.policy,
        view_seed=steps.view_seed,
        aspect=steps.aspect,
        teacher_size=teacher.image_size,
        erasing_fill=erasing_fill,
        decoding=decoding,
    )
    if steps.phases.strengths != (1.0,):
        # Where a place for a view epoch holds views of another strength it is another's place.
        settings["strengths"] = [
            list(pair)
            for pair in zip(steps.phases.first_view_epochs, steps.phases.strengths, strict=True)
        ]
    if steps.window_bytes is not None:
        # Who is whose partner follows the order.
        settings["window_bytes"] = steps.window_bytes
    open_cache = partial(
        TeacherCache.open,
        root,
        teacher_digest=teacher.answers_digest,
        teacher_name=teacher.classifier.name,
        class_names=steps.images.class_names,
        policy_digest=policy_digest(settings),
        sample_ids=record_ids(steps.sample_ids_N),
        num_view_epochs=num_view_epochs,
        num_repeats=steps.repeats,
        dtype=dtype,
        top_k=top_k,
        mode=mode,
        about=settings,
    )
    if world.is_main:
        cache = open_cache(tell=tell)
        world.barrier()
    else:
        world.barrier()
        cache = open_cache()
    words = partial(
        view_words,
        teacher_size=teacher.image_size,
        erasing_fill=erasing_fill,
        mean=mean,
        std=std,
        op_fill=steps.op_fill,
        decoding=decoding,
    )
    return StoredTeaching(CachedTeacher(teacher, cache, device=world.device), words=words)


class BlankTeacher:
    """Logits of zeros, at no cost: to time a student's step without its teacher."""

    image_size = None

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        return torch.zeros((len(images_BCHW), self.num_classes), device=images_BCHW.device)
