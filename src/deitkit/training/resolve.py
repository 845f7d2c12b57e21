"""Config with "auto" in it, plus the data -> config without, and a reason for each choice.

In two strokes: what the data decides, and, after a few timed steps, what the clock decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deitkit.config import AUTO, RunConfig, flatten, parse_duration_s, settled, with_values
from deitkit.data import Dataset, ImageSet
from deitkit.data.preprocess import Preprocessing, pixels
from deitkit.errors import ConfigError
from deitkit.models import name_facts
from deitkit.training import choices
from deitkit.training.choices import Choice

NUM_STATISTICS_IMAGES = 2000


@dataclass
class Resolution:
    """A config on its way from "auto" to fixed."""

    config: RunConfig
    reasons: dict[str, str] = field(default_factory=dict)

    def settle(self, name: str, choice: Choice) -> None:
        """Replace "auto" (or an empty seed) by the choice; what the user set stays."""
        if flatten(self.config)[name] in (AUTO, None):
            self.config = with_values(self.config, {name: choice.value})
            self.reasons[name] = choice.reason

    def settle_ranks(self, world_size: int) -> None:
        """The number of processes that are there, whatever was hoped for."""
        self.config = with_values(self.config, {"run.ranks": world_size})
        self.reasons["run.ranks"] = "the processes of this command; ranks=N or torchrun uses more"

    def get(self, name: str) -> Any:
        return flatten(self.config)[name]


def budget_s(config: RunConfig) -> float:
    """Seconds for the whole command."""
    if config.schedule.budget == AUTO:
        return choices.DEFAULT_BUDGET_S
    return parse_duration_s(config.schedule.budget)


def resolve_from_data(
    config: RunConfig, dataset: Dataset, *, device_type: str, num_cores: int
) -> Resolution:
    """Settle everything that does not need the clock.

    Raises:
        ConfigError: an image size that the model's patches do not divide, and the like.
    """
    r = Resolution(config)
    has_teacher = config.distill.teacher is not None
    sizes_N2 = dataset.train.sizes
    for seed in ("run.view_seed", "run.weight_seed"):
        r.settle(seed, Choice(config.run.seed, "the run's seed"))
    _settle_image_size(r, sizes_N2, device_type=device_type)
    image_size = as_pair(r.get("data.image_size"))
    r.config = with_values(r.config, {"data.image_size": image_size})
    r.settle(
        "model.name",
        choices.choose_model(
            image_size,
            num_images=len(dataset.train),
            budget_s=budget_s(config),
            has_teacher=has_teacher,
            device_type=device_type,
            num_cores=num_cores,
        ),
    )
    r.settle("model.init", Choice("scratch", "no trained start was named; init= names one"))

    is_small = max(image_size) <= choices.SMALL_SIDE and _all_near(sizes_N2, image_size)
    r.settle("data.resize", Choice("shorter", "keeps the aspect, crops the centre"))
    ratio = 1.0 if is_small else 0.875
    r.settle("data.crop_ratio", Choice(ratio, "small images whole" if is_small else "the usual"))
    _settle_statistics(r, dataset.train)
    r.settle("views.flip", choices.choose_flip(dataset.class_names))

    _settle_optimisation(r, len(dataset.train), device_type=device_type)
    _settle_distillation(r, has_teacher=has_teacher)
    in_memory = dataset.train.pixels is not None
    r.settle(
        "run.workers",
        choices.choose_workers(in_memory=in_memory, is_small=is_small, num_cores=num_cores),
    )
    return r


def resolve_from_clock(
    r: Resolution,
    *,
    step_s: float,
    evaluation_s: float,
    steps_per_epoch: int,
    seconds_left: float,
) -> None:
    """Settle the number of steps, and what depends on it."""
    config = r.config
    is_auto = config.schedule.budget == AUTO
    max_epochs = choices.MAX_AUTO_EPOCHS if is_auto else choices.MAX_BUDGET_EPOCHS
    if config.schedule.epochs != AUTO:
        max_epochs = config.schedule.epochs
        if is_auto:
            # Epochs alone are a promise of passes, whatever they take.
            reason = f"{max_epochs} epochs"
            r.settle("schedule.steps", Choice(max_epochs * steps_per_epoch, reason))
            evaluation_steps = max(steps_per_epoch, r.get("schedule.steps") // 20)
            r.settle("schedule.eval_interval", Choice(evaluation_steps, "at most 20 evaluations"))
    steps, interval = choices.choose_steps(
        seconds=seconds_left,
        step_s=step_s,
        evaluation_s=evaluation_s,
        steps_per_epoch=steps_per_epoch,
        max_epochs=max_epochs,
    )
    r.settle("schedule.steps", steps)
    r.settle("schedule.eval_interval", interval)
    total = r.get("schedule.steps")
    every_minute = max(1, round(60 / step_s))
    interval = min(every_minute, max(1, r.get("schedule.eval_interval")))
    r.settle("schedule.checkpoint_interval", Choice(interval, "about a minute of work"))

    num_epochs = total / steps_per_epoch
    is_small = config.data.crop_ratio == 1.0 and max(as_pair(config.data.image_size)) <= (
        choices.SMALL_SIDE
    )
    r.settle("views.crop", choices.choose_crop(num_epochs, is_small=is_small))
    has_teacher = config.distill.kind != "none"
    mixup, cutmix = choices.choose_mixing(num_epochs, has_teacher=has_teacher)
    r.settle("views.mixup", mixup)
    r.settle("views.cutmix", cutmix)
    r.settle("views.scale", choices.choose_scale(num_epochs))


def as_pair(size: object) -> tuple[int, int]:
    """(height, width) of a settled size, one side or two."""
    if isinstance(size, int):
        return size, size
    assert isinstance(size, tuple) and len(size) == 2, f"{size!r} is no image size"
    return size


def evaluation_preprocessing(config: RunConfig) -> Preprocessing:
    """The one way from a picture to numbers, of a resolved config."""
    return Preprocessing(
        image_size=as_pair(settled(config.data.image_size)),
        resize=config.data.resize,
        crop_ratio=settled(config.data.crop_ratio),
        channels=config.data.channels,
        mean=settled(config.data.mean),
        std=settled(config.data.std),
        background=config.data.background,
    )


def model_arguments(config: RunConfig, *, num_classes: int) -> dict[str, Any]:
    """Keyword arguments of `create_model`; what the user left empty is the name's own."""
    fields = flatten(config)
    overrides = {
        name.partition(".")[2]: value
        for name, value in fields.items()
        if name.startswith("model.") and value is not None
    }
    overrides.pop("init", None)
    return {
        **overrides,
        "num_classes": num_classes,
        "image_size": as_pair(settled(config.data.image_size)),
        "in_channels": config.data.channels,
    }


def _settle_image_size(r: Resolution, sizes_N2: np.ndarray, *, device_type: str) -> None:
    name = r.config.model.name
    facts = None if name == AUTO else name_facts(name)
    if facts is not None and facts.image_size is not None:
        r.settle("data.image_size", Choice(facts.image_size, f"the size of {name}"))
    median_side = int(np.median(sizes_N2.min(axis=1)))
    largest_side = int(sizes_N2.max())
    choice = choices.choose_image_size(median_side, largest_side, device_type=device_type)
    r.settle("data.image_size", choice)
    patch = r.config.model.patch_size or (facts.patch_size if facts is not None else None)
    size = as_pair(r.get("data.image_size"))
    if patch and (size[0] % patch or size[1] % patch):
        fitting = tuple(max(patch, patch * round(side / patch)) for side in size)
        raise ConfigError(
            "IMAGE_SIZE",
            f"image_size={size[0]}x{size[1]}",
            f"the patches of {name} are {patch} pixels, which do not divide it",
            f"use image_size={fitting[0]}x{fitting[1]} or model.patch_size=",
        )


def _all_near(sizes_N2: np.ndarray, image_size: tuple[int, int]) -> bool:
    """Whether the pictures are about the size the student sees."""
    return bool((sizes_N2 <= 1.5 * np.array(image_size)).all())


def _settle_statistics(r: Resolution, images: ImageSet) -> None:
    """Mean and deviation of each channel over the training images, at the student's size."""
    if r.get("data.mean") != AUTO and r.get("data.std") != AUTO:
        return
    spec = Preprocessing(
        image_size=as_pair(r.get("data.image_size")),
        resize=r.get("data.resize"),
        crop_ratio=r.get("data.crop_ratio"),
        channels=r.config.data.channels,
        mean=(0.0,) * r.config.data.channels,
        std=(1.0,) * r.config.data.channels,
        background=r.config.data.background,
    )
    by_content = np.argsort(images.sample_ids, kind="stable")[:NUM_STATISTICS_IMAGES]
    sums = np.zeros((2, r.config.data.channels))
    for index in by_content:
        image_CHW = pixels(images.image(int(index)), spec).astype(np.float64)
        sums += image_CHW.mean(axis=(1, 2)), (image_CHW**2).mean(axis=(1, 2))
    mean_C, square_C = sums / len(by_content)
    std_C = np.sqrt(np.maximum(square_C - mean_C**2, 1e-4))
    reason = f"of {len(by_content)} training images"
    r.settle("data.mean", Choice(_rounded(mean_C), reason))
    r.settle("data.std", Choice(_rounded(std_C), reason))


def _rounded(values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def _settle_optimisation(r: Resolution, num_images: int, *, device_type: str) -> None:
    r.settle("optim.batch_size", choices.choose_batch_size(num_images, device_type=device_type))
    batch_size = r.get("optim.batch_size")
    r.settle("optim.device_batch_size", Choice(batch_size, "the whole batch at once"))
    facts = name_facts(r.config.model.name)
    width = r.config.model.embed_dim or facts.embed_dim
    r.settle("optim.lr", choices.choose_lr(width, batch_size))
    peak = r.get("optim.lr") * batch_size / 512
    r.settle("optim.min_lr", Choice(peak / 100, "a hundredth of the peak"))
    r.settle("optim.warmup", Choice(0.05, "a twentieth of the run"))


def _settle_distillation(r: Resolution, *, has_teacher: bool) -> None:
    if not has_teacher:
        r.settle("distill.kind", Choice("none", "no teacher"))
        if r.get("distill.kind") != "none":
            raise ConfigError(
                "NO_TEACHER",
                f"distill.kind={r.get('distill.kind')}",
                "there is no teacher to learn from",
                "add teacher=runs/teacher or leave distill.kind out",
            )
    r.settle("distill.kind", Choice("soft", "the teacher's doubts help most on small data"))
    r.settle("distill.weight", Choice(0.5, "labels and teacher count the same"))
