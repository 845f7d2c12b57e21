"""In what numbers the products of training are computed."""

from __future__ import annotations

import torch

from deitkit.runtime.device import precision_for
from deitkit.training.choice import Choice

FLOAT32, BFLOAT16 = "float32", "bfloat16"


def choose_precision(*, device_type: str, has_units: bool) -> Choice:
    """bfloat16 where the device `has_units` for it; weights, gradients, averages and evaluations on
    a CPU are float32 either way."""
    if not has_units:
        return Choice(FLOAT32, f"this {device_type} has no units for bfloat16")
    units = "AMX" if device_type == "cpu" else device_type
    return Choice(BFLOAT16, f"there are units for it here: {units}; weights stay float32")


def training_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype of `run.precision`, None for plain float32; where it is still open, as
    where parts are put together by hand, the one of evaluations."""
    if precision == FLOAT32:
        return None
    return torch.bfloat16 if precision == BFLOAT16 else precision_for(device)
