"""What config rebuilds: everything a step reads and does not change."""

# Shapes: B images, C channels, H height, W width, K classes.

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from deitkit.augmentation.device_render import render_on_device
from deitkit.augmentation.erasing import erase_images_
from deitkit.augmentation.mixing import mix_images, mix_targets
from deitkit.augmentation.views import Views
from deitkit.flow import Batch
from deitkit.losses import DistillationLoss
from deitkit.losses.targets import label_targets
from deitkit.models.noise import ModelNoise
from deitkit.optim import Schedule
from deitkit.runtime.transfer import sent
from deitkit.runtime.world import World
from deitkit.training.loader import labels_that_count
from deitkit.training.teaching import Teaching
from deitkit.training.verdict import Judge


def _part(images_B: Tensor | None, start: int, stop: int) -> Tensor | None:
    return None if images_B is None else images_B[start:stop]


def mean_levels(mean: Iterable[float]) -> list[int]:
    """A colour of 0 to 1 in levels of 0 to 255."""
    return [round(255 * min(max(value, 0.0), 1.0)) for value in mean]


@dataclass(frozen=True, kw_only=True)
class TrainParts:
    """The parts of one run on one rank."""

    world: World
    device: torch.device
    autocast_dtype: torch.dtype | None
    student: nn.Module
    """The model of the state, wrapped so that its gradients are averaged over the ranks."""
    teacher: Teaching
    render: Callable[[np.ndarray, Views, tuple[int, int]], Tensor]
    """Images at `indices_B` as views, for a teacher whose stored answer turns out to be missing."""
    loss: DistillationLoss
    schedule: Schedule
    num_classes: int
    label_smoothing: float
    label_loss: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    erasing_fill: str
    clip_norm: float | None
    judge: Judge
    """Decides whether a gradient of some norm may change anything."""
    device_batch_size: int
    steps_per_epoch: int
    weight_seed: int
    taught_steps: int | None = None
    """The teacher is asked in the first so many; None: in all."""

    def teaches(self, step: int) -> bool:
        """Whether the teacher is asked in a step, and its answers count."""
        return self.taught_steps is None or step < self.taught_steps

    def micro_batches(self, batch: Batch) -> Iterator[tuple[Batch, bool]]:
        """Slices of whole pairs that fit on the device, and whether the gradient is then whole."""
        size = self.device_batch_size + self.device_batch_size % 2
        for start in range(0, len(batch), size):
            stop = min(start + size, len(batch))
            share = replace(
                batch,
                images_BCHW=_part(batch.images_BCHW, start, stop),
                teacher_images_BCHW=_part(batch.teacher_images_BCHW, start, stop),
                sources_BHWC=_part(batch.sources_BHWC, start, stop),
                labels_B=batch.labels_B[start:stop],
                indices_B=batch.indices_B[start:stop],
                record_ids_B=batch.record_ids_B[start:stop],
                views=batch.views[start:stop],
                first=batch.first + start,
            )
            yield share, stop == len(batch)

    def mix(self, share: Batch) -> tuple[Tensor, Tensor]:
        """Mixed images for the student, 0 to 1, and mixed soft targets."""
        images_BCHW = self._mixed(share.images_BCHW, share, share.image_size)
        targets_BK = label_targets(
            sent(share.labels_B.clamp(min=0), self.device),
            self.num_classes,
            smoothing=self.label_smoothing,
            label_loss=self.label_loss,
            mix=lambda targets: mix_targets(targets, share.views, size=share.image_size),
        )
        return images_BCHW, targets_BK

    def ask_teacher(self, share: Batch, images_BCHW: Tensor) -> Tensor | None:
        """The teacher's logits [B, K] of the mixed views, whose student images these are."""
        return self.teacher(share, lambda: self.teacher_images(share, images_BCHW))

    def teacher_images(self, share: Batch, images_BCHW: Tensor) -> Tensor:
        """The mixed views at the teacher's own size, 0 to 1."""
        size = self.teacher.image_size
        if size is None or size == share.image_size:
            return images_BCHW
        rendered_BCHW = share.teacher_images_BCHW
        if rendered_BCHW is None and share.sources_BHWC is None:
            rendered_BCHW = self.render(share.indices_B, share.views, size)
        return self._mixed(rendered_BCHW, share, size)

    def labelled_rows(self, share: Batch) -> Tensor | None:
        """Rows whose label counts, on the device; None where all do."""
        if share.num_labelled == share.global_size:
            return None
        counts_B = labels_that_count((share.labels_B >= 0).numpy())
        return sent(np.flatnonzero(counts_B), self.device)

    def label_normalizer(self, batch: Batch) -> float:
        """As `normalizer`, over the images whose label counts."""
        return max(1, batch.num_labelled) / self.world.world_size

    def _mixed(self, images_BCHW: Tensor | None, share: Batch, size: tuple[int, int]) -> Tensor:
        if images_BCHW is None:
            assert share.sources_BHWC is not None
            sources_BHWC = sent(share.sources_BHWC, self.device)
            images_BCHW = render_on_device(sources_BHWC, share.views, size, op_fill=self.op_fill)
        images_BCHW = sent(images_BCHW, self.device).float().div_(255)
        images_BCHW = erase_images_(
            images_BCHW, share.views, fill=self.erasing_fill, mean=self.mean, std=self.std
        )
        return mix_images(images_BCHW, share.views)

    @property
    def op_fill(self) -> list[int]:
        """Levels of the mean colour, for what operations uncover."""
        return mean_levels(self.mean)

    def normalise(self, images_BCHW: Tensor) -> Tensor:
        """Subtract the mean and divide by the deviation of each channel."""
        mean_C11 = sent(torch.tensor(self.mean), self.device).view(-1, 1, 1)
        std_C11 = sent(torch.tensor(self.std), self.device).view(-1, 1, 1)
        return (images_BCHW - mean_C11).div_(std_C11)

    def noise(self, step: int, share: Batch) -> ModelNoise:
        """The key of the model's own chance in this step, for these images of its batch."""
        return ModelNoise(self.weight_seed, step, share.first, share.global_size)

    def normalizer(self, batch: Batch) -> float:
        """Divides sums over images so that the average over ranks is the mean over the step."""
        return batch.global_size / self.world.world_size

    def autocast(self) -> AbstractContextManager[None]:
        if self.autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def exchange(self, is_last: bool) -> AbstractContextManager[None]:
        """Ranks exchange gradients once a step, with the last micro-batch."""
        return self.world.exchange() if is_last else self.world.no_sync(self.student)

    def clip(self, parameters: Iterable[nn.Parameter]) -> Tensor:
        """Scale the gradient to at most `clip_norm`; return the norm it had."""
        limit = math.inf if self.clip_norm is None else self.clip_norm
        return nn.utils.clip_grad_norm_(list(parameters), limit, foreach=True)
