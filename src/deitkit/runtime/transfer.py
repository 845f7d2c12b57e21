"""Numbers on their way to the device, without the host waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def sent(values: Tensor | np.ndarray, device: torch.device) -> Tensor:
    """`values` on `device`; on CUDA the copy queues up behind the work that was asked for before.

    A plain copy to CUDA makes the host wait until all of that is done, however few the numbers
    are: nothing is queued meanwhile, and then the device waits too. From pinned memory it need not;
    torch keeps that memory until the copy is over.
    """
    here = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device.type == "mps":
        # Apple's device reads the host's memory, and nothing keeps a freed part of it.
        return here.to(device)
    if device.type == "cuda" and here.device.type == "cpu":
        here = here.pin_memory()
    return here.to(device, non_blocking=True)
