"""The linear classifier of a race: the trained start with a head fitted on its frozen features."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress
from deitkit.api.frozen_run import write_frozen_run
from deitkit.api.race_rule import fine_tuning_side
from deitkit.api.request import Request
from deitkit.config import RunConfig, flatten, parse_duration_s, with_values
from deitkit.data import Dataset

if TYPE_CHECKING:
    from deitkit.data.preprocess import Preprocessing
    from deitkit.models import ImageModel
    from deitkit.runtime.world import World
    from deitkit.training.start import Start

LEAST_PER_CLASS = 50
"""Images that a head is fitted on rather than on smaller pictures: with DeiT-tiny on CIFAR-10, 90 a
class were worth 14 points less at 128 pixels than at 192."""
MIN_PATCHES = 6
"""A side, of the smallest size that is tried."""


def run_linear(
    request: Request,
    dataset: Dataset,
    world: World,
    start: Start,
    *,
    limit_s: float,
    progress: Progress,
) -> dict[str, Any]:
    """Fit it, write it as a run into the folder of `request`, and return its result.json.

    Features are taken of as many images as `limit_s` seconds allow, at the start's own size: they
    say much less of smaller pictures. Where that would be fewer than 50 images a class, the size is
    the next smaller one. A size that is asked for stays.

    Raises:
        ConfigError: model= has another shape than the start, and the like.
        DataError, ModelFileError: as `fit_linear`.
    """
    from deitkit.artifacts.bundle import Bundle
    from deitkit.training.linear import features_s, fit_linear
    from deitkit.training.teacher_asking import MAX_FIT_IMAGES

    begun = time.monotonic()
    wanted = LEAST_PER_CLASS * len(dataset.class_names)
    least = min(len(dataset.train), wanted, MAX_FIT_IMAGES)
    for config in _by_size(request.config, dataset, world, start):
        model, spec = _build(config, dataset, start)
        image_s = features_s(model, dataset.train, spec, device=world.device)
        # The validation images are answered too.
        affordable = int(limit_s / image_s) - len(dataset.val)
        if affordable >= least:
            break
    request.config = config
    head = fit_linear(
        model,
        dataset.train,
        spec,
        device=world.device,
        seed=config.run.seed,
        max_images=min(MAX_FIT_IMAGES, max(least, affordable)),
        told=lambda done, total: progress("features of the start", done, total),
    )
    bundle = Bundle(
        model_config=model.config,
        class_names=tuple(dataset.class_names),
        preprocessing=spec,
        provenance={
            "start": start.said,
            "start_digest": start.digest,
            "linear": head.to_dict(),
        },
        state_dict={k: v.detach().cpu() for k, v in model.state_dict().items()},
    )
    return write_frozen_run(request, dataset, world, bundle, start=start.digest, begun=begun)


def fine_tuning_size(
    folder: Path, dataset: Dataset, world: World, *, budget: str
) -> tuple[int, int] | None:
    """Height and width for fine-tuning within `budget` from the linear classifier in `folder`; None
    where only its own can be."""
    from deitkit.runtime.processors import usable_cpus
    from deitkit.training.model_choices import choose_start_size
    from deitkit.training.start import open_start

    start = open_start(str(folder))
    shape = start.shape
    size, patch = start.image_size, shape.get("patch_size")
    if patch is None or size[0] != size[1]:
        return None
    affordable = choose_start_size(
        size,
        patch,
        embed_dim=shape["embed_dim"],
        depth=shape["depth"],
        num_images=len(dataset.train),
        budget_s=parse_duration_s(budget),
        device_type=world.device.type,
        num_cores=usable_cpus(),
    ).value
    side = fine_tuning_side(size[0], affordable[0], patch=patch)
    return side, side


def _by_size(asked: RunConfig, dataset: Dataset, world: World, start: Start) -> Iterator[RunConfig]:
    """Everything the data decides, at the start's own image size and then at smaller ones."""
    from deitkit.runtime.processors import usable_cpus
    from deitkit.training.resolve import resolve_from_data

    sizes: list[Any] = [flatten(asked)["data.image_size"]]
    named = asked.model.name != "auto"
    if sizes[0] == "auto" and not named:
        patch, own = start.shape.get("patch_size"), start.image_size
        sizes = [own]
        if patch is not None:
            step = max(patch, 32 // patch * patch)
            sizes += [(side, side) for side in range(min(own) - step, MIN_PATCHES * patch, -step)]
    for size in sizes:
        config = with_values(asked, {"data.image_size": size})
        yield resolve_from_data(
            config,
            dataset,
            device_type=world.device.type,
            num_cores=usable_cpus(),
            start=start,
            start_reason=start.said,
        ).config


def _build(config: RunConfig, dataset: Dataset, start: Start) -> tuple[ImageModel, Preprocessing]:
    from deitkit.training.assemble import build_student
    from deitkit.training.resolve import evaluation_preprocessing

    names = tuple(dataset.class_names)
    model = build_student(config, num_classes=len(names))
    start.put_into(model, class_names=names, dist_token_from_cls=False)
    return model, evaluation_preprocessing(config)
