"""Shards read block by block: how often each is read, and that nothing else changes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.augmentation import ViewPolicy
from deitkit.data import ImageSet, open_dataset, open_split, parquet, tar_store
from deitkit.data.blocks import Blocks
from deitkit.training.loader import TrainSteps
from deitkit.training.order_choice import choose_order, is_sorted
from deitkit.training.sizes import one_size
from deitkit.training.workers import load_steps
from tests.data.tar_files import members, picture, write_tar
from tests.training.toy import SIDE

NUM_SHARDS, IN_SHARD = 6, 20
LABELS = ["cat", "dog"] * (IN_SHARD // 2)


def make_steps(images: ImageSet, *, window_bytes: int | None, **more) -> TrainSteps:
    settled = {"batch_size": 16, "rank": 0, "world_size": 1, "teacher_size": None} | more
    return TrainSteps(
        images,
        policy=ViewPolicy(scale=(0.3, 1.0), mixup=0.8, cutmix=1.0),
        view_seed=3,
        sizes=one_size((SIDE, SIDE)),
        window_bytes=window_bytes,
        **settled,
    )


def read_epoch(steps: TrainSteps, epoch: int = 0) -> None:
    for step in range(epoch * steps.steps_per_epoch, (epoch + 1) * steps.steps_per_epoch):
        steps[step]


@pytest.fixture
def tars(tmp_path, monkeypatch) -> ImageSet:
    """Six shards, each cut into about four blocks of 4 kB."""
    monkeypatch.setattr(tar_store, "BLOCK_BYTES", 4000)
    for number in range(NUM_SHARDS):
        found = members(LABELS, first=IN_SHARD * number)
        write_tar(tmp_path / f"train-{number:06d}.tar", found)
    write_tar(tmp_path / "val-000000.tar", members(LABELS, first=900))
    return open_dataset(tmp_path).train


@pytest.fixture
def tar_reads(monkeypatch) -> list[tuple[int, int, int]]:
    """Shard, offset and size of every read."""
    reads: list[tuple[int, int, int]] = []
    real = tar_store.TarStore._read_range

    def counted(self, shard: int, offset: int, size: int) -> bytes:
        reads.append((shard, offset, size))
        return real(self, shard, offset, size)

    monkeypatch.setattr(tar_store.TarStore, "_read_range", counted)
    return reads


@pytest.mark.parametrize("more", [{}, {"teacher_size": (12, 12)}, {"repeats": 2}])
def test_tar_blocks_are_read_once_an_epoch(tars, tar_reads, more):
    """Streaming: every block in one read, and no more than the shards' own bytes."""
    num_blocks = len(np.unique(tars.blocks.block_N))
    window_bytes = 20_000
    assert num_blocks > 3 * tars.blocks.num_bytes() / window_bytes > 9
    steps = make_steps(tars.holding(window_bytes), window_bytes=window_bytes, **more)
    for epoch in range(steps.repeats):
        read_epoch(steps, epoch)
    most = 1 if steps.repeats == 1 else 2  # A window that two epochs of a part share.
    assert max(Counter(tar_reads).values()) <= most
    assert len(tar_reads) <= num_blocks + most - 1 + (steps.repeats - 1) * 5
    if not more:
        assert sum(size for *_, size in tar_reads) == tars.blocks.num_bytes()


def test_tar_images_in_any_order_read_their_own_bytes_alone(tars, tar_reads):
    """Without blocks each image is one read, and nothing beside it is read."""
    read_epoch(make_steps(tars.holding(0), window_bytes=None))
    assert len(tar_reads) == len(tars) == len(set(tar_reads))
    assert sum(size for *_, size in tar_reads) == sum(
        len(picture(number)) for number in range(len(tars))
    )


def test_a_few_images_of_many_do_not_read_whole_blocks(tars, tar_reads):
    """A twentieth that validates is not paid with all shards."""
    few = tars.subset(np.arange(0, len(tars), 20), "val").holding(10**6)
    for index in range(len(few)):
        few.image(index)
    assert len(tar_reads) == len(few)
    assert sum(size for *_, size in tar_reads) < 0.2 * tars.blocks.num_bytes()


def test_the_scan_reads_each_block_once(tmp_path, tars, tar_reads):
    open_split(tmp_path, split="train")
    assert len(tar_reads) == len(set(tar_reads)) == len(np.unique(tars.blocks.block_N))


@pytest.fixture
def table(tmp_path, monkeypatch) -> ImageSet:
    """40 row groups of 3, of which 1 kB is held: as a table far larger than memory."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(parquet, "HELD_BYTES", 1000)
    rows = [{"bytes": picture(number), "path": None} for number in range(120)]
    written = pa.table({"image": rows, "label": ["cat", "dog"] * 60})
    pq.write_table(written, tmp_path / "x.parquet", row_group_size=3, use_dictionary=False)
    return open_split(tmp_path / "x.parquet")


def test_row_groups_are_decoded_once_an_epoch(table, monkeypatch):
    """Of 120 images in 40 row groups, the order of images decodes nearly one for each image, the
    order of blocks 40."""
    decoded: list[int] = []
    real = parquet.ParquetStore._load
    monkeypatch.setattr(
        parquet.ParquetStore, "_load", lambda self, g: decoded.append(g) or real(self, g)
    )
    read_epoch(make_steps(table.holding(0), window_bytes=None))
    assert len(decoded) > 100
    decoded.clear()
    window_bytes = 8000
    assert table.blocks.num_bytes() > 5 * window_bytes
    steps = make_steps(table.holding(window_bytes), window_bytes=window_bytes)
    read_epoch(steps)
    assert sorted(decoded) == list(range(40))
    decoded.clear()
    read_epoch(steps, 1)
    assert max(Counter(decoded).values()) == 1, "some are still held"


class OnlyBlocks:
    """What the order of an epoch reads of an image set."""

    def __init__(self, num: int, unlabelled: bool) -> None:
        rng = np.random.default_rng(num)
        self.labels = rng.integers(-1, 1, num) if unlabelled else np.zeros(num, np.int64)
        self.sample_ids = rng.integers(0, 2**64, num, dtype=np.uint64)
        self.blocks = Blocks(np.arange(num) // 7, np.full(-(-num // 7), 70))

    def __len__(self) -> int:
        return len(self.sample_ids)


@given(
    num=st.integers(2, 90),
    batch_sizes=st.tuples(st.integers(2, 50), st.integers(2, 50)),
    world_size=st.integers(1, 4),
    epoch=st.integers(0, 4),
    num_view_epochs=st.sampled_from([None, 2]),
    unlabelled=st.booleans(),
)
@settings(max_examples=100)
def test_block_order_is_one_of_the_epoch_alone(
    num, batch_sizes, world_size, epoch, num_view_epochs, unlabelled
):
    """Every image once, pairs whole, the same for any batch and any ranks, replayed or not."""
    images, read = OnlyBlocks(num, unlabelled), []
    for batch_size, ranks in ((batch_sizes[0], 1), (batch_sizes[1], world_size)):
        parts = [
            make_steps(
                images,
                window_bytes=200,
                batch_size=batch_size,
                rank=rank,
                world_size=ranks,
                num_view_epochs=num_view_epochs,
            )
            for rank in range(ranks)
        ]
        per_epoch, found = parts[0].steps_per_epoch, []
        for step in range(epoch * per_epoch, (epoch + 1) * per_epoch):
            for part in parts:
                share = part.indices(step)
                assert len(found) % 2 == 0 or len(share) == 0, "a share begins inside a pair"
                found += share.tolist()
        read.append(found)
    assert read[0] == read[1]
    assert sorted(read[0]) == list(range(num))
    kinds = (images.labels[read[0]] >= 0)[: num // 2 * 2].reshape(-1, 2)
    assert (kinds[:, 0] != kinds[:, 1]).sum() <= 1


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_workers_change_no_pixel(tars):
    """T18: 0 or 3 forked workers, each with its own held blocks, read on from the middle."""
    steps = make_steps(tars.holding(20_000), window_bytes=20_000)
    alone = list(load_steps(steps, 3, 10, workers=0))
    several = list(load_steps(steps, 3, 10, workers=3))
    for one, other in zip(alone, several, strict=True):
        assert one.images_BCHW.equal(other.images_BCHW)
        assert one.indices_B.tolist() == other.indices_B.tolist()


def test_what_auto_chooses():
    mixed, by_class = np.tile([0, 1, 2], 40), np.repeat([0, 1, 2], 40)
    assert not is_sorted(mixed) and is_sorted(by_class) and not is_sorted(mixed[:1])
    assert not is_sorted(np.zeros(50, np.int64)), "one class is not sorted"
    usual = {"shard_bytes": 10**10, "window_mb": 256, "is_kept": False, "reads_singly": True}

    def chosen(labels: np.ndarray = mixed, **more) -> str:
        return choose_order(labels, **usual | more).value

    assert chosen() == "blocks"
    assert chosen(is_kept=True) == chosen(shard_bytes=10**6) == chosen(shard_bytes=0) == "images"
    assert chosen(by_class) == "images"
    assert chosen(by_class, reads_singly=False) == "blocks"
