"""What a race tries: each arm as settings of `train`, or why it cannot be tried."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deitkit.config import AUTO
from deitkit.errors import ConfigError

LINEAR, TEACHER = "linear", "teacher"
FINE_TUNED, FINE_TUNED_TAUGHT = "fine_tuned", "fine_tuned_taught"
SCRATCH_TAUGHT, SCRATCH = "scratch_taught", "scratch"
TITLES = {
    LINEAR: "linear classifier on the start",
    TEACHER: "the teacher as it is",
    FINE_TUNED: "fine-tuning",
    FINE_TUNED_TAUGHT: "fine-tuning with the teacher",
    SCRATCH_TAUGHT: "from scratch with the teacher",
    SCRATCH: "from scratch",
}
"""In the order of the table. Of equal trials the first one goes on."""
FROZEN = (LINEAR, TEACHER)
FROM_START = (LINEAR, FINE_TUNED, FINE_TUNED_TAUGHT)
TAUGHT = (TEACHER, FINE_TUNED_TAUGHT, SCRATCH_TAUGHT)
FROM_SCRATCH = (SCRATCH_TAUGHT, SCRATCH)
OF_THE_RACE = {
    "data.path",
    "model.init",
    "distill.teacher",
    "schedule.budget",
    "schedule.strategy",
    "run.out",
    "run.overwrite",
    "run.accept_changes",
    "run.report",
}
"""Settings that each arm has from the race; all else the user set holds for every arm."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to a classifier."""

    name: str
    """Its folder in race/."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted name: what it shares with the others, and its start and teacher."""
    why_not: str | None = None
    """Why it cannot be tried."""

    @property
    def title(self) -> str:
        return TITLES[self.name]


def list_arms(
    asked: Mapping[str, Any], *, start: str | None, start_why: str, has_teacher: bool
) -> dict[str, Arm]:
    """All arms by name. `asked` is what the user set, by dotted name; `start` the trained weights
    there are, as `init=` takes them, or None for the reason `start_why`."""
    arms = {}
    for name in TITLES:
        why_not = None
        if name in FROM_START and start is None:
            why_not = f"no trained start: {start_why}"
        elif name in TAUGHT and not has_teacher:
            why_not = "no teacher; teacher= names one, or teacher=auto trains one first"
        settings = {
            key: value
            for key, value in asked.items()
            if key not in OF_THE_RACE
            and (name in TAUGHT or (not key.startswith("distill.") and key != "data.unlabelled"))
        }
        settings["model.init"] = start if name in FROM_START else "scratch"
        arms[name] = Arm(name=name, settings=settings, why_not=why_not)
    return arms


def check_race(asked: Mapping[str, Any]) -> None:
    """Raise ConfigError RACE for settings that a race by the clock, in one process, cannot keep."""
    if asked.get("run.ranks", 1) != 1 or os.environ.get("WORLD_SIZE", "1") != "1":
        raise ConfigError(
            "RACE", "strategy=auto", "runs in one process", "leave ranks= and torchrun out"
        )
    if asked.get("data.folds"):
        raise ConfigError(
            "RACE",
            f"strategy=auto with folds={asked['data.folds']}",
            "all arms of a race share one split",
            "leave one of them out: race first, then give the winner's settings folds",
        )
    for name in ("schedule.epochs", "schedule.steps"):
        if asked.get(name, AUTO) != AUTO:
            raise ConfigError(
                "RACE",
                f"strategy=auto with {name}={asked[name]}",
                "a race is run against the clock",
                "say how long with budget=, as in budget=15m",
            )
