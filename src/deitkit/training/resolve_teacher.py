"""What "auto" becomes in how the student learns from its teacher."""

from __future__ import annotations

import math

from deitkit.config import AUTO, RunConfig, settled, with_values
from deitkit.errors import ConfigError
from deitkit.teachers.cache_records import RecordFormat, cache_bytes
from deitkit.training import teacher_choices as choices
from deitkit.training.choice import Choice
from deitkit.training.resolution import Resolution
from deitkit.training.view_phases import build_view_phases


def settle_distillation(r: Resolution, *, has_teacher: bool, num_classes: int) -> None:
    if not has_teacher:
        r.settle("distill.kind", Choice("none", "no teacher"))
        if r.get("distill.kind") != "none":
            raise ConfigError(
                "NO_TEACHER",
                f"distill.kind={r.get('distill.kind')}",
                "there is no teacher to learn from",
                "add teacher=runs/teacher or leave distill.kind out",
            )
        if r.config.data.unlabelled is not None:
            raise ConfigError(
                "NO_TEACHER",
                f"unlabelled={r.config.data.unlabelled}",
                "without a teacher nobody says what these pictures are",
                "add teacher=auto or teacher=runs/teacher, or leave unlabelled= out",
            )
        r.settle("distill.until", Choice(1.0, "no teacher"))
        r.settle("distill.view_epochs", Choice(0, "no teacher: every epoch has new views"))
        r.settle("distill.teacher_cache", Choice("off", "no teacher"))
    r.settle("distill.kind", choices.choose_distill_kind(num_classes))
    if r.get("distill.kind") == "standardised" and num_classes == 2:
        raise ConfigError(
            "DISTILL",
            "distill.kind=standardised",
            "with two classes every answer has the same z-scores",
            "use distill.kind=soft",
        )
    r.settle("distill.weight", Choice(0.5, "labels and teacher count the same"))
    r.settle("distill.until", Choice(1.0, "to the end, as in the paper"))
    until = r.get("distill.until")
    if until < 1 and r.config.data.unlabelled is not None:
        raise ConfigError(
            "DISTILL",
            f"distill.until={until:g}",
            "nobody but the teacher says what the unlabelled pictures are",
            "leave one of the two out",
        )
    kind = r.get("distill.kind")
    r.settle("distill.temperature", Choice(2.0 if kind == "standardised" else 3.0, f"for {kind}"))


def asked_view_epochs(config: RunConfig) -> int | None:
    if config.distill.view_epochs != AUTO:
        return config.distill.view_epochs
    return 0 if config.distill.teacher_cache == "off" else None


def taught_share(config: RunConfig) -> float:
    """Of the epochs, those in which the teacher is asked; 1 where nothing else is chosen yet."""
    return 1.0 if config.distill.until == AUTO else config.distill.until


def settle_view_epochs(
    r: Resolution, num_epochs: float, *, step_s: float, teacher_step_s: float
) -> None:
    """V, and whether each strength of the schedule has epochs and views.

    Raises:
        ConfigError: VIEW_EPOCHS, CACHE_MODE, STRENGTHS.
    """
    repeats, strengths = r.config.views.repeats, settled(r.config.schedule.strengths)
    until = taught_share(r.config)
    shown_again = until == 1
    if shown_again:
        num = _view_epochs(r, num_epochs, step_s=step_s, teacher_step_s=teacher_step_s)
    else:
        num = _taught_epochs(r, num_epochs, cost=teacher_step_s / step_s)
    r.settle("distill.view_epochs", num)
    asked = r.get("distill.view_epochs")
    if asked % repeats:
        raise ConfigError(
            "VIEW_EPOCHS",
            f"distill.view_epochs={asked}",
            f"with views.repeats={repeats} so many epochs show all images",
            f"use a multiple of {repeats}",
        )
    if not shown_again and asked != num.value:
        raise ConfigError(
            "VIEW_EPOCHS",
            f"distill.view_epochs={asked}",
            f"with distill.until={until:g} no view is shown again",
            "leave one of the two out",
        )
    # Refused now and not when the run is assembled with them, after it was written down.
    build_view_phases(
        strengths,
        num_epochs=math.ceil(num_epochs),
        num_view_epochs=(asked or None) if shown_again else None,
        repeats=repeats,
    )


def _view_epochs(
    r: Resolution, num_epochs: float, *, step_s: float, teacher_step_s: float
) -> Choice:
    """V of a run that is taught to its end."""
    repeats = r.config.views.repeats
    num = choices.choose_view_epochs(
        num_epochs, step_s=step_s, teacher_step_s=teacher_step_s, repeats=repeats
    )
    if r.get("distill.teacher_cache") == "off":
        num = Choice(0, "without a cache every epoch has new views")
    if r.get("distill.teacher_cache") in ("memory", "disk") and num.value == 0:
        every = math.ceil(num_epochs / repeats) * repeats
        num = Choice(every, "every epoch has new views, and the answers are kept")
    fewest = len(settled(r.config.schedule.strengths)) * repeats
    if 0 < num.value < fewest:
        num = Choice(fewest, f"{num.reason}; each of the strengths has views of its own")
    return num


def _taught_epochs(r: Resolution, num_epochs: float, *, cost: float) -> Choice:
    """V of a run whose teacher is asked in the first epochs only: those, or 0 where nothing is
    kept. `cost` is in steps of the student a step."""
    until, repeats = taught_share(r.config), r.config.views.repeats
    taught = choices.num_taught_epochs(num_epochs, until)
    if taught == 0:
        r.settle("distill.teacher_cache", Choice("off", "the teacher is not asked"))
    cache = r.get("distill.teacher_cache")
    if cache in ("memory", "disk") and taught == 0:
        raise ConfigError(
            "CACHE_MODE",
            f"distill.teacher_cache={cache}",
            f"with distill.until={until:g} there is no answer to keep",
            "leave one of the two out",
        )
    if cache == "off" or (cache == AUTO and cost < choices.CHEAP_TEACHER):
        return Choice(0, "every epoch has new views, and nothing is kept")
    kept = math.ceil(taught / repeats) * repeats
    return Choice(kept, f"the teacher is asked in {taught} of {num_epochs:.0f} epochs")


def settle_teacher_cache(
    r: Resolution,
    *,
    num_images: int,
    num_classes: int,
    free_disk: int | None,
    free_memory: int,
) -> None:
    """Where the teacher's answers are kept, once it is known how many there will be.

    Raises:
        ConfigError: CACHE_FORMAT, the few largest logits are asked to be kept for a kind of
            distillation that reads all.
    """
    kind, top_k = r.get("distill.kind"), r.get("distill.cache_top_k")
    if top_k is not None and kind != "soft":
        raise ConfigError(
            "CACHE_FORMAT",
            f"distill.cache_top_k={top_k}",
            f"kind {kind} reads more of an answer than its largest logits",
            "leave it out, or use distill.kind=soft",
        )
    view_epochs = r.get("distill.view_epochs")

    def num_bytes(top_k: int | None) -> int:
        records = RecordFormat(
            num_classes=num_classes, dtype=r.config.distill.cache_dtype, top_k=top_k
        )
        return cache_bytes(records, num_images, view_epochs)

    def choose(size: int) -> Choice:
        return choices.choose_teacher_cache(
            size, view_epochs=view_epochs, free_disk=free_disk, free_memory=free_memory
        )

    too_large = free_disk is not None and num_bytes(top_k) > choices.DISK_SHARE * free_disk
    if too_large and top_k is None and kind == "soft" and num_classes > choices.TOP_K:
        top_k = choices.TOP_K
        r.config = with_values(r.config, {"distill.cache_top_k": top_k})
        r.reasons["distill.cache_top_k"] = "all logits would fill more than half of the free disk"
    r.settle("distill.teacher_cache", choose(num_bytes(top_k)))
