"""The two sides of whole_run.py, each in a process of its own: what they do with 16 photographs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from input import RAND_AUGMENT, timm_reader, write_photographs
from PIL import Image
from step_arms import resolved
from teacher import LR, MEAN, NUM_CLASSES, SIDE, STD, WEIGHT_DECAY, TimmSteps, build_teacher
from torch import Tensor

from deitkit.data import Dataset, ImageSet, open_split
from deitkit.data.report import DataReport
from deitkit.runtime.world import World
from deitkit.teachers import Classifier, LiveTeacher
from deitkit.training.assemble import assemble
from deitkit.training.step import train_step

BATCH_SIZE = 16
SIZES = (128, 160, 224)
NUM_VIEW_EPOCHS = 200
"""More than will be asked for: each filled step shows new views."""
MIXUP, CUTMIX, SMOOTHING, EMA_DECAY = 0.8, 1.0, 0.1, 0.9999

Tasks = dict[str, Callable[[], None]]


def photographs(folder: Path) -> ImageSet:
    """One batch of them, of 1,000 possible classes, decoded and in memory."""
    place = folder / "photographs"
    if not place.is_dir():
        write_photographs(place, BATCH_SIZE)
    read = open_split(place, keep_bytes=2**32)
    return ImageSet(
        name="train",
        class_names=tuple(f"class {k:04d}" for k in range(NUM_CLASSES)),
        labels=np.random.default_rng(0).integers(0, NUM_CLASSES, len(read)),
        digests=read.digests,
        sizes=read.sizes,
        store=read._store,
        decode=read.decode,
        kept=read.pixels,
    )


class Ours:
    """deitkit: the assembly of a run, its cache on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = photographs(folder)
        dataset = Dataset(
            "benchmark", images.class_names, images, images, None, DataReport("benchmark"), "0" * 32
        )
        settings = {
            "model": "deit_tiny_distilled_patch16_224",
            "image_size": SIDE,
            "batch_size": BATCH_SIZE,
            "teacher": "RegNetY-16GF",
            "teacher_cache": "disk",
            "distill.cache_folder": str(folder / "answers"),
            "view_epochs": NUM_VIEW_EPOCHS,
            "distill.kind": "hard",
            "distill.weight": 0.5,
            "epochs": 2 * NUM_VIEW_EPOCHS,
            "lr": LR * 512 / BATCH_SIZE,
            "init": "scratch",
            "model.drop_path": 0.0,
            "views.crop": "random_resized",
            "views.scale": (0.08, 1.0),
            "views.mixup": MIXUP,
            "views.cutmix": CUTMIX,
            "views.auto_augment": RAND_AUGMENT,
            "views.erasing": 0.25,
            "optim.weight_decay": WEIGHT_DECAY,
            "optim.clip_norm": None,
            "optim.label_smoothing": SMOOTHING,
            "ema.decay": EMA_DECAY,
            "data.mean": MEAN,
            "data.std": STD,
        }
        classifier = Classifier.from_module(
            build_teacher(),
            kind="benchmark",
            settings={},
            name="RegNetY-16GF",
            num_classes=NUM_CLASSES,
            image_size=(SIDE, SIDE),
            mean=MEAN,
            std=STD,
            device=torch.device("cpu"),
        )
        config = resolved(settings, dataset)
        self.assembly = assemble(config, dataset, world=World(), teacher=LiveTeacher(classifier))
        assert self.assembly.steps.steps_per_epoch == 1
        self.num_filled = 0
        self.num_replayed = 0
        # Whatever the turns, there is something to show again.
        self._fill(SIDE)()

    def tasks(self) -> Tasks:
        found: Tasks = {"scan": self.scan, "evaluation": self.evaluate}
        found |= {f"fill-{side}": self._fill(side) for side in (SIDE, min(SIZES))}
        found |= {f"replay-{side}": self._replay(side) for side in SIZES}
        return found

    def scan(self) -> None:
        """Every picture is decoded once, checked and kept."""
        open_split(self.folder / "photographs", keep_bytes=2**32)

    def evaluate(self) -> None:
        assert self.assembly.validate(self.assembly.state.model, lambda: False) is not None

    def _fill(self, side: int) -> Callable[[], None]:
        def fill() -> None:
            step, self.num_filled = self.num_filled, self.num_filled + 1
            assert self._train(step, side, answered=False) == BATCH_SIZE

        return fill

    def _replay(self, side: int) -> Callable[[], None]:
        def replay() -> None:
            epoch, self.num_replayed = self.num_replayed % self.num_filled, self.num_replayed + 1
            assert self._train(NUM_VIEW_EPOCHS + epoch, side, answered=True) == 0

        return replay

    def _train(self, step: int, side: int, *, answered: bool) -> int:
        """One step of the run, at a size; how many views the teacher was asked about."""
        cached = self.assembly.parts.teacher.cached  # type: ignore[attr-defined]
        before = cached.num_misses
        steps = self.assembly.steps.at_size((side, side))
        view_epochs = [self.assembly.steps.view_epoch(step)] if answered else []
        batch = steps.with_answers(view_epochs, from_step=None)[step]
        done = train_step(self.assembly.state, batch, self.assembly.parts)
        assert not done.skipped and done.image_size == (side, side)
        return cached.num_misses - before


class Shown:
    """What timm's loader and mixing made last; values 0 to 1, which `TimmSteps` normalises."""

    images_BCHW: Tensor
    targets_BK: Tensor


class Theirs:
    """timm: the teacher is asked in every step."""

    def __init__(self, folder: Path) -> None:
        self.images = photographs(folder)
        self.shown = Shown()
        self.timm = TimmSteps(build_teacher(), self.shown)  # type: ignore[arg-type]
        from timm.data import Mixup, create_transform
        from timm.utils import ModelEmaV3

        zeros, ones = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.read = timm_reader(self.images, SIDE, mean=zeros, std=ones)
        self.mixup = Mixup(
            mixup_alpha=MIXUP,
            cutmix_alpha=CUTMIX,
            label_smoothing=SMOOTHING,
            num_classes=NUM_CLASSES,
        )
        self.average = ModelEmaV3(self.timm.student, decay=EMA_DECAY)
        self.still = create_transform(SIDE, mean=MEAN, std=STD, interpolation="bicubic")

    def tasks(self) -> Tasks:
        return {"step": self.step, "evaluation": self.evaluate}

    def step(self) -> None:
        views = torch.stack([self._view(place) for place in range(len(self.images))])
        labels_B = torch.from_numpy(self.images.labels)
        self.shown.images_BCHW, self.shown.targets_BK = self.mixup(views, labels_B)
        self.timm.step()
        self.average.update(self.timm.student, step=None)

    @torch.no_grad()
    def evaluate(self) -> None:
        store = self.images._store
        pictures = [
            self.still(Image.open(io.BytesIO(store.reread(place))).convert("RGB"))
            for place in range(len(self.images))
        ]
        student: Any = self.timm.student
        student.eval()
        student(torch.stack(pictures))
        student.train()

    def _view(self, place: int) -> Tensor:
        while True:
            try:
                return self.read(place)
            except ValueError:
                # Its posterize asks Pillow for no bits at all now and then.
                continue


def build(side: str, folder: Path) -> Tasks:
    """The tasks of "deitkit" or "timm"."""
    if side == "deitkit":
        return Ours(folder).tasks()
    return Theirs(folder).tasks()
