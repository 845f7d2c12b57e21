"""The choices of a run in the order people ask about them, each with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deitkit.api.request import Request
from deitkit.config import RunConfig, flatten, settled

if TYPE_CHECKING:
    from deitkit.training.assemble import Assembly

ASKED, DEFAULT = "asked for", "the default"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRow:
    """One choice."""

    what: str
    choice: str
    reason: str
    settings: tuple[str, ...]
    """Dotted names that set it otherwise."""


def plan_rows(request: Request, probe: Assembly, teacher_said: str | None) -> list[PlanRow]:
    """All rows; `teacher_said` tells of a teacher that is trained first."""
    config = request.config

    def row(what: str, choice: Any, *settings: str, default: str = DEFAULT) -> PlanRow:
        return PlanRow(
            what=what,
            choice=str(choice),
            reason=_reason(request, settings, default),
            settings=settings,
        )

    height, width = probe.spec.image_size
    rows = [
        row("model", config.model.name, "model.name"),
        row("start", config.model.init, "model.init"),
    ]
    if (tokens := _tokens(probe)) is not None:
        patch, said = tokens
        rows.append(row("patch", patch, "model.patch_size", default=said))
    rows += [
        row("image size", f"{height} x {width}", "data.image_size"),
        row(
            "growing sizes",
            ", ".join(map(str, config.schedule.sizes)) or "no",
            "schedule.sizes",
            default="one size in all steps: sizes= is cheaper, and in runs of minutes it cost "
            "accuracy (docs/experiments.md)",
        ),
        row(
            "epochs",
            f"{_epochs(probe, config):.1f} ({config.schedule.steps:,} steps)",
            "schedule.epochs",
            "schedule.budget",
            "schedule.steps",
        ),
        row("batch", config.optim.batch_size, "optim.batch_size"),
        row("learning rate", f"{settled(config.optim.lr):.3g} at batch 512", "optim.lr"),
        *_augmentation(config, row),
        row(
            "average of weights",
            _average(config),
            "ema.half_life",
            "ema.decay",
            default="evaluated beside the weights; the better of the two is kept",
        ),
        row(
            "teacher",
            teacher_said or config.distill.teacher or "none",
            "distill.teacher",
            default="none was asked for; teacher=auto trains one first",
        ),
    ]
    if config.distill.kind != "none":
        until = f"{100 * settled(config.distill.until):.0f} % of the epochs"
        rows.append(row("what it teaches", config.distill.kind, "distill.kind"))
        rows.append(row("how long it teaches", until, "distill.until"))
    rows += [
        row("stored view epochs", _view_epochs(config), "distill.view_epochs"),
        row("decoded images", config.data.image_cache, "data.image_cache"),
        row("loader workers", config.run.workers, "run.workers"),
        row("ranks", config.run.ranks, "run.ranks"),
    ]
    return rows


def _reason(request: Request, settings: tuple[str, ...], default: str) -> str:
    """Why: of what was chosen, what was asked for, or what is left as it is."""
    reasons = request.reasons
    said = [reasons[name] for name in settings if name in reasons]
    values = flatten(request.config)
    asked = any(name in request.asked and request.asked[name] == values[name] for name in settings)
    return "; ".join(dict.fromkeys(said)) or (ASKED if asked else default)


def _tokens(probe: Assembly) -> tuple[int, str] | None:
    """Pixels a side of a patch, and how many of them an image is; None for a network without."""
    patch = getattr(probe.state.model, "patch_size", None)
    if patch is None:
        return None
    height, width = probe.spec.image_size
    num = (height // patch) * (width // patch)
    return patch, f"as the model's name says: an image is {num:,} patches"


def _epochs(probe: Assembly, config: RunConfig) -> float:
    return float(settled(config.schedule.steps) / probe.steps.steps_per_epoch)


def _augmentation(config: RunConfig, row: Any) -> list[PlanRow]:
    """Its strength, part by part."""
    views = config.views
    crop: str = views.crop
    if crop == "random_resized":
        least, most = settled(views.scale)
        crop = f"random resized, {100 * least:.0f} to {100 * most:.0f} % of the area"
    mixing = [
        f"{name} {value:g}"
        for name, value in (("mixup", settled(views.mixup)), ("cutmix", settled(views.cutmix)))
        if value
    ]
    if mixing and settled(views.mix_prob) < 1:
        mixing.append(f"in {100 * settled(views.mix_prob):.0f} % of pairs")
    flip = settled(views.flip)
    return [
        row("augmentation: crops", crop, "views.crop"),
        row("augmentation: mirrored", f"{100 * flip:.0f} %" if flip else "no", "views.flip"),
        row("augmentation: operations", views.auto_augment, "views.auto_augment"),
        row("augmentation: mixing", ", ".join(mixing) or "no", "views.mixup", "views.cutmix"),
        row("augmentation: erasing", f"{100 * settled(views.erasing):.0f} %", "views.erasing"),
    ]


def _average(config: RunConfig) -> str:
    if config.ema.decay is not None:
        return f"decay {config.ema.decay:g} a step"
    if config.ema.half_life == 0:
        return "none"
    return f"half-life {100 * config.ema.half_life:g} % of the run"


def _view_epochs(config: RunConfig) -> str:
    num = settled(config.distill.view_epochs)
    return f"{num:,}" if num else "none"
