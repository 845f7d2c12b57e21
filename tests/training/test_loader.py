"""Which images a step reads, and that workers, ranks, batches and interruptions change no pixel."""

from __future__ import annotations

import os
import signal
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy, epoch_order
from deitkit.augmentation.device_render import render_on_device
from deitkit.data import ImageSet
from deitkit.errors import DataError, WorkerError
from deitkit.flow import Batch
from deitkit.training.loader import TrainSteps
from deitkit.training.sizes import one_size
from deitkit.training.workers import load_steps
from tests.training.toy import SIDE, toy_images

POLICY = ViewPolicy(scale=(0.3, 1.0), mixup=0.8, cutmix=1.0)


class OnlyIds:
    """What the order of an epoch reads of an image set."""

    def __init__(self, num: int) -> None:
        self.labels = np.zeros(num, dtype=np.int64)
        self.sample_ids = np.random.default_rng(num).integers(0, 2**64, num, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.sample_ids)


def make_steps(
    images: ImageSet, *, batch_size: int, rank: int = 0, world_size: int = 1, **more: Any
):
    return TrainSteps(
        images,
        policy=POLICY,
        view_seed=3,
        batch_size=batch_size,
        sizes=one_size((SIDE, SIDE)),
        teacher_size=(12, 12),
        rank=rank,
        world_size=world_size,
        **more,
    )


@given(
    num=st.integers(2, 70),
    batch_size=st.integers(2, 90),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_an_epoch_is_its_order_whatever_divides_it(num, batch_size, world_size, epoch):
    """Ranks and steps laid end to end are the order: every image once, pairs whole, shares even."""
    images = OnlyIds(num)
    ranks = [
        make_steps(images, batch_size=batch_size, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    per_epoch = ranks[0].steps_per_epoch
    assert per_epoch == -(-num // batch_size)
    read: list[int] = []
    step_sizes = []
    for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
        shares = [steps.indices(step) for steps in ranks]
        for share in shares:
            assert len(read) % 2 == 0 or len(share) == 0, "a share begins inside a pair"
            read += share.tolist()
        sizes = [len(share) for share in shares]
        assert max(sizes) - min(sizes) <= 3, sizes
        step_sizes.append(sum(sizes))
    assert read == epoch_order(3, epoch, images.sample_ids).tolist()
    assert sorted(read) == list(range(num))
    assert max(step_sizes) - min(step_sizes) <= 3
    assert max(step_sizes) <= batch_size + batch_size % 2


def test_orders_of_epochs_differ():
    steps = make_steps(OnlyIds(50), batch_size=50)
    assert steps.indices(0).tolist() != steps.indices(1).tolist()


@given(
    num=st.integers(2, 70),
    batch_size=st.integers(2, 40),
    world_size=st.integers(1, 3),
    repeats=st.integers(2, 4),
)
@settings(max_examples=150, deadline=None)
def test_repeated_augmentation_covers_every_image(num, batch_size, world_size, repeats):
    """A.17: `repeats` epochs show each image so many times, all copies of it in one step; 5 images
    are enough, no rank or step drops any, and none is beside its own copy but an odd last one."""
    images = OnlyIds(num)
    ranks = [
        make_steps(images, batch_size=batch_size, rank=rank, world_size=world_size, repeats=repeats)
        for rank in range(world_size)
    ]
    repeats = min(repeats, num)
    shown: list[int] = []
    for step in range(repeats * ranks[0].steps_per_epoch):
        members, copies = ranks[0].members(step)
        read = np.concatenate([steps.indices(step) for steps in ranks]).tolist()
        assert read == members.tolist() and len(read) > 0
        assert set(Counter(read).values()) == {repeats}
        assert len(set(zip(read, copies.tolist(), strict=True))) == len(read)
        paired = len(set(read)) // 2 * 2 * repeats
        assert all(read[i] != read[i + 1] for i in range(0, paired, 2))
        assert len(read) % 2 == 0 or step + 1 == ranks[0].steps_per_epoch or len(set(read)) % 2
        shown += read
    assert Counter(shown) == Counter(dict.fromkeys(range(num), repeats))


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (12, 2), (12, 3)])
def test_balanced_epoch_is_the_same_whatever_divides_it(batch_size, world_size):
    """Every class comes as often as it should; an image's copies are numbered, each in a view of
    its own; ranks and batches change nothing."""
    images = toy_images(60)
    whole = make_steps(images, batch_size=60, balance_strength=1.0)
    ranks = [
        make_steps(
            images, batch_size=batch_size, rank=r, world_size=world_size, balance_strength=1.0
        )
        for r in range(world_size)
    ]
    members, copies = whole.members(1)
    per_epoch = ranks[0].steps_per_epoch
    found = [ranks[0].members(per_epoch + step) for step in range(per_epoch)]
    np.testing.assert_array_equal(np.concatenate([index for index, _ in found]), members)
    np.testing.assert_array_equal(np.concatenate([copy for _, copy in found]), copies)
    for step in range(per_epoch):
        shares = [steps.indices(per_epoch + step) for steps in ranks]
        np.testing.assert_array_equal(np.concatenate(shares), found[step][0])
    counts = np.bincount(whole.images.labels[members])
    assert counts.max() - counts.min() <= 1
    assert len(set(zip(members.tolist(), copies.tolist(), strict=True))) == 60
    assert copies.max() > 0


def test_repeated_views_do_not_depend_on_the_batch():
    """The same copies with the same partners and draws, in steps of 6 or of 12 views."""
    images = toy_images(24)

    def drawn(batch_size: int) -> set[tuple[int, int, int, bytes, bytes]]:
        steps = make_steps(images, batch_size=batch_size, repeats=3)
        found = set()
        for step in range(3 * steps.steps_per_epoch):
            views = steps[step].views
            for i in range(len(views)):
                key = (int(views.sample_ids_B[i]), int(views.repeat_B[i]))
                pair = int(views.sample_ids_B[i ^ 1])
                found.add((*key, pair, views.box_B4[i].tobytes(), views.lam_B[i].tobytes()))
        return found

    assert drawn(6) == drawn(12)
    assert len(drawn(6)) == 72


def test_views_rendered_by_the_step_are_those_rendered_by_the_loader():
    """On a device the sources travel; here the same code runs on the CPU (at most 1 level off)."""
    images = toy_images(20)
    on_cpu = make_steps(images, batch_size=10)[1]
    on_device = make_steps(images, batch_size=10, on_device=True)[1]
    assert on_device.images_BCHW is None and on_device.teacher_images_BCHW is None
    sources = on_device.sources_BHWC
    for size, wanted in (
        ((SIDE, SIDE), on_cpu.images_BCHW),
        ((12, 12), on_cpu.teacher_images_BCHW),
    ):
        got = render_on_device(sources, on_device.views, size)
        assert (got.int() - wanted.int()).abs().max() <= 1
    many_sizes = make_steps(toy_images(20, one_size=False), batch_size=10, on_device=True)[1]
    assert many_sizes.sources_BHWC is None and many_sizes.images_BCHW is not None


def seen(batches: list[Batch]) -> dict[tuple[int, int], tuple[bytes, ...]]:
    """Everything about each (epoch, image): both renderings, label and mix, in bytes."""
    found = {}
    for batch in batches:
        views = batch.views
        for i, sample_id in enumerate(views.sample_ids_B):
            partner = i ^ 1 if i ^ 1 < len(batch) else i
            key = (batch.epoch, int(sample_id))
            assert key not in found
            found[key] = (
                batch.images_BCHW[i].numpy().tobytes(),
                batch.teacher_images_BCHW[i].numpy().tobytes(),
                views.box_B4[i].tobytes() + views.flip_B[i].tobytes(),
                views.lam_B[i].tobytes() + views.cut_B4[i].tobytes(),
                bytes([int(batch.labels_B[i])]),
                views.sample_ids_B[partner].tobytes(),
            )
    return found


NUM_IMAGES, NUM_EPOCHS = 27, 3
KINDS = pytest.mark.parametrize("one_size", [True, False], ids=["one-block", "many-sizes"])


def all_of(images: ImageSet, *, batch_size: int, workers: int, world_size: int = 1, cut: int = 0):
    """Three epochs, read anew from step `cut` on as after an interruption."""
    batches: list[Batch] = []
    for rank in range(world_size):
        steps = make_steps(images, batch_size=batch_size, rank=rank, world_size=world_size)
        end = NUM_EPOCHS * steps.steps_per_epoch
        for first, last in ((0, cut), (cut, end)):
            if first < last:
                batches += load_steps(steps, first, last, workers=workers)
    return seen(batches)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@KINDS
@pytest.mark.parametrize(
    "way",
    [
        {"batch_size": 8, "workers": 2},
        {"batch_size": 8, "workers": 5},
        {"batch_size": 8, "workers": 0, "world_size": 2},
        {"batch_size": 8, "workers": 2, "world_size": 2, "cut": 5},
        {"batch_size": 5, "workers": 0},
        {"batch_size": 27, "workers": 0, "world_size": 3},
        {"batch_size": 8, "workers": 0, "cut": 1},
        {"batch_size": 8, "workers": 2, "cut": 7},
    ],
    ids=lambda way: "-".join(f"{k}{v}" for k, v in way.items()),
)
def test_pixels_are_the_same_bytes_however_they_are_loaded(one_size, way):
    """A.18, T18: 0, 2, 5 workers; 1 to 3 ranks; other batches; before and after an interruption."""
    images = toy_images(NUM_IMAGES, one_size=one_size)
    reference = all_of(images, batch_size=8, workers=0)
    assert len(reference) == NUM_EPOCHS * NUM_IMAGES
    assert len({pixels for pixels, *_ in reference.values()}) > 2 * NUM_IMAGES
    assert all_of(images, **way) == reference


def test_the_odd_last_image_stays_unmixed():
    """27 images with Mixup and CutMix always on: 26 are mixed, the last of the order is not."""
    steps = make_steps(toy_images(NUM_IMAGES), batch_size=8)
    batches = [steps[step] for step in range(steps.steps_per_epoch)]
    lam = np.concatenate([batch.views.lam_B for batch in batches])
    assert lam[-1] == 1.0 and (lam[:-1] < 1.0).all()
    first, global_sizes = [b.first for b in batches], [b.global_size for b in batches]
    assert first == [0] * len(batches) and global_sizes == [len(b) for b in batches]


def test_a_rank_knows_its_place_in_the_step():
    """`first` and `global_size` key the model's noise: ranks must agree with one process."""
    images = toy_images(23)
    for step in range(3):
        shares = [make_steps(images, batch_size=10, rank=r, world_size=2)[step] for r in range(2)]
        assert [share.first for share in shares] == [0, len(shares[0])]
        assert {share.global_size for share in shares} == {len(shares[0]) + len(shares[1])}


class BrokenSet:
    """Images of which one cannot be had."""

    def __init__(self, images: ImageSet, fault) -> None:
        self.sample_ids, self.sizes, self.labels = images.sample_ids, images.sizes, images.labels
        self.pixels = None
        self._images, self._fault = images, fault

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        if index == 3:
            self._fault()
        return self._images.image(index)


def vanish() -> None:
    raise DataError("FILE_GONE", "photos/x.png", "is gone", "bring it back")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_error_arrives_as_itself(workers):
    """D39: the image's name and the exit code are those of the error in the worker."""
    steps = make_steps(BrokenSet(toy_images(12), vanish), batch_size=4)
    with pytest.raises(DataError) as caught:
        list(load_steps(steps, 0, 3, workers=workers))
    assert (caught.value.code, caught.value.subject, caught.value.exit_code) == (
        "FILE_GONE",
        "photos/x.png",
        3,
    )


def test_a_killed_worker_is_told():
    """T32: ERR 8, not a hang."""
    steps = make_steps(
        BrokenSet(toy_images(12), lambda: os.kill(os.getpid(), signal.SIGKILL)), batch_size=4
    )
    with pytest.raises(WorkerError) as caught:
        list(load_steps(steps, 0, 3, workers=1))
    assert (caught.value.code, caught.value.exit_code) == ("WORKER_DIED", 8)


def test_a_batch_is_pinned_whole(monkeypatch):
    """Each of its tensors is moved, and nothing else changes: there is no CUDA here to fetch it."""
    batch = make_steps(toy_images(8), batch_size=4)[0]
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor + 1)
    pinned = batch.pin_memory()
    assert torch.equal(pinned.images_BCHW, batch.images_BCHW + 1)
    assert torch.equal(pinned.labels_B, batch.labels_B + 1)
    assert pinned.sources_BHWC is None and pinned.views is batch.views
    assert pinned.num_labelled == batch.num_labelled
