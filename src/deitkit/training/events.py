"""What training tells. Whoever iterates `fit` prints, plots, logs or stops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deitkit.flow import LossTerms

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Planned:
    """Everything is decided; the first step is next."""

    run_folder: str
    total_steps: int
    steps_per_epoch: int
    start_step: int
    batch_size: int
    summary: Sequence[tuple[str, str]]
    """What was found, lines of (name, text)."""
    choices: Sequence[tuple[str, str, str]]
    """What was chosen: (name, value, reason)."""
    forecast: Mapping[str, Any] | None
    """`Forecast.to_dict()` of the whole command; None for a run that goes on."""
    time_decides: bool
    """Neither epochs nor budget were asked for, so a budget would give it more."""
    teacher: Mapping[str, Any] | None = None
    """What is known of the teacher before the first step; None without one, or going on."""
    class_names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know; nothing stops."""

    text: str


@dataclass(frozen=True, slots=True)
class StepDone:
    """One optimisation step. Losses stay tensors until somebody reads them."""

    step: int
    """Steps done so far, this one included."""
    epoch: float
    lr: float
    losses: LossTerms
    """Means over the step's images, on all ranks."""
    grad_norm: Tensor
    skipped: bool | Tensor
    """Whether its gradient was not finite, so that nothing changed. `fit` tells a bool."""
    sample_ids: tuple[int, ...] = ()
    image_size: tuple[int, int] | None = None
    """Height and width at which the student saw them."""

    @property
    def loss(self) -> float:
        return float(self.losses.total)


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Validation after `step` steps, of the weights and of their average."""

    step: int
    epoch: float
    scores: Mapping[str, Mapping[str, float]]
    """{"raw": {"top1": ..., "nll": ...}, "ema": {...}}; no "ema" where no average is kept."""
    is_best: bool
    """Whether the better of them is now the bundle in `best/`."""
    best: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint is on disk, synced, and will be found."""

    step: int
    path: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last step is done, the best weights are in the bundle."""

    step: int
    seconds: float
    best: Mapping[str, Any]
    already: bool = False
    """The run was complete before this command; nothing was changed."""
    result: Mapping[str, Any] = field(default_factory=dict)
    """What result.json holds."""


@dataclass(frozen=True, slots=True)
class Raced:
    """A race is decided; `Finished` is next, of the run that won."""

    race: Mapping[str, Any]
    """What race.json holds."""


@dataclass(frozen=True, slots=True)
class PartBegun:
    """One of the runs that a command is made of, such as a fold, begins or is met again."""

    title: str
    number: int
    """From 1."""
    total: int


@dataclass(frozen=True, slots=True)
class FoldsJudged:
    """All folds are done; what they say together, as folds.json holds it."""

    found: Mapping[str, Any]


Event = PartBegun | FoldsJudged | Planned | Warned | StepDone | Evaluated | Saved | Raced | Finished
