"""What changes in training, so what a checkpoint saves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deitkit.artifacts.checkpoint import pack_optimizer, unpack_optimizer
from deitkit.models import ImageModel
from deitkit.optim import WeightAverage


@dataclass
class TrainState:
    """Chance is no part of it: every draw is a function of the seeds and `step`."""

    model: ImageModel
    average: WeightAverage[ImageModel] | None
    optimizer: torch.optim.Optimizer
    step: int = 0
    num_updates: int | Tensor = 0
    """Steps whose gradient was finite; the others changed nothing. A scalar on the device where
    that decides about steps, and so are `bad_in_a_row`."""
    bad_in_a_row: int | Tensor = 0
    evaluated_step: int = 0
    seconds: float = 0.0
    """Time spent in earlier stretches of this run."""
    best: dict[str, Any] = field(default_factory=dict)
    """Score, step and source (raw or ema) of the bundle in `best/`."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """One entry an evaluation."""

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and JSON of everything that changes."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        if self.average is not None:
            averages = self.average.model.state_dict()
            tensors |= {f"average.{name}": value for name, value in averages.items()}
        optimizer_tensors, optimizer_json = pack_optimizer(self.optimizer.state_dict())
        tensors |= {f"optimizer.{name}": value for name, value in optimizer_tensors.items()}
        numbers = {
            "step": self.step,
            "num_updates": int(self.num_updates),
            "bad_in_a_row": int(self.bad_in_a_row),
            "evaluated_step": self.evaluated_step,
            "seconds": self.seconds,
            "best": self.best,
            "history": self.history,
            "optimizer": optimizer_json,
        }
        return tensors, numbers

    def unpack(self, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
        """Become the state that was packed; shapes and names must be those of this run."""
        numbers = dict(numbers)
        self.model.load_state_dict(_under("model.", tensors))
        if self.average is not None:
            self.average.model.load_state_dict(_under("average.", tensors))
        optimizer_json = numbers.pop("optimizer")
        optimizer_state = unpack_optimizer(_under("optimizer.", tensors), optimizer_json)
        self.optimizer.load_state_dict(optimizer_state)
        _lay_out_like_weights(self.optimizer)
        for name, value in numbers.items():
            setattr(self, name, value)


def _lay_out_like_weights(optimizer: torch.optim.Optimizer) -> None:
    """Give averages of gradients the order in memory of their weights, as they had when they were
    made: fused optimizers walk both side by side, whatever the order of either."""
    for weight, values in optimizer.state.items():
        for name, value in values.items():
            is_like = isinstance(value, Tensor) and value.shape == weight.shape
            if is_like and value.stride() != weight.stride():
                values[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)}
