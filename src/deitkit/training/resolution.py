"""A config while its "auto" values are being chosen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deitkit.config import AUTO, RunConfig, flatten, with_values
from deitkit.models import family_of
from deitkit.training.choice import Choice


@dataclass
class Resolution:
    """A config on its way from "auto" to fixed."""

    config: RunConfig
    reasons: dict[str, str] = field(default_factory=dict)

    def settle(self, name: str, choice: Choice) -> None:
        """Replace "auto" (or an empty seed) by the choice; what the user set stays."""
        if flatten(self.config)[name] in (AUTO, None):
            self.config = with_values(self.config, {name: choice.value})
            self.reasons[name] = choice.reason

    def settle_ranks(self, world_size: int, reason: str) -> None:
        """The number of processes that are there, whatever was hoped for."""
        self.config = with_values(self.config, {"run.ranks": world_size})
        self.reasons["run.ranks"] = reason

    def get(self, name: str) -> Any:
        return flatten(self.config)[name]


def named_shape(config: RunConfig) -> dict[str, Any]:
    """Of the model by its name, and by what the settings say besides."""
    return {**family_of(config.model.name)[1], **chosen_shape(config)}


def pooling_width(config: RunConfig) -> int | None:
    """Width of the first pooling stage of the model, by its name and what the settings say besides;
    None for models without, and where none is chosen yet."""
    shape = {} if config.model.name == AUTO else named_shape(config)
    width: int | None = shape.get("stem_width") if shape.get("stem") == "pooling" else None
    return width


def chosen_shape(config: RunConfig) -> dict[str, Any]:
    """What the settings say of the model besides its name."""
    return {
        name.partition(".")[2]: value
        for name, value in flatten(config).items()
        if name.startswith("model.") and value is not None
    }
