"""What "auto" becomes, each with its reason. Plain numbers in, (value, reason) out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from deitkit.training.choice import Choice
from deitkit.training.teacher_choices import steps_within

MAX_AUTO_EPOCHS = 300
MAX_BUDGET_EPOCHS = 1000
DEFAULT_BUDGET_S = 30 * 60.0
MEMORY_SHARE = 0.5
"""Of the free memory, what the activations of one step may take."""
EVALUATION_SHARE, MIN_EVALUATIONS, MAX_EVALUATIONS = 0.05, 2, 20
"""Of the time for training, what evaluations may take, and their number."""
FLOATS_PER_TOKEN_AND_WIDTH = 20
"""That a transformer block keeps for its backward pass, over the width of a token."""
OPTIMIZER_HABITS = {
    "adamw": (0.05, 0.9, 1.0),
    "sgd": (1e-4, 0.9, 30.0),
    "muon": (0.05, 0.95, 1.0),
}
"""Weight decay, momentum (AdamW reads none), and the learning rate over AdamW's."""
MANY_IMAGES = 20_000
"""From which on a transformer on a CPU gets large batches: fewer images mean fewer steps."""
PLAIN_PARTS = 10
"""Of the equal parts of a run that mixes, the last one does not."""
FINE_TUNING_BATCH_SIZE = 32
FINE_TUNING_PEAK_LR = 5e-4
FINE_TUNING_EPOCHS_TO_MIX = 12


def choose_optimizer(*, fine_tunes: bool, pools: bool) -> Choice:
    """AdamW, and Muon where it was seen to learn more in the same time: docs/experiments.md."""
    if pools and not fine_tunes:
        return Choice("muon", "pooling blocks from scratch learn more of it in minutes")
    return Choice("adamw", "as in the paper")


def choose_hidden_lr(*, fine_tunes: bool, pools: bool) -> Choice:
    """Muon's rate for matrices and kernels over that of the rest; AdamW does not read it."""
    if pools and not fine_tunes:
        return Choice(6.0, "pooling blocks learn most at it in minutes")
    return Choice(1.0, "all weights learn alike")


def choose_batch_size(num_images: int, *, device_type: str, is_transformer: bool = True) -> Choice:
    """At least 20 steps an epoch, a power of two."""
    most = 128 if device_type == "cpu" else 1024
    if device_type == "cpu" and is_transformer and num_images < MANY_IMAGES:
        most = 64
    size = 2 ** max(3, math.floor(math.log2(max(num_images / 20, 1))))
    return Choice(min(size, most), f"{num_images} images: about 20 steps an epoch or more")


def for_ranks(choice: Choice, num_ranks: int) -> Choice:
    """A batch size that the ranks share evenly, in pairs: the next one up."""
    size = 2 * num_ranks * -(-choice.value // (2 * num_ranks))
    if size == choice.value:
        return choice
    return Choice(size, f"{choice.reason}; pairs shared evenly by {num_ranks} ranks")


def choose_device_batch_size(
    batch_size: int, *, bytes_per_image: float | None, free_bytes: int | None
) -> Choice:
    """All of the batch at once, or as much of it as half of the free memory holds."""
    if bytes_per_image is None or free_bytes is None:
        return Choice(batch_size, "the whole batch at once")
    fitting = int(MEMORY_SHARE * free_bytes / bytes_per_image)
    if batch_size <= fitting:
        return Choice(batch_size, "the whole batch at once")
    size = 2 ** max(1, math.floor(math.log2(max(fitting, 2))))
    return Choice(
        size,
        f"an image takes about {bytes_per_image / 1e6:.0f} MB in training and "
        f"{free_bytes / 1e9:.1f} GB are free; gradients add up to the batch of {batch_size}",
    )


def choose_lr(embed_dim: int | None, batch_size: int, *, optimizer: str = "adamw") -> Choice:
    """A peak for short runs, given back at a batch of 512, where `lr` is defined.

    `embed_dim` is a transformer's width, None for a convolutional network.
    """
    peak = 3e-3 if embed_dim is None else min(2e-3, 1e-3 * math.sqrt(256 / embed_dim))
    kind = "a convolutional network" if embed_dim is None else f"width {embed_dim}"
    peak *= OPTIMIZER_HABITS[optimizer][2]
    return Choice(
        float(f"{peak * 512 / batch_size:.3g}"),
        f"at batch 512; {peak:.2g} at batch {batch_size} for {kind} and {optimizer}, trained for "
        "minutes, not days",
    )


def choose_fine_tuning_lr(batch_size: int, *, optimizer: str) -> Choice:
    """A gentle peak, given back at a batch of 512."""
    peak = FINE_TUNING_PEAK_LR * OPTIMIZER_HABITS[optimizer][2]
    return Choice(
        peak * 512 / batch_size,
        f"at batch 512; {peak:.2g} at batch {batch_size}: fine-tuning with {optimizer}",
    )


def choose_crop(num_epochs: float, *, is_small: bool) -> Choice:
    """Shifts or crops, where there is time to learn from them."""
    if is_small and num_epochs < 7:
        return Choice("none", f"{num_epochs:.0f} epochs: each picture is still new as it is")
    if is_small:
        return Choice("padded", "small images: shifted by a few pixels")
    return Choice("random_resized", "photographs: random resized crops")


def choose_padding(num_epochs: float) -> Choice:
    """Of a padded crop: how far it moves at most, as a share of a side."""
    if num_epochs >= 30:
        return Choice(0.125, f"{num_epochs:.0f} epochs: 4 pixels of 32")
    return Choice(0.0625, f"{num_epochs:.0f} epochs are too few for shifts beyond 2 pixels of 32")


def choose_scale(num_epochs: float) -> Choice:
    """Least and most area of a random resized crop."""
    if num_epochs >= 100:
        return Choice((0.08, 1.0), f"{num_epochs:.0f} epochs: the paper's crops")
    return Choice((0.35, 1.0), f"{num_epochs:.0f} epochs are too few for very small crops")


MIRROR_WORDS = {"left", "right", "l", "r", "east", "west"}


def choose_flip(class_names: Sequence[str]) -> Choice:
    """No mirroring where the classes are signs or sides."""
    if all(len(name.strip()) == 1 or name.strip().isdigit() for name in class_names):
        return Choice(0.0, "classes are digits or letters, which mirroring would change")
    for name in class_names:
        words = set("".join(c if c.isalnum() else " " for c in name.lower()).split())
        if words & MIRROR_WORDS:
            return Choice(0.0, f"class {name!r} names a side, which mirroring would change")
    return Choice(0.5, "no class names a side or a sign")


def choose_mixing(num_epochs: float, *, has_teacher: bool) -> tuple[Choice, Choice]:
    """Mixup and CutMix parameters: mixing pays in long runs, sooner with a teacher."""
    if num_epochs >= 100:
        reason = f"{num_epochs:.0f} epochs: mixing as in the paper"
        return Choice(0.8, reason), Choice(1.0, reason)
    if has_teacher and num_epochs >= 60:
        reason = f"{num_epochs:.0f} epochs with a teacher, which labels the mixtures"
        return Choice(0.0, reason), Choice(1.0, reason)
    reason = f"{num_epochs:.0f} epochs are too few to learn from mixtures"
    return Choice(0.0, reason), Choice(0.0, reason)


def choose_strengths(num_epochs: float, *, mixes: bool, repeats: int) -> Choice:
    """Views of full strength, but plain pictures for the last tenth of a run that mixes.

    Mixed pictures are not what the network will be asked about: it ends on those that are.
    Hassani et al. 2021, arXiv:2104.05704, stop mixing before the end on CIFAR-10.
    """
    if not mixes:
        return Choice((), "nothing is mixed, so all of the run is alike")
    if num_epochs < PLAIN_PARTS * repeats:
        return Choice((), f"{num_epochs:.0f} epochs have no tenth part of their own")
    return Choice(
        (1.0,) * (PLAIN_PARTS - 1) + (0.0,), "plain pictures, not mixed, for the last tenth"
    )


def fine_tuning_views(num_epochs: float) -> tuple[dict[str, Any], str]:
    """Settings of views for fine-tuning, and the reason for all: see docs/experiments.md."""
    views: dict[str, Any] = {"views.scale": (0.35, 1.0), "views.erasing": 0.0}
    if num_epochs < FINE_TUNING_EPOCHS_TO_MIX:
        few = {"views.auto_augment": "none", "views.mixup": 0.0, "views.cutmix": 0.0}
        return views | few, f"fine-tuning for {num_epochs:.0f} epochs: crops and flips"
    many = {"views.auto_augment": "rand-m7-mstd0.5-inc1", "views.mixup": 0.8}
    many |= {"views.cutmix": 1.0, "views.mix_prob": 0.5}
    return views | many, f"fine-tuning for {num_epochs:.0f} epochs: each picture is seen often"


def choose_operations(num_epochs: float, *, is_small: bool) -> tuple[Choice, Choice]:
    """The policy of operations and the chance of erasing: the paper's for photographs in long
    runs."""
    if is_small:
        reason = "small images: shifts and mixing are enough"
        return Choice("none", reason), Choice(0.0, reason)
    if num_epochs >= 100:
        reason = f"{num_epochs:.0f} epochs: as in the paper"
        return Choice("rand-m9-mstd0.5-inc1", reason), Choice(0.25, reason)
    reason = f"{num_epochs:.0f} epochs: crops change the pictures enough"
    return Choice("none", reason), Choice(0.0, reason)


def choose_workers(
    *, in_memory: bool, is_small: bool, num_cores: int, num_ranks: int = 1
) -> Choice:
    """Processes that render beside the training, of each rank."""
    if in_memory and is_small:
        return Choice(0, "small images in memory are rendered faster than handed over")
    share = max(1, min(num_cores // num_ranks, 8))
    shared = f", shared by {num_ranks} ranks" if num_ranks > 1 else ""
    return Choice(share, f"{num_cores} cores decode and render beside the training{shared}")


def choose_steps(
    *,
    seconds: float,
    step_s: float,
    evaluation_s: float,
    steps_per_epoch: int,
    max_epochs: int,
    teacher_step_s: float = 0.0,
    view_epochs: int | None = None,
    until: float = 1.0,
) -> tuple[Choice, Choice]:
    """Steps that fill `seconds`, and the interval of the evaluations, which take a twentieth.

    `teacher_step_s` are added to the steps of the first `view_epochs` epochs; 0 is all of them,
    and with None as many as `choose_view_epochs` will choose. With `until` below 1 it is asked in
    that share of the epochs.
    """
    wanted = int(EVALUATION_SHARE * seconds / max(evaluation_s, 1e-6))
    num_evaluations = max(MIN_EVALUATIONS, min(MAX_EVALUATIONS, wanted))
    seconds = max(seconds, 0.0)
    limit = max_epochs * steps_per_epoch
    steps = steps_within(
        seconds - num_evaluations * evaluation_s,
        step_s=step_s,
        teacher_step_s=teacher_step_s,
        steps_per_epoch=steps_per_epoch,
        view_epochs=view_epochs,
        limit=100 * limit,
        until=until,
    )
    said = f" and {teacher_step_s * 1000:.0f} ms of the teacher" if teacher_step_s else ""
    reason = (
        f"a step takes {step_s * 1000:.0f} ms{said} here, {seconds:.0f} s are left for training"
    )
    if steps > limit:
        steps, reason = limit, f"{max_epochs} epochs; time would allow {steps / limit:.1f} times it"
    steps = max(steps, 1)
    interval = max(1, math.ceil(steps / num_evaluations))
    return (
        Choice(steps, reason),
        Choice(interval, f"{num_evaluations} evaluations of {evaluation_s:.1f} s"),
    )
