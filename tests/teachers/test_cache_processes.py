"""Several processes, and processes that die: the cache ends with the same bytes."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deitkit.runtime.temporary_names import is_temporary
from deitkit.teachers.cache_files import DiskFiles
from deitkit.teachers.cache_records import RecordFormat
from tests.teachers.toy_cache import IDS, answers_to, bytes_of, fill, filled, opened, words_of

CALLS = ("open", "write", "pwrite", "fsync", "close", "mkdir", "rename", "replace", "unlink")
CALLS += ("rmdir", "posix_fallocate", "ftruncate")
WRITES = ("write", "pwrite")
FEW = IDS[:3]


class DyingDisk:
    """Counts the calls of this process that change a disk, and ends it at one of them.

    kill: SIGKILL just before it; torn: half-way through it, where it writes; power: as kill, and
    what was written to a file and not yet synced is gone.
    """

    def __init__(self, kill_at: int, way: str) -> None:
        self.kill_at = kill_at
        self.way = way
        self.num_calls = 0
        self.duplicates: dict[int, int] = {}
        """Descriptors open for writing -> their duplicates, which are never closed."""
        self.synced: dict[int, bytes] = {}
        """Duplicate -> what its file held when it was opened or last synced."""
        self.real = {name: getattr(os, name) for name in CALLS}
        for name in CALLS:
            setattr(os, name, self.wrapped(name))

    def wrapped(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.num_calls += self.way != "torn" or name in WRITES
            if self.num_calls == self.kill_at:
                self.die(name, args)
            result = self.real[name](*args, **kwargs)
            if name == "open" and args[1] & (os.O_WRONLY | os.O_RDWR):
                duplicate = self.duplicates[result] = os.dup(result)
                self.synced[duplicate] = content_of(duplicate)
            elif name == "fsync" and args[0] in self.duplicates:
                self.synced[self.duplicates[args[0]]] = content_of(args[0])
            elif name == "close":
                self.duplicates.pop(args[0], None)
            return result

        return call

    def die(self, name: str, args: tuple[Any, ...]) -> None:
        if self.way == "torn":
            half = bytes(args[1])[: len(args[1]) // 2]
            self.real[name](args[0], half, *args[2:])
        if self.way == "power":
            for duplicate, content in self.synced.items():
                self.real["ftruncate"](duplicate, 0)
                self.real["pwrite"](duplicate, content, 0)
        os.kill(os.getpid(), signal.SIGKILL)


def content_of(descriptor: int) -> bytes:
    """All of an open file, also where it was opened for writing only."""
    return Path(f"/proc/self/fd/{descriptor}").read_bytes()


def child(action: Callable[[], None]) -> int:
    """Run `action` in a forked process; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> bool:
    """Whether a child came to its end by itself."""
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the child failed"
    return not os.WIFSIGNALED(status)


def fill_all(root: Path, ids: np.ndarray = FEW) -> None:
    with opened(root, sample_ids=ids, num_view_epochs=2) as cache:
        for epoch in range(2):
            fill(cache, epoch, ids[:2])
            fill(cache, epoch, ids)
            cache.flush()


def sweep(
    tmp_path: Path, start: Callable[[Path], None], ids: np.ndarray, way: str
) -> list[list[int]]:
    """Die at call 1, 2, 3 ... of filling; each time complete it, and compare every byte.

    Returns how many answers were missing in each stored epoch after each death.
    """
    expected = bytes_of(filled(tmp_path / "expected", sample_ids=ids, num_view_epochs=2))
    start(tmp_path / "template")
    lost = []
    for kill_at in itertools.count(1):
        place = tmp_path / "place"
        if (tmp_path / "template").is_dir():
            shutil.copytree(tmp_path / "template", place)

        def die(place: Path = place, kill_at: int = kill_at) -> None:
            DyingDisk(kill_at, way)
            fill_all(place, ids)

        is_done = ended(child(die))
        with opened(place, sample_ids=ids, num_view_epochs=2) as cache:
            # `fill` compares what is found with what the teacher says.
            lost.append([fill(cache, epoch, ids) for epoch in range(2)])
            folder = cache.folder
        assert folder is not None and bytes_of(folder) == expected, kill_at
        assert not any(is_temporary(path.name) for path in place.rglob("*")), kill_at
        shutil.rmtree(place)
        if is_done:
            return lost
    raise AssertionError("unreachable")


@pytest.mark.parametrize("way", ["kill", "torn", "power"])
def test_k07_killed_at_any_call_and_completed(tmp_path, way):
    """K07: what was stored before stays good, and the end is that of an uninterrupted building."""
    lost = sweep(tmp_path, lambda place: None, FEW, way)
    num_lost = [sum(each) for each in lost]
    assert num_lost[0] == 6 and num_lost[-1] == 0
    assert num_lost == sorted(num_lost, reverse=True), "no death costs more than an earlier one"
    if way != "power":
        assert set(num_lost) == set(range(7)), "every single record counts once it is written"
    assert len(lost) > (6 if way == "torn" else 30)


def test_k07_k03_killed_while_taking_over(tmp_path):
    """K07, K03: the earlier data set's cache is whole until the new one is."""
    changed = np.append(FEW, np.array([3, 4], dtype=np.uint64))
    lost = sweep(tmp_path, lambda place: filled_with(place, FEW), changed, "power")
    assert lost[0] == [2, 2] and lost[-1] == [0, 0]
    assert all(max(each) <= 2 for each in lost)


def filled_with(place: Path, ids: np.ndarray) -> None:
    filled(place, sample_ids=ids, num_view_epochs=2)


def test_the_sweep_itself_finds_what_is_not_synced(tmp_path):
    """Were `flush` to do nothing, a power cut would cost the first epoch even at the end."""

    def forget_to_sync() -> None:
        disk = DyingDisk(10**6, "power")
        os.fsync = lambda descriptor: None
        fill_all(tmp_path)
        disk.die("end", ())

    assert not ended(child(forget_to_sync))
    with opened(tmp_path, sample_ids=FEW, num_view_epochs=2) as cache:
        assert fill(cache, 0, FEW) == 3


def test_k08_two_processes_fill_one_cache(tmp_path):
    """K08: each in its own order and batches, all at once; the bytes of one building alone."""

    def build(seed: int) -> None:
        order = np.random.default_rng(seed).permutation(IDS)
        with opened(tmp_path / "root") as cache:
            for epoch in (0, 1, 2) if seed % 2 else (2, 1, 0):
                for part in np.array_split(order, seed + 1):
                    fill(cache, epoch, part)

    assert all(ended(pid) for pid in [child(lambda s=s: build(s)) for s in range(4)])
    (folder,) = (tmp_path / "root").iterdir()
    assert bytes_of(folder) == bytes_of(filled(tmp_path / "alone"))


def test_k08_disjoint_shares_of_ranks_make_one_cache(tmp_path):
    """K08: each rank asks for its own images only; nobody waits."""
    shares = np.array_split(IDS, 3)

    def build(rank: int) -> None:
        with opened(tmp_path / "root") as cache:
            for epoch in range(3):
                assert fill(cache, epoch, shares[rank]) == len(shares[rank])

    assert all(ended(pid) for pid in [child(lambda r=r: build(r)) for r in range(3)])
    with opened(tmp_path / "root") as cache:
        assert all(cache.is_complete(epoch) for epoch in range(3))
        assert cache.folder is not None
    assert bytes_of(cache.folder) == bytes_of(filled(tmp_path / "alone"))


def test_k08_beginning_what_another_process_just_began_changes_nothing(tmp_path, monkeypatch):
    """K08: it was not there when this process looked, and it is there when it begins."""
    folder = filled(tmp_path)
    before = bytes_of(folder)
    looked: list[Path] = []
    real = Path.is_dir

    def is_dir(path: Path) -> bool:
        if path == folder and not looked:
            looked.append(path)
            return False
        return real(path)

    monkeypatch.setattr(Path, "is_dir", is_dir)
    with opened(tmp_path) as cache:
        assert looked and [fill(cache, epoch) for epoch in range(3)] == [0, 0, 0]
    assert bytes_of(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_k08_the_second_is_told_of_the_first(tmp_path):
    """K08."""
    told: list[str] = []
    text = "another process uses this teacher cache: both read it and fill it"
    opened(tmp_path, tell=told.append).close()
    assert text not in told
    with opened(tmp_path):
        opened(tmp_path, tell=told.append).close()
    assert told.count(text) == 1
    opened(tmp_path, tell=told.append).close()
    assert told.count(text) == 1


def test_k08_k03_several_take_over_at_once(tmp_path):
    """K08, K03: all meet the changed data at the same time."""
    root = tmp_path / "root"
    filled(root)
    changed = np.append(IDS, np.uint64(3))

    def build() -> None:
        with opened(root, sample_ids=changed) as cache:
            for epoch in range(3):
                fill(cache, epoch, changed)

    assert all(ended(pid) for pid in [child(build) for _ in range(4)])
    with opened(root, sample_ids=changed) as cache:
        assert [fill(cache, epoch, changed) for epoch in range(3)] == [0, 0, 0]
        assert cache.folder is not None
    anew = filled(tmp_path / "anew", sample_ids=changed)
    assert bytes_of(cache.folder) == bytes_of(anew)
    assert not [path for path in root.iterdir() if is_temporary(path.name)]


def test_k09_half_a_record_is_none(tmp_path):
    """K09: old until the first new byte, nothing in between, new with the last."""
    records = RecordFormat(num_classes=5)
    files = DiskFiles(tmp_path, record_bytes=records.num_bytes, num_slots=2)
    words = words_of(IDS[:2])
    old, new = (records.encode(words[[i]], answers_to(words[[i]])) for i in range(2))
    slot = np.array([1])
    files.write(0, slot, old)
    for length in range(records.num_bytes + 1):
        with files.path(0).open("r+b") as stream:
            stream.seek(records.num_bytes)
            stream.write(new.tobytes()[:length])
        found = records.decode(files.read(0, slot))
        seen = found.words_B.tolist() if found.valid_B[0] else None
        is_old = new.tobytes()[:length] == old.tobytes()[:length]
        expected = words[:1] if is_old else words[1:] if length == records.num_bytes else None
        assert seen == (None if expected is None else expected.tolist())
    files.close()


def test_k09_a_reader_beside_a_writer(tmp_path):
    """K09: 3,000 readings of a record of five pages that a second process keeps exchanging."""
    records = RecordFormat(num_classes=5_000, dtype="float32")
    words = words_of(IDS[:2])
    both = [records.encode(words[[i]], answers_to(words[[i]], 5_000)) for i in range(2)]
    slot = np.array([3])

    def files() -> DiskFiles:
        return DiskFiles(tmp_path, record_bytes=records.num_bytes, num_slots=5)

    def exchange() -> None:
        mine = files()
        while True:
            for row in both:
                mine.write(0, slot, row)

    files().write(0, slot, both[0])
    writer, mine = child(exchange), files()
    try:
        seen = {b"": 0}
        for _ in range(3_000):
            row = mine.read(0, slot)
            valid = records.decode(row).valid_B[0]
            key = row.tobytes() if valid else b""
            seen[key] = seen.get(key, 0) + 1
    finally:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    assert set(seen) <= {b"", both[0].tobytes(), both[1].tobytes()}
    assert seen[b""] < 3_000
