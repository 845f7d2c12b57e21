"""A teacher before training, and beside its student after it: numbers for table and report."""

# Shapes: N images, B at a time, K classes of the user.

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from deitkit.data.preprocess import Preprocessing, preprocess

if TYPE_CHECKING:
    import numpy as np
    import torch

    from deitkit.data import ImageSet
    from deitkit.evaluation.paired import Share
    from deitkit.models import ImageModel
    from deitkit.reporting.teacher_facts import Comparison, TeacherFacts
    from deitkit.teachers import LiveTeacher
    from deitkit.training.loader import TrainSteps
    from deitkit.training.teacher_ready import ReadyTeacher

NUM_VIEWS = 256
NUM_LATENCY_RUNS = 15
MIN_LATENCY_RUNS = 3
MAX_LATENCY_S = 10.0
"""After so long the runs that were made must do."""


def teacher_facts(
    ready: ReadyTeacher,
    *,
    name: str,
    live: LiveTeacher,
    steps: TrainSteps,
    val_labels_N: np.ndarray,
    erasing_fill: str,
    mean: Sequence[float],
    std: Sequence[float],
    student_step_s: float,
    teacher_step_s: float,
    num_epochs: float,
    num_view_epochs: int | None,
    until: float,
    storage: str,
    storage_reason: str,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> TeacherFacts:
    """What is known before the first step. The teacher is asked about `NUM_VIEWS` views.

    `live` and `steps` are those of the run; `val_labels_N` are the labels of all validation
    images; `erasing_fill`, `mean` and `std` as `right_on_views` takes them; the seconds and epochs
    as `TeacherCost`; `storage` is live, memory or disk.

    Raises:
        DataError: an image cannot be read any more.
        ModelFileError: TEACHER_OUTPUT.
    """
    from deitkit.evaluation.paired import class_shares, share_of
    from deitkit.reporting.teacher_facts import TeacherCost, TeacherFacts

    labels_N = val_labels_N[ready.val_indices]
    right_N = ready.val_NK.argmax(axis=1) == labels_N
    return TeacherFacts(
        name=name,
        num_params=ready.classifier.num_params,
        image_size=ready.classifier.image_size,
        classes=ready.classes,
        clean=share_of(right_N),
        views=right_on_views(
            live, steps, erasing_fill=erasing_fill, mean=mean, std=std, progress=progress
        ),
        per_class=class_shares(right_N, labels_N, len(ready.class_names)),
        cost=TeacherCost(
            student_step_s=student_step_s,
            teacher_step_s=teacher_step_s,
            num_epochs=num_epochs,
            num_view_epochs=num_view_epochs,
            until=until,
        ),
        storage=storage,
        storage_reason=storage_reason,
        notes=(*ready.notes, *notes),
    )


def right_on_views(
    live: LiveTeacher,
    steps: TrainSteps,
    *,
    erasing_fill: str,
    mean: Sequence[float],
    std: Sequence[float],
    max_images: int = NUM_VIEWS,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Share | None:
    """How many views of training images the teacher gets right: those of the first epoch, as it
    will see them, but for the mix with another image, whose label would be another's.

    Of labelled images the first `max_images` by sample id; None without any. `mean` and `std` are
    the student's, which some fills of erased boxes are made of.
    """
    import numpy as np
    import torch

    from deitkit.augmentation import draw_views
    from deitkit.augmentation.erasing import erase_images_
    from deitkit.evaluation.paired import share_of

    by_id = np.argsort(steps.sample_ids_N, kind="stable")
    chosen = by_id[steps.images.labels[by_id] >= 0][:max_images]
    if len(chosen) == 0:
        return None
    right = []
    for start in range(0, len(chosen), live.block_size):
        indices_B = chosen[start : start + live.block_size]
        # Their mix is drawn with them, and not applied.
        views = draw_views(
            steps.policy_of(0),
            view_seed=steps.view_seed,
            epoch=0,
            sample_ids_B=steps.sample_ids_N[indices_B],
            sizes_B2=steps.images.sizes[indices_B],
            aspect=steps.aspect,
        )
        rendered_BCHW = steps.rendered(indices_B, views, live.image_size).float().div_(255)
        seen_BCHW = erase_images_(rendered_BCHW, views, fill=erasing_fill, mean=mean, std=std)
        decisions_B = live(seen_BCHW.to(live.classifier.device)).argmax(dim=1).cpu()
        right.append((decisions_B == torch.from_numpy(steps.images.labels[indices_B])).numpy())
        progress(start + len(indices_B), len(chosen))
    return share_of(np.concatenate(right))


def compare_with_student(
    ready: ReadyTeacher,
    *,
    teacher_name: str,
    student: ImageModel,
    student_name: str,
    student_spec: Preprocessing,
    student_NK: np.ndarray,
    val: ImageSet,
    device: torch.device,
    autocast_dtype: torch.dtype | None = None,
) -> Comparison:
    """Both on the validation images that the teacher was asked about, and both alone with one.

    `student_NK` are the student's fused logits of the images at `ready.val_indices`, in that order.
    Latency is the median of some runs, in turn, each from the decoded image to logits on the CPU:
    preprocessing is in it, decoding is not. The student comes back in the mode it came in.
    """
    from deitkit.evaluation.paired import paired_gain
    from deitkit.reporting.teacher_facts import Comparison, Contender
    from deitkit.teachers.classifier import num_params

    labels_N = val.labels[ready.val_indices]
    teacher_s, student_s = _latencies(
        ready, student, student_spec, val, device=device, autocast_dtype=autocast_dtype
    )
    return Comparison(
        measured_on=_images_said(len(labels_N), len(val)),
        latency_on=_devices_said(ready.classifier.device, device),
        teacher=Contender(
            name=teacher_name,
            num_params=ready.classifier.num_params,
            latency_ms=1e3 * teacher_s,
        ),
        student=Contender(
            name=student_name, num_params=num_params(student), latency_ms=1e3 * student_s
        ),
        gain=paired_gain(
            student_NK.argmax(axis=1) == labels_N, ready.val_NK.argmax(axis=1) == labels_N
        ),
    )


def _latencies(
    ready: ReadyTeacher,
    student: ImageModel,
    student_spec: Preprocessing,
    val: ImageSet,
    *,
    device: torch.device,
    autocast_dtype: torch.dtype | None,
) -> tuple[float, float]:
    """Seconds of one image: teacher and student."""
    import torch

    from deitkit.teachers.outputs import fused_logits
    from deitkit.training.teacher_source import evaluation_preprocessing_of

    classifier = ready.classifier
    columns = list(ready.columns)
    teacher_spec = evaluation_preprocessing_of(classifier)
    image_HWC = val.image(int(ready.val_indices[0]))

    def prepared(spec: Preprocessing, place: torch.device) -> torch.Tensor:
        return torch.from_numpy(preprocess(image_HWC, spec))[None].to(place)

    def ask_teacher() -> None:
        place = classifier.device
        with torch.autocast(place.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            classifier.call(prepared(teacher_spec, place))[:, columns].cpu()

    def ask_student() -> None:
        with torch.autocast(device.type, dtype=autocast_dtype, enabled=autocast_dtype is not None):
            fused_logits(student(prepared(student_spec, device))).cpu()

    was_training = student.training
    student.eval()
    try:
        with torch.no_grad():
            return _medians_s(ask_teacher, ask_student)
    finally:
        student.train(was_training)


def _medians_s(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    """Of each, run in turn, so that a busy moment of the machine meets both; the first run of each
    is not counted."""
    first()
    second()
    begun = time.perf_counter()
    times: list[tuple[float, float]] = []
    while len(times) < NUM_LATENCY_RUNS:
        start = time.perf_counter()
        if len(times) >= MIN_LATENCY_RUNS and start - begun > MAX_LATENCY_S:
            break
        first()
        middle = time.perf_counter()
        second()
        times.append((middle - start, time.perf_counter() - middle))
    first_s, second_s = zip(*times, strict=True)
    return statistics.median(first_s), statistics.median(second_s)


def _images_said(num_asked: int, num_val: int) -> str:
    if num_asked == num_val:
        return f"all {num_val:,} validation images"
    return f"the {num_asked:,} of {num_val:,} validation images that the teacher was asked about"


def _devices_said(teacher_device: torch.device, student_device: torch.device) -> str:
    """The device, or both where they differ, and what the time is made of."""
    said = _device_said(student_device)
    if teacher_device.type != student_device.type:
        said = f"{_device_said(teacher_device)} (teacher), {said} (student)"
    return f"{said}; one image at a time, from the decoded image to its logits"


def _device_said(device: torch.device) -> str:
    from deitkit.runtime.device import describe_machine

    machine = describe_machine(device)
    if device.type == "cpu":
        return f"{machine['cpu']}, {machine['threads']} threads"
    return str(machine.get("gpu", device.type))
