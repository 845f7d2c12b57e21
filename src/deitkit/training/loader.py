"""Rendered images of each step: order, views, ranks. A pure function of the step."""

# Shapes: B images, N all training images.

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from deitkit.augmentation import (
    ViewPolicy,
    Views,
    block_windows,
    draw_views,
    epoch_order,
    pair_alike,
    render,
    shuffle_pairs,
)
from deitkit.augmentation.view_words import record_ids
from deitkit.data import ImageSet
from deitkit.data.view_sources import ViewSources, WholeSources
from deitkit.errors import ConfigError
from deitkit.flow import Batch
from deitkit.training.balance import balance_order, occurrences
from deitkit.training.sizes import Size, SizePhases, one_size
from deitkit.training.teacher_choices import num_taught_steps
from deitkit.training.view_phases import build_view_phases


class TrainSteps(Dataset):
    """`steps[s]` is one rank's batch of optimisation step s.

    An epoch's images are divided evenly over its steps, in whole pairs of mix partners, and a
    step's over the ranks: no step is short, no image is dropped, and nothing but the order's seed
    decides which images meet.

    With `repeats` above 1 an epoch takes the next part of the order, and shows each of its images
    so many times within one step: `repeats` epochs show all images. Hoffer et al. 2020, "Augment
    your batch", arXiv:1901.09335; Berman et al. 2019, arXiv:1902.05509.
    Deviation: the authors' sampler spreads the copies of an image over the ranks and drops what
    does not fill 256 positions; here copies stand apart in the step, so that none is mixed with
    another, also in one process.

    With `num_view_epochs` V, epoch e shows the views of epoch e % V again (`ViewPhases`), with the
    same mix partners, in another order: what a teacher said of them is then known. Images without a
    label (-1) are mixed with each other; only where both kinds are odd one pair is of both.

    With `balance_strength` an epoch shows small classes several times and large ones in part
    (`balance_order`): as many images in all, copies of one in views of their own.

    With `window_bytes` the order goes through blocks of shards, so many bytes of them shuffled
    together; without, all images are shuffled together.
    """

    def __init__(
        self,
        images: ImageSet,
        *,
        policy: ViewPolicy,
        view_seed: int,
        batch_size: int,
        sizes: SizePhases,
        teacher_size: tuple[int, int] | None,
        rank: int,
        world_size: int,
        repeats: int = 1,
        num_view_epochs: int | None = None,
        until: float = 1.0,
        strengths: Sequence[float] = (),
        total_steps: int = 1,
        op_fill: int | Sequence[int] = 0,
        on_device: bool = False,
        window_bytes: int | None = None,
        sources: ViewSources | None = None,
        balance_strength: float | None = None,
    ) -> None:
        """`sources` is what views are cut from, whole images where it is left out. `strengths` are
        those of `policy` in equal parts of a run of `total_steps`, full from beginning to end where
        there are none. The teacher is asked in the first epochs of it, a share `until`. `op_fill`
        are levels for what operations uncover. `on_device` leaves rendering to the training step
        where the sources are in memory, whole and of one size.

        Raises:
            ConfigError: STRENGTHS.
        """
        assert num_view_epochs is None or num_view_epochs % repeats == 0
        is_plain = repeats == 1 and num_view_epochs is None and window_bytes is None
        assert balance_strength is None or is_plain, "copies would meet copies"
        self.images = images
        self.sources = sources or WholeSources(images)
        self.num_remade = 0
        """Of the batches that were handed over so far."""
        self.sample_ids_N = images.sample_ids
        self.record_ids_N = record_ids(images.sample_ids)
        self.is_labelled_N = images.labels >= 0
        self.policy = policy
        self.view_seed = view_seed
        self.sizes = sizes
        self.teacher_size = teacher_size
        self.rank = rank
        self.world_size = world_size
        self.op_fill = op_fill
        self.on_device = on_device and self.sources.block is not None
        self.window_bytes = window_bytes
        self.balance_strength = balance_strength
        self._blocks = None if window_bytes is None else images.blocks
        self.repeats = min(repeats, max(1, len(images)))
        fewest = min(len(self._part(epoch)) for epoch in range(self.repeats))
        self.num_pairs = -(-fewest // 2)
        """Pairs of different images in the shortest epoch."""
        self.steps_per_epoch = min(-(-len(images) // batch_size), self.num_pairs)
        self.taught_steps: int | None = None
        """The teacher is asked in the first so many; None: in all."""
        if until < 1:
            self.taught_steps = num_taught_steps(
                total_steps, steps_per_epoch=self.steps_per_epoch, until=until
            )
        self.phases = build_view_phases(
            strengths,
            num_epochs=-(-total_steps // self.steps_per_epoch),
            num_view_epochs=num_view_epochs,
            repeats=repeats,
        )
        self._policies = [policy.at_strength(share) for share in self.phases.strengths]
        self._answered: tuple[Collection[int], int | None] = ((), None)
        self._order = lru_cache(maxsize=2)(self._epoch_order)
        self._copies = lru_cache(maxsize=2)(self._epoch_copies)

    def __getstate__(self) -> dict[str, object]:
        cached = ("_order", "_copies")
        return {name: value for name, value in self.__dict__.items() if name not in cached}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._order = lru_cache(maxsize=2)(self._epoch_order)
        self._copies = lru_cache(maxsize=2)(self._epoch_copies)

    @property
    def largest_size(self) -> tuple[int, int]:
        """Height and width of the larger of what student and teacher see; sources are read for it,
        so that what is read depends on nothing else."""
        height, width = self.sizes.last
        if self.teacher_size is None:
            return height, width
        return max(height, self.teacher_size[0]), max(width, self.teacher_size[1])

    def view_epoch(self, epoch: int) -> int:
        """The epoch whose views this one shows."""
        return self.phases.view_epoch(epoch)

    def policy_of(self, view_epoch: int) -> ViewPolicy:
        """What the views of a view epoch are drawn by."""
        return self._policies[self.phases.part_of(view_epoch)]

    @property
    def aspect(self) -> float:
        """Width over height of every size."""
        height, width = self.sizes.last
        return width / height

    def at_size(self, size: Size) -> TrainSteps:
        """The same steps, all at one size: to time them."""
        other = copy.copy(self)
        other.sizes = one_size(size)
        return other

    def with_answers(self, view_epochs: Collection[int], *, from_step: int | None) -> TrainSteps:
        """The same steps, not rendered for a teacher whose answers are stored: in these view
        epochs, and where a view is shown that was shown since `from_step`."""
        other = copy.copy(self)
        other._answered = (frozenset(view_epochs), from_step)
        return other

    def _is_answered(self, step: int) -> bool:
        if self.taught_steps is not None and step >= self.taught_steps:
            return True
        view_epochs, from_step = self._answered
        epoch = step // self.steps_per_epoch
        if self.view_epoch(epoch) in view_epochs:
            return True
        earlier = self.phases.shown_before(epoch)
        if from_step is None or earlier is None:
            return False
        # The order differs from the first time: only a whole earlier epoch has shown all.
        return earlier >= -(-from_step // self.steps_per_epoch)

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Images of one epoch, pairs beside each other: all, the next of `repeats` parts, or some
        several times."""
        view_epoch = self.view_epoch(epoch)
        part = self._part(view_epoch)
        windows_N = self._windows(view_epoch // self.repeats)
        order = epoch_order(
            self.view_seed, view_epoch // self.repeats, self.sample_ids_N, windows_N
        )
        chosen = order[part.start : part.stop]
        if (strength := self.balance_strength) is not None:
            labels_N, ids_N, seed = self.images.labels, self.sample_ids_N, self.view_seed
            chosen = balance_order(
                chosen, labels_N, ids_N, strength=strength, view_seed=seed, epoch=epoch
            )
        is_labelled = self.is_labelled_N[chosen]
        if not is_labelled.all():
            chosen = pair_alike(chosen, is_labelled)
        if view_epoch != epoch or not is_labelled.all():
            chosen = shuffle_pairs(
                chosen,
                view_seed=self.view_seed,
                epoch=epoch,
                windows_N=None if windows_N is None else windows_N[chosen],
            )
        return chosen

    def _epoch_copies(self, epoch: int) -> np.ndarray:
        """Which copy of its image each place of an epoch's order is."""
        return occurrences(self._order(epoch))

    def _windows(self, epoch: int) -> np.ndarray | None:
        """The window of blocks each image is in, in an epoch of all images."""
        if self._blocks is None or self.window_bytes is None:
            return None
        return block_windows(
            self.view_seed,
            epoch,
            self.sample_ids_N,
            self._blocks.block_N,
            self._blocks.bytes_G,
            window_bytes=self.window_bytes,
        )

    def _part(self, epoch: int) -> range:
        """Places in the order of all images that an epoch takes."""
        num, part = len(self.images), epoch % self.repeats
        return range(part * num // self.repeats, (part + 1) * num // self.repeats)

    def members(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Training images of the whole step and which copy of each, in the order of the step.

        All images once, then all again, so that the pairs are those of the epoch's order whatever
        the batch; the copies of an odd last one stand at the end.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        order = self._order(epoch)
        num_pairs = -(-len(order) // 2)
        first = 2 * (place * num_pairs // self.steps_per_epoch)
        last = 2 * ((place + 1) * num_pairs // self.steps_per_epoch)
        chosen = order[first:last]
        if self.balance_strength is not None:
            return chosen, self._copies(epoch)[first:last]
        paired, odd = np.split(chosen, [len(chosen) // 2 * 2])
        copies = np.arange(self.repeats)
        return (
            np.concatenate([np.tile(paired, self.repeats), np.repeat(odd, self.repeats)]),
            np.concatenate([np.repeat(copies, len(paired)), np.tile(copies, len(odd))]),
        )

    def share(self, num_images: int) -> slice:
        """This rank's part of a step of so many images, in whole pairs."""
        num_pairs = -(-num_images // 2)
        first = num_pairs * self.rank // self.world_size
        last = num_pairs * (self.rank + 1) // self.world_size
        return slice(2 * first, min(2 * last, num_images))

    def indices(self, step: int) -> np.ndarray:
        """Which training images this rank reads in `step`, in order."""
        members, _ = self.members(step)
        return members[self.share(len(members))]

    def __getitem__(self, step: int) -> Batch:
        epoch = step // self.steps_per_epoch
        members, repeats = self.members(step)
        mine = self.share(len(members))
        indices_B = members[mine]
        view_epoch = self.view_epoch(epoch)
        views = draw_views(
            self.policy_of(view_epoch),
            view_seed=self.view_seed,
            epoch=view_epoch,
            repeat_B=repeats[mine],
            sample_ids_B=self.sample_ids_N[indices_B],
            sizes_B2=self.images.sizes[indices_B],
            aspect=self.aspect,
        )
        size = self.sizes.at(step)
        block, before = self.sources.block, self.sources.num_remade
        sources, rendered, rendered_for_teacher = None, None, None
        if self.on_device and block is not None:
            sources = torch.from_numpy(block[indices_B])
        else:
            images = self.sources.read(indices_B, views.box_B4, self.largest_size)
            rendered = self._rendered(images, views, size)
            if self.teacher_size not in (None, size) and not self._is_answered(step):
                assert self.teacher_size is not None
                rendered_for_teacher = self._rendered(images, views, self.teacher_size)
        return Batch(
            images_BCHW=rendered,
            teacher_images_BCHW=rendered_for_teacher,
            sources_BHWC=sources,
            labels_B=torch.from_numpy(self.images.labels[indices_B]),
            indices_B=indices_B,
            record_ids_B=self.record_ids_N[indices_B],
            views=views,
            image_size=size,
            epoch=epoch,
            view_epoch=view_epoch,
            first=mine.start,
            global_size=len(members),
            num_labelled=int(labels_that_count(self.is_labelled_N[members]).sum()),
            num_remade=self.sources.num_remade - before,
        )

    def rendered(self, indices_B: np.ndarray, views: Views, size: tuple[int, int]) -> Tensor:
        """The views as uint8 [B, C, H, W] at a size."""
        images = self.sources.read(indices_B, views.box_B4, self.largest_size)
        return self._rendered(images, views, size)

    def _rendered(
        self, images: Sequence[np.ndarray] | np.ndarray, views: Views, size: tuple[int, int]
    ) -> Tensor:
        return torch.from_numpy(render(images, views, size, op_fill=self.op_fill))


def check_shares(steps: TrainSteps, batch_size: int) -> None:
    """Each rank has its pairs in each step, and as many as the others.

    Raises ConfigError RANKS with the numbers of ranks that would do.
    """
    num_ranks = steps.world_size
    subject = f"ranks={num_ranks}"
    if steps.repeats * (steps.num_pairs // steps.steps_per_epoch) < num_ranks:
        raise ConfigError(
            "RANKS",
            subject,
            f"a step of {min(batch_size, len(steps.images))} images has fewer pairs than ranks",
            "use fewer ranks or a larger batch_size",
        )
    if batch_size % num_ranks:
        fitting = [str(n) for n in range(1, batch_size // 2 + 1) if batch_size % n == 0]
        raise ConfigError(
            "RANKS",
            subject,
            f"a batch of {batch_size} images is not divisible by {num_ranks}",
            f"use ranks= one of {', '.join(fitting)}, or a batch_size that is a multiple of "
            f"{num_ranks}",
        )


def labels_that_count(is_labelled_B: np.ndarray) -> np.ndarray:
    """bool [B]: labelled images whose mix partner is labelled too."""
    counts_B = is_labelled_B.copy()
    whole = len(counts_B) // 2 * 2
    both_P = is_labelled_B[:whole].reshape(-1, 2).all(axis=1)
    counts_B[:whole] = np.repeat(both_P, 2)
    return counts_B
