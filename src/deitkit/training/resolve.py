"""Config with "auto" in it, plus the data -> config without, and a reason for each choice.

In two strokes: what the data decides, and, after a few timed steps, what the clock decides.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from deitkit.config import AUTO, RunConfig, flatten, parse_duration_s, settled, with_values
from deitkit.data import Dataset, ImageSet
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError
from deitkit.models import family_of, name_facts, named_like
from deitkit.training import choices, model_choices
from deitkit.training.channel_statistics import channel_statistics
from deitkit.training.choice import Choice
from deitkit.training.resolution import Resolution, chosen_shape, named_shape
from deitkit.training.resolve_balance import settle_balance
from deitkit.training.resolve_optim import settle_optimisation
from deitkit.training.resolve_teacher import (
    asked_view_epochs,
    settle_distillation,
    settle_view_epochs,
    taught_share,
)
from deitkit.training.start import PUBLIC_MEAN, PUBLIC_STD, SCRATCH, Start


def budget_s(config: RunConfig) -> float:
    """Seconds for the whole command."""
    if config.schedule.budget == AUTO:
        return choices.DEFAULT_BUDGET_S
    return parse_duration_s(config.schedule.budget)


def resolve_from_data(
    config: RunConfig,
    dataset: Dataset,
    *,
    device_type: str,
    num_cores: int,
    num_ranks: int = 1,
    start: Start | None = None,
    start_reason: str = "no trained start was named; init= names one",
    free_bytes: int | None = None,
) -> Resolution:
    """Settle everything that does not need the clock; `start` are the weights to begin with and
    `free_bytes` the memory that is left on each rank's device. The `num_ranks` share the cores.

    Raises:
        ConfigError: an image size that the model's patches do not divide, and the like.
    """
    r = Resolution(config)
    has_teacher = config.distill.teacher is not None
    sizes_N2 = dataset.train.sizes
    for seed in ("run.view_seed", "run.weight_seed"):
        r.settle(seed, Choice(config.run.seed, "the run's seed"))
    settle_image_size(r, sizes_N2, device_type=device_type, num_cores=num_cores, start=start)
    image_size = as_pair(r.get("data.image_size"))
    r.config = with_values(r.config, {"data.image_size": image_size})
    if start is not None:
        _settle_started_model(r, start, has_teacher=has_teacher)
    r.settle(
        "model.name",
        model_choices.choose_model(
            image_size,
            num_images=len(dataset.train),
            budget_s=budget_s(config),
            has_teacher=has_teacher,
            device_type=device_type,
            num_cores=num_cores,
        ),
    )
    r.settle("model.init", Choice(SCRATCH if start is None else start.asked, start_reason))

    is_small = max(image_size) <= model_choices.SMALL_SIDE and _all_near(sizes_N2, image_size)
    is_whole = is_small or bool((np.median(sizes_N2, axis=0) <= image_size).all())
    r.settle("data.resize", Choice("shorter", "keeps the aspect, crops the centre"))
    ratio = 1.0 if is_whole else 0.875
    r.settle("data.crop_ratio", Choice(ratio, "small images whole" if is_whole else "the usual"))
    if start is not None:
        _settle_started_statistics(r, start)
    _settle_statistics(r, dataset.train)
    r.settle("views.flip", choices.choose_flip(dataset.class_names))

    settle_optimisation(
        r,
        fine_tunes=start is not None,
        num_images=len(dataset.train),
        device_type=device_type,
        num_ranks=num_ranks,
        free_bytes=free_bytes,
    )
    settle_balance(r, dataset)
    settle_distillation(r, has_teacher=has_teacher, num_classes=len(dataset.class_names))
    in_memory = dataset.train.pixels is not None
    r.settle(
        "run.workers",
        choices.choose_workers(
            in_memory=in_memory, is_small=is_small, num_cores=num_cores, num_ranks=num_ranks
        ),
    )
    return r


def resolve_from_clock(
    r: Resolution,
    *,
    step_s: float,
    evaluation_s: float,
    steps_per_epoch: int,
    seconds_left: float,
    teacher_step_s: float = 0.0,
) -> None:
    """Settle the number of steps, and what depends on it.

    `step_s` and `evaluation_s` are without the teacher, which adds `teacher_step_s` to each step
    whose views it has not seen.
    """
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
        teacher_step_s=teacher_step_s,
        view_epochs=asked_view_epochs(config),
        until=taught_share(config),
    )
    r.settle("schedule.steps", steps)
    r.settle("schedule.eval_interval", interval)
    total = r.get("schedule.steps")
    every_minute = max(1, round(60 / step_s))
    interval = min(every_minute, max(1, r.get("schedule.eval_interval")))
    r.settle("schedule.checkpoint_interval", Choice(interval, "about a minute of work"))

    num_epochs = total / steps_per_epoch
    chooses_mixing = AUTO in (config.views.mixup, config.views.cutmix)
    _settle_views(r, num_epochs)
    _settle_strengths(r, num_epochs, chooses_mixing=chooses_mixing)
    settle_view_epochs(r, num_epochs, step_s=step_s, teacher_step_s=teacher_step_s)


def _settle_views(r: Resolution, num_epochs: float) -> None:
    config = r.config
    is_small = config.data.crop_ratio == 1.0 and max(as_pair(config.data.image_size)) <= (
        model_choices.SMALL_SIDE
    )
    if config.model.init != SCRATCH:
        crop = "padded" if is_small else "random_resized"
        r.settle("views.crop", Choice(crop, "fine-tuning: another part of a picture each time"))
        views, reason = choices.fine_tuning_views(num_epochs)
        for name, value in views.items():
            r.settle(name, Choice(value, reason))
    r.settle("views.mix_prob", Choice(1.0, "each pair, where there is mixing"))
    r.settle("views.crop", choices.choose_crop(num_epochs, is_small=is_small))
    has_teacher = config.distill.kind != "none"
    mixup, cutmix = choices.choose_mixing(num_epochs, has_teacher=has_teacher)
    r.settle("views.mixup", mixup)
    r.settle("views.cutmix", cutmix)
    r.settle("views.scale", choices.choose_scale(num_epochs))
    r.settle("views.padding", choices.choose_padding(num_epochs))
    operations, erasing = choices.choose_operations(num_epochs, is_small=is_small)
    r.settle("views.auto_augment", operations)
    r.settle("views.erasing", erasing)


def _settle_strengths(r: Resolution, num_epochs: float, *, chooses_mixing: bool) -> None:
    """Until when pictures are mixed; what the user set of it is not cut short."""
    repeats, views_asked = r.config.views.repeats, asked_view_epochs(r.config)
    has_room = not views_asked or views_asked >= choices.PLAIN_PARTS * repeats
    mixes = bool(r.get("views.mixup") or r.get("views.cutmix"))
    choice = choices.choose_strengths(
        num_epochs, mixes=mixes and chooses_mixing and has_room, repeats=repeats
    )
    r.settle("schedule.strengths", choice)


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
    overrides = chosen_shape(config)
    for name in ("init", "init_dist_token", "init_stem", "grad_checkpointing"):
        overrides.pop(name, None)
    return {
        **overrides,
        "num_classes": num_classes,
        "image_size": as_pair(settled(config.data.image_size)),
        "in_channels": config.data.channels,
    }


def settle_image_size(
    r: Resolution,
    sizes_N2: np.ndarray,
    *,
    device_type: str,
    num_cores: int,
    start: Start | None,
) -> None:
    """Settle "data.image_size" by the model's name, its start, or the pictures' own `sizes_N2`.

    Raises:
        ConfigError: IMAGE_SIZE, one that the model's patches do not divide, or that has no room for
            one where a pooling stem makes them.
    """
    name = r.config.model.name
    facts = None if name == AUTO else name_facts(name)
    if facts is not None and facts.image_size is not None:
        r.settle("data.image_size", Choice(facts.image_size, f"the size of {name}"))
    if start is not None:
        shape = start.shape
        size = start.image_size
        choice = Choice(size, "the size the start was trained at")
        if "patch_size" in shape:
            choice = model_choices.choose_start_size(
                size,
                shape["patch_size"],
                embed_dim=shape["embed_dim"],
                depth=shape["depth"],
                num_images=len(sizes_N2),
                budget_s=budget_s(r.config),
                device_type=device_type,
                num_cores=num_cores,
            )
        r.settle("data.image_size", choice)
    median_side = int(np.median(sizes_N2.min(axis=1)))
    largest_side = int(sizes_N2.max())
    choice = model_choices.choose_image_size(median_side, largest_side, device_type=device_type)
    r.settle("data.image_size", choice)
    patch = r.config.model.patch_size or (facts.patch_size if facts is not None else None)
    size = as_pair(r.get("data.image_size"))
    pools = name != AUTO and named_shape(r.config).get("stem") == "pooling"
    if patch and (min(size) < patch if pools else size[0] % patch or size[1] % patch):
        fitting = tuple(max(patch, patch * round(side / patch)) for side in size)
        raise ConfigError(
            "IMAGE_SIZE",
            f"image_size={size[0]}x{size[1]}",
            f"the patches of {name} are {patch} pixels, which do not "
            + ("fit in" if pools else "divide it"),
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
    mean, std, num_images = channel_statistics(images, spec)
    reason = f"of {num_images} training images"
    r.settle("data.mean", Choice(mean, reason))
    r.settle("data.std", Choice(std, reason))


def _settle_started_model(r: Resolution, start: Start, *, has_teacher: bool) -> None:
    """The start's own shape, with a distillation token where there is a teacher."""
    shape = dict(start.architecture)
    name = shape["name"]
    if r.config.model.name != AUTO:
        _check_shape(r, start)
        return
    if name_facts(name).is_transformer:
        height, width = as_pair(r.get("data.image_size"))
        distilled = has_teacher or bool(shape.get("distilled"))
        name = named_like(name, distilled=distilled, side=max(height, width))
    named = family_of(name)[1]
    others = {
        field_name: value
        for field_name, value in shape.items()
        if f"model.{field_name}" in flatten(r.config) and field_name != "name"
        if value is not None and value != named.get(field_name)
    }
    said = ", ".join(f"{field_name} {value}" for field_name, value in others.items())
    reason = "the shape of the weights it starts from" + (f": {said}" if said else "")
    r.settle("model.name", Choice(name, reason))
    for field_name, value in others.items():
        r.settle(f"model.{field_name}", Choice(value, "as in the weights it starts from"))


def _check_shape(r: Resolution, start: Start) -> None:
    """A model that the user named has the shape of its start."""
    ours = named_shape(r.config)
    theirs = start.shape
    named = ("embed_dim", "depth", "num_heads", "patch_size")
    other = [n for n in named if n in theirs and n in ours and theirs[n] != ours[n]]
    if other:
        raise ConfigError(
            "START_SHAPE",
            f"model={r.config.model.name}",
            "its start has another shape: "
            + ", ".join(f"{n} {theirs[n]}, not {ours[n]}" for n in other),
            "leave model= out, and the start's own is taken",
        )


def _settle_started_statistics(r: Resolution, start: Start) -> None:
    if r.config.data.channels != 3 and start.mean is None:
        return
    known = start.mean is not None and start.std is not None
    reason = "what the start was trained with" if known else "of ImageNet, as for public weights"
    r.settle("data.mean", Choice(start.mean if known else PUBLIC_MEAN, reason))
    r.settle("data.std", Choice(start.std if known else PUBLIC_STD, reason))
