"""An optimizer's step that may be left out without anybody asking the device whether it was."""

from __future__ import annotations

import torch
from torch import Tensor


def step_unless(skipped: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """`optimizer.step()`, but where `skipped` (a bool scalar on the weights' device) weights and
    moments keep every bit.

    Every optimizer of `OPTIMIZERS` reads `found_inf`, torch's fused ones as its GradScaler sets it:
    their kernels return before they write, and the step counters are set back.
    """
    if isinstance(optimizer, torch.optim.SGD):
        _begin_momentum(optimizer)
    optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]


def _begin_momentum(optimizer: torch.optim.SGD) -> None:
    """Momentum begins at zero: torch makes it of the first gradient, and leaves it as the memory
    was where that one is skipped."""
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            if parameter.grad is not None and not optimizer.state[parameter]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
