"""A few small images, a very small student and its parts: enough for everything training does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from deitkit.augmentation import ViewPolicy
from deitkit.data import DecodePolicy, ImageSet
from deitkit.data.sequence import SequenceStore
from deitkit.losses import DistillationLoss
from deitkit.models import ImageModel, create_model
from deitkit.optim import Schedule, WeightAverage, build_optimizer
from deitkit.runtime.world import World
from deitkit.teachers import Classifier, LiveTeacher, NoTeacher
from deitkit.training.loader import TrainSteps
from deitkit.training.parts import TrainParts
from deitkit.training.sizes import one_size
from deitkit.training.state import TrainState
from deitkit.training.teaching import LiveTeaching
from deitkit.training.verdict import HostVerdict

NUM_CLASSES = 3
SIDE = 16
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TINY = {"model": "deit_nano_patch4_16", "model.depth": 2, "model.embed_dim": 48} | {
    "model.num_heads": 2
}
"""Settings of the smallest student worth training."""


def toy_images(num: int, *, one_size: bool = True, seed: int = 0) -> ImageSet:
    """Noise on a class's own colour; with `one_size` in one block, else a list of many sizes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, NUM_CLASSES, num)
    sides = np.full((num, 2), SIDE) if one_size else rng.integers(12, 30, (num, 2))
    pixels = [
        rng.integers(40 * int(label), 150 + 40 * int(label), (*side, 3), dtype=np.uint8)
        for label, side in zip(labels, sides, strict=True)
    ]
    return ImageSet(
        name="train",
        class_names=("a", "b", "c"),
        labels=labels.astype(np.int64),
        digests=rng.integers(0, 256, (num, 16), dtype=np.uint8),
        sizes=sides.astype(np.int32),
        store=SequenceStore([(image, "a") for image in pixels]),
        decode=DecodePolicy(),
        kept=np.stack(pixels) if one_size and num else None,
    )


def toy_model(*, distilled: bool = False, seed: int = 0, **more: Any) -> ImageModel:
    """Without a key bias: its gradient is zero but for rounding, which AdamW would blow up."""
    torch.manual_seed(seed)
    name = f"deit_nano{'_distilled' if distilled else ''}_patch4_16"
    shape = {"depth": 2, "embed_dim": 24, "num_heads": 2, "qkv_bias": False} | more
    return create_model(name, num_classes=NUM_CLASSES, **shape)


class ConvTeacher(nn.Module):
    """Convolution, batch norm, ReLU, mean: a teacher to harm, that remembers its input."""

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        nn.init.normal_(self.head.weight, std=2.0)
        self.seen: list[torch.Tensor] = []

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        self.seen.append(images_BCHW.clone())
        return self.head(torch.relu(self.norm(self.conv(images_BCHW))).mean(dim=(2, 3)))


def live_teacher(model: nn.Module, *, side: int = SIDE, **more: Any) -> LiveTeacher:
    settings = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "class_columns": [0, 1, 2]}
    settings |= more
    levels = {name: settings.pop(name) for name in ("mean", "std")}
    classifier = Classifier.from_callable(model, name="toy", version="1", image_size=side, **levels)
    if isinstance(model, ConvTeacher):
        model.seen.clear()
    return LiveTeacher(classifier, **settings)


def toy_run(
    images: ImageSet,
    *,
    batch_size: int,
    policy: ViewPolicy | None = None,
    model: ImageModel | None = None,
    teacher: LiveTeacher | None = None,
    kind: str = "none",
    smoothing: float = 0.1,
    clip_norm: float | None = 1.0,
    device_batch_size: int = 10**6,
    decay: float | None = None,
    total_steps: int = 8,
    peak_lr: float = 1e-3,
    optimizer: str = "adamw",
    label_loss: str = "cross_entropy",
) -> tuple[TrainState, TrainParts, TrainSteps]:
    """State, parts and batches of a run in one process."""
    model = model or toy_model()
    steps = TrainSteps(
        images,
        policy=policy or ViewPolicy(crop="padded"),
        view_seed=0,
        batch_size=batch_size,
        sizes=one_size((SIDE, SIDE)),
        teacher_size=None if teacher is None else teacher.image_size,
        rank=0,
        world_size=1,
    )
    state = TrainState(
        model=model,
        average=None if decay is None else WeightAverage(model, decay=decay, warmup=False),
        optimizer=build_optimizer(
            optimizer,
            model,
            lr=1.0,
            weight_decay=0.05,
            layer_decay=None,
            betas=(0.9, 0.999),
            eps=1e-8,
            momentum=0.9,
        ),
    )
    parts = TrainParts(
        world=World(),
        device=torch.device("cpu"),
        autocast_dtype=None,
        student=model,
        teacher=LiveTeaching(teacher or NoTeacher()),
        render=steps.rendered,
        loss=DistillationLoss(kind, weight=0.3, temperature=2.0, label_loss=label_loss),
        schedule=Schedule(
            total_steps=total_steps, warmup_steps=2, peak_lr=peak_lr, end_lr=1e-5, start_lr=1e-6
        ),
        num_classes=NUM_CLASSES,
        label_smoothing=smoothing,
        label_loss=label_loss,
        mean=MEAN,
        std=STD,
        erasing_fill="pixel",
        clip_norm=clip_norm,
        judge=HostVerdict,
        device_batch_size=device_batch_size,
        steps_per_epoch=steps.steps_per_epoch,
        weight_seed=0,
    )
    return state, parts, steps


def bits(tensors: dict[str, torch.Tensor]) -> dict[str, bytes]:
    """Tensors as bytes, so that equal means equal in every bit."""
    return {name: t.detach().numpy().tobytes() for name, t in tensors.items()}


def write_photos(
    folder: Path, *, train: int = 14, val: int = 5, names: tuple[str, ...] = ("a", "b", "c")
) -> Path:
    """`train` and `val` PNG files a class, 16 x 16 pixels, each class of its own colour."""
    rng = np.random.default_rng(1)
    for split, num in (("train", train), ("val", val)):
        for k, name in enumerate(names):
            target = folder / split / name
            target.mkdir(parents=True)
            for i in range(num):
                pixels = rng.integers(20 * k, 200 + 20 * k, (SIDE, SIDE, 3), dtype=np.uint8)
                pixels[:, :, k % 3] //= 2
                Image.fromarray(pixels).save(target / f"{i}.png")
    return folder
