"""race.json: what a race has found so far, whole on disk after each arm, so that it can go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deitkit.api.race_rule import Score
from deitkit.errors import CheckpointError
from deitkit.runtime.durable import write_json
from deitkit.runtime.strict_json import load_json

SCHEMA = 1
WAITING, IMPOSSIBLE, DROPPED, FAILED = "waiting", "impossible", "dropped", "failed"
TRIED, FINISHED = "tried", "finished"


@dataclass
class ArmRecord:
    """What is known of one arm."""

    name: str
    title: str
    state: str = WAITING
    """waiting; impossible, dropped or failed, see `why`; tried, in a short run; finished."""
    why: str = ""
    """A sentence."""
    folder: str | None = None
    """Of its best run, relative to the race's folder; None where nothing was written."""
    model: str = ""
    num_right: int = 0
    num_images: int = 0
    parameters: int = 0
    latency_ms: float = 0.0
    seconds: float = 0.0
    """All that was spent on it, trial included."""
    trial_accuracy: float | None = None

    @property
    def score(self) -> Score | None:
        """None before it has answered."""
        if not self.num_images:
            return None
        return Score(
            num_right=self.num_right,
            num_images=self.num_images,
            parameters=self.parameters,
            latency_ms=self.latency_ms,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, accuracy and 95 % interval among them."""
        score = self.score
        return {
            **asdict(self),
            "accuracy": None if score is None else score.accuracy,
            "interval": None if score is None else list(score.interval),
        }


@dataclass
class RaceRecord:
    """A race so far. `save` after each change that must not be lost."""

    path: Path
    budget_s: float
    spent_s: float = 0.0
    """By the commands so far, to the last save."""
    start: str | None = None
    start_why: str = ""
    is_started: bool = False
    """Whether the start was looked for."""
    pixel_accuracy: float | None = None
    """Of the nearest neighbour in pixels; None before it was asked."""
    final_arm: str | None = None
    """The trained arm that gets the rest of the budget, once that is decided; empty for none."""
    final_budget: str | None = None
    winner: str | None = None
    arms: dict[str, ArmRecord] = field(default_factory=dict)

    def save(self) -> None:
        """Write it, durably."""
        write_json(self.path, self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del values["path"]
        arms = [arm.to_dict() for arm in self.arms.values()]
        return {"schema": SCHEMA, **values, "arms": arms}

    def scores(self) -> dict[str, Score]:
        """Of the arms that could be the answer: those with a bundle."""
        return {
            name: arm.score
            for name, arm in self.arms.items()
            if arm.score is not None and arm.folder is not None
        }


def read_record(path: Path, *, budget_s: float) -> RaceRecord:
    """The race in `path`, or a new one.

    Raises:
        CheckpointError: CORRUPT, the file is damaged; NEWER.
    """
    if not path.is_file():
        return RaceRecord(path=path, budget_s=budget_s)
    try:
        values = load_json(path.read_bytes(), path)
        schema, arms = values.pop("schema"), values.pop("arms")
        if schema > SCHEMA:
            raise CheckpointError(
                "NEWER", path, f"written in format {schema}, not {SCHEMA}", "update deitkit"
            )
        names = ArmRecord.__dataclass_fields__
        read = [ArmRecord(**{k: v for k, v in arm.items() if k in names}) for arm in arms]
        return RaceRecord(path=path, **values, arms={arm.name: arm for arm in read})
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            "CORRUPT", path, f"is no record of a race ({error})", "overwrite=true starts anew"
        ) from error
