"""A teacher that answers from the word alone, and caches of its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deitkit.augmentation.draws import normal
from deitkit.teachers.cache import TeacherCache

NUM_CLASSES = 5
IDS = np.random.default_rng(0).integers(0, 2**64, 24, dtype=np.uint64)
SETTINGS: dict[str, Any] = {
    "teacher_digest": "a" * 32,
    "teacher_name": "resnet56",
    "class_names": ("ant", "bee", "cat", "dog", "eel"),
    "policy_digest": "b" * 32,
    "sample_ids": IDS,
    "num_view_epochs": 3,
}


def opened(root: Path, **changed: Any) -> TeacherCache:
    return TeacherCache.open(root, **(SETTINGS | changed))


def words_of(ids: np.ndarray, view_epoch: int = 0, repeat: int = 0) -> np.ndarray:
    """Some word for each image's view."""
    mixed = ids * np.uint64(2 * view_epoch + 3) + np.uint64(17 * repeat + view_epoch)
    return mixed ^ (mixed >> np.uint64(7))


def answers_to(words: np.ndarray, num_classes: int = NUM_CLASSES) -> np.ndarray:
    """The teacher's logits [B, K]."""
    return (3 * normal(words, purpose="answers", num=num_classes)).astype(np.float32)


def fill(cache: TeacherCache, view_epoch: int, ids: np.ndarray = IDS, repeat: int = 0) -> int:
    """Read, and write what is missing; how many were."""
    words = words_of(ids, view_epoch, repeat)
    repeats = np.full(len(ids), repeat)
    found, hit = cache.read(view_epoch, repeats, ids, words)
    expected = cache.stored(answers_to(words, cache.records.num_classes))
    np.testing.assert_array_equal(found[hit], expected[hit])
    assert not found[~hit].any()
    miss = ~hit
    fresh = answers_to(words[miss], cache.records.num_classes)
    cache.write(view_epoch, repeats[miss], ids[miss], words[miss], fresh)
    return int(miss.sum())


def filled(root: Path, **changed: Any) -> Path:
    """A whole cache; its folder."""
    with opened(root, **changed) as cache:
        for view_epoch in range(cache.num_view_epochs):
            fill(cache, view_epoch, np.asarray(changed.get("sample_ids", IDS)))
        assert cache.folder is not None
        return cache.folder


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file and what is in it."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
