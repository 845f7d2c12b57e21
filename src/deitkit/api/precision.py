"""run.precision of a request, by the device it runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deitkit.api.request import Request
from deitkit.config import AUTO, with_values

if TYPE_CHECKING:
    import torch


def settle_precision(request: Request, device: torch.device) -> None:
    """Choose it where it is open; note where what was chosen, maybe elsewhere, is slow here."""
    from deitkit.runtime.device import has_bfloat16_units
    from deitkit.training.precision import BFLOAT16, choose_precision

    asked, has_units = request.config.run.precision, has_bfloat16_units(device)
    if asked == AUTO:
        choice = choose_precision(device_type=device.type, has_units=has_units)
        request.config = with_values(request.config, {"run.precision": choice.value})
        request.reasons["run.precision"] = choice.reason
    elif asked == BFLOAT16 and not has_units:
        request.notes.append(
            f"run.precision=bfloat16: this {device.type} has no units for it and is many times "
            "slower so; run.precision=float32 may be set at any time"
        )
