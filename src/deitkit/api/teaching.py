"""The teacher of a run: opened, trained first where it is `auto`, and met again on going on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress
from deitkit.api.parts import told_as_part
from deitkit.api.request import (
    PYTHON_TEACHER,
    TEACHER_FOLDER,
    Request,
    meet_folder,
    read_request,
)
from deitkit.config import AUTO, RunConfig, flatten
from deitkit.data import Dataset
from deitkit.errors import CheckpointError, ConfigError
from deitkit.training.events import Event, Finished, Planned, StepDone
from deitkit.training.teacher_names import AUTO_TEACHER

if TYPE_CHECKING:
    import torch

    from deitkit.runtime.world import World
    from deitkit.teachers import Classifier
    from deitkit.training.teacher_ready import ReadyTeacher

AUTO_SHARE, STEM_SHARE, MAX_TEACHER_SHARE = 0.15, 0.3, 0.9
"""Of the budget, what training the teacher may take; more where the student's stem can begin as the
teacher's, since convolutions learn several times as fast by themselves."""
ASK_SHARE = 0.05
"""Of the budget, what asking the teacher about clean images may take."""
AUTO_EPOCHS_SHARE = 0.25
"""Of the student's epochs, where only these were asked for."""
SHARED_SETTINGS = (
    "data.val_fraction",
    "data.bad_images",
    "data.background",
    "data.channels",
    "data.allow_empty_class",
    "data.image_size",
    "data.order",
    "data.window_mb",
    "data.balance",
    "data.balance_strength",
    "views.flip",
    "run.seed",
    "run.device",
    "run.workers",
    "run.precision",
)
"""What teacher=auto is trained with as its student will be."""


def has_teacher(config: RunConfig) -> bool:
    return config.distill.teacher is not None and config.distill.kind != "none"


def teacher_label(config: RunConfig, name: str) -> str:
    """What people call the run's teacher; a folder of this machine by its last name."""
    if config.distill.teacher == AUTO_TEACHER:
        return "teacher (trained first)"
    path = Path(name)
    return path.name if path.is_absolute() else name


def open_asked(
    config: RunConfig,
    folder: Path,
    *,
    device: torch.device,
    given: Any = None,
    progress: Progress = no_progress,
) -> Classifier:
    """The classifier that a run's config names; `given` is one that was given as an object.

    Raises:
        ConfigError: NO_TEACHER where the object is not given again; what `open_teacher` raises.
    """
    from deitkit.teachers import Classifier
    from deitkit.training.teacher_source import open_teacher

    asked: Any = config.distill.teacher
    if asked == PYTHON_TEACHER:
        asked = given
        if asked is None:
            raise ConfigError(
                "NO_TEACHER",
                folder,
                "this run's teacher is a Python object",
                "call deitkit.train(teacher=..., out=...) with it again",
            )
    elif asked == AUTO_TEACHER:
        asked = folder / TEACHER_FOLDER
    classifier = open_teacher(asked, device=device, progress=progress)
    assert isinstance(classifier, Classifier)
    return classifier


def open_own_teacher(
    config: RunConfig, folder: Path, class_names: Sequence[str], *, device: torch.device
) -> ReadyTeacher | None:
    """The teacher of a run that began, as it was then; None where it has none.

    Raises:
        CheckpointError: TEACHER_CHANGED.
    """
    if not has_teacher(config):
        return None
    from deitkit.training.teacher_ready import load_ready

    return load_ready(open_asked(config, folder, device=device), folder, tuple(class_names))


def find_teacher(
    request: Request, dataset: Dataset, world: World, progress: Progress
) -> ReadyTeacher | None:
    """The run's teacher, its classes made the user's; None where there is none.

    The first rank asks it about clean images and fits a head where it has other classes; the
    others, and a run that goes on, read what it found.

    Raises:
        ConfigError: NO_TEACHER, TEACHER_NAME.
        ModelFileError: TEACHER_CHANCE, CHANNELS and what `open_teacher` raises.
        CheckpointError: TEACHER_CHANGED.
    """
    if not has_teacher(request.config):
        return None
    from deitkit.training.precision import training_dtype
    from deitkit.training.resolve import budget_s
    from deitkit.training.teacher_ready import load_ready, prepare_teacher, save_ready

    classifier = open_asked(
        request.config,
        request.folder,
        device=world.device,
        given=request.teacher,
        progress=progress,
    )
    names = tuple(dataset.class_names)
    if world.is_main and not _is_ready(request, classifier, names):
        ready = request.ready or prepare_teacher(
            classifier,
            dataset.train,
            dataset.val,
            channels=request.config.data.channels,
            seed=request.config.run.seed,
            max_seconds=ASK_SHARE * budget_s(request.config),
            autocast_dtype=training_dtype(request.config.run.precision, world.device),
            progress=progress,
        )
        save_ready(ready, request.folder)
    world.barrier()
    return load_ready(classifier, request.folder, names)


def _is_ready(request: Request, classifier: Classifier, names: tuple[str, ...]) -> bool:
    """Whether a run that goes on has prepared this very teacher; another one only where the user
    accepts it."""
    from deitkit.training.teacher_ready import load_ready

    if not request.resumes:
        return False
    try:
        load_ready(classifier, request.folder, names)
    except CheckpointError as error:
        if error.code != "TEACHER_CHANGED" or not request.config.run.accept_changes:
            raise
        return False
    return True


def train_auto_teacher(
    request: Request,
    dataset: Dataset,
    world: World,
    train: Callable[[Request, Dataset], Iterator[Event]],
    progress: Progress,
) -> None:
    """Train the teacher of teacher=auto in the run's own folder; nothing where it is there.

    `train` is called with its request and images and gives the events; of them only a line of
    progress is left, and the errors. A killed one goes on.
    """
    if request.config.distill.teacher != AUTO_TEACHER or not has_teacher(request.config):
        return
    own = read_auto_request(request, dataset, device_type=world.device.type)
    if own.result is not None:
        return
    if world.is_main:
        try:
            meet_folder(own)
        except CheckpointError:
            # Other settings than those of an earlier try that did not get as far as a student.
            own = read_auto_request(request, dataset, device_type=world.device.type, overwrite=True)
            meet_folder(own)
    own.take(world.broadcast_json(own.shared()))
    total = 0
    with told_as_part(request.folder, goes_on="the same command goes on"):
        for event in train(own, replace(dataset, unlabelled=None)):
            if isinstance(event, Planned):
                total = event.total_steps
            elif isinstance(event, StepDone):
                progress("training the teacher", event.step, total)
            elif isinstance(event, Finished):
                result = event.result
                request.reasons["distill.teacher"] = (
                    f"trained first: {result['model']}, {100 * result['val_top1']:.1f} % on "
                    f"{result['num_val']:,} validation images after {result['seconds']:.0f} s; "
                    f"see {TEACHER_FOLDER}/"
                )


def _teacher_share(config: RunConfig, model: str) -> float:
    from deitkit.models.quick_cnn import QUICK_CNN

    share = config.distill.teacher_share
    if share is None:
        return STEM_SHARE if model in QUICK_CNN else AUTO_SHARE
    if not 0 < share <= MAX_TEACHER_SHARE:
        raise ConfigError(
            "DISTILL",
            f"distill.teacher_share={share:g}",
            "the teacher needs some of the budget, and the student the rest",
            f"use a share above 0 and up to {MAX_TEACHER_SHARE:g}, or leave it out",
        )
    return share


def read_auto_request(
    request: Request, dataset: Dataset, *, device_type: str, overwrite: bool = False
) -> Request:
    """The request of the teacher of teacher=auto; how many ranks there are, its student decides.

    Raises:
        ConfigError: as `read_request`; DISTILL, a share of the budget that cannot be; IMAGE_SIZE.
    """
    settings = _auto_settings(request, dataset, device_type=device_type)
    own = read_request({**settings, "overwrite": True} if overwrite else settings)
    own.keeps_ranks = True
    return own


def _auto_settings(request: Request, dataset: Dataset, *, device_type: str) -> dict[str, Any]:
    """A CNN, without smoothing or Mixup."""
    from deitkit.runtime.processors import usable_cpus
    from deitkit.training.model_choices import choose_auto_teacher
    from deitkit.training.resolution import Resolution, pooling_width
    from deitkit.training.resolve import as_pair, budget_s, settle_image_size

    config = request.config
    values = flatten(config)
    r = Resolution(config)
    num_cores = usable_cpus()
    settle_image_size(
        r, dataset.train.sizes, device_type=device_type, num_cores=num_cores, start=None
    )
    settings: dict[str, Any] = {
        name: values[name] for name in SHARED_SETTINGS if values[name] != AUTO
    }
    settings |= {
        "data": request.source,
        "out": str(request.folder / TEACHER_FOLDER),
        "model": choose_auto_teacher(
            as_pair(r.get("data.image_size")),
            num_images=len(dataset.train),
            budget_s=budget_s(config),
            device_type=device_type,
            num_cores=num_cores,
            stem_width=pooling_width(config),
        ).value,
        "init": "scratch",
        "optim.label_smoothing": 0.0,
        "views.mixup": 0.0,
    }
    if config.schedule.budget == AUTO and config.schedule.epochs != AUTO:
        settings["epochs"] = max(3, round(AUTO_EPOCHS_SHARE * config.schedule.epochs))
    else:
        share = _teacher_share(config, settings["model"])
        settings["budget"] = f"{max(1, round(share * budget_s(config)))}s"
    return settings
