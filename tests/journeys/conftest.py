"""Tiny picture folders, and runs trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.journeys.commands import Commands

CLASSES = ("blue", "green", "red")
TINY_MODEL = (
    "model=deit_nano_patch4_16",
    "model.depth=2",
    "model.embed_dim=48",
    "model.num_heads=2",
)
TINY = (
    *TINY_MODEL,
    "epochs=3",
    "batch_size=8",
    "schedule.eval_interval=3",
    "schedule.checkpoint_interval=2",
    "run.log_interval=1",
    "workers=0",
)
"""A training of half a second in which nothing depends on the clock."""


def make_picture(name: str, number: int, *, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Noise with the class's own channel raised, uint8 [H, W, 3]; the same for the same words."""
    seed = [*name.encode(), number]
    picture = np.random.default_rng(seed).integers(0, 150, (*size, 3)).astype(np.uint8)
    picture[..., sum(name.encode()) % 3] += 60
    return picture


def make_folder(
    folder: Path,
    counts: dict[str, int],
    *,
    start: int = 0,
    size: tuple[int, int] = (16, 16),
) -> Path:
    """A folder a class with so many PNG pictures each, numbered from `start`."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            picture = Image.fromarray(make_picture(name, number, size=size))
            picture.save(folder / name / f"{number}.png")
    return folder


def make_splits(
    folder: Path, *, train: int, val: int, test: int, classes: Sequence[str] = CLASSES
) -> Path:
    """train/, val/ and test/ of so many pictures a class, all different."""
    start = 0
    for split, count in (("train", train), ("val", val), ("test", test)):
        if count:
            make_folder(folder / split, dict.fromkeys(classes, count), start=start)
        start += count
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes: 30 pictures to train, 9 to validate, 12 to test. Do not change it."""
    return make_splits(tmp_path_factory.mktemp("photos"), train=10, val=3, test=4)


@pytest.fixture(scope="session")
def teacher(commands: Commands, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained small_cnn. Do not change it."""
    out = tmp_path_factory.mktemp("runs") / "teacher"
    ended = commands("train", f"data={photos}", f"out={out}", *TINY[4:], "model=small_cnn")
    assert ended.code == 0, ended.err
    return out


@pytest.fixture(scope="session")
def student(
    commands: Commands, photos: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A student of that teacher, with the distillation token. Do not change it.

    How often the teacher is asked would depend on the clock.
    """
    out = tmp_path_factory.mktemp("runs") / "student"
    settings = ("model=deit_nano_distilled_patch4_16", *TINY[1:], "view_epochs=3")
    ended = commands("train", f"data={photos}", f"out={out}", f"teacher={teacher}", *settings)
    assert ended.code == 0, ended.err
    return out
