"""What a request waits for, it waits for only so long."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import busy


@contextlib.asynccontextmanager
async def waiting_until(deadline: float, meter: Meter) -> AsyncIterator[None]:
    """What is awaited inside comes by `deadline`, a time of the event loop.

    Raises:
        Refused: busy, it did not (FAULTS S13); that is counted.
    """
    try:
        async with asyncio.timeout_at(deadline):
            yield
    except TimeoutError as error:
        meter.count_dropped("deadline")
        raise busy() from error
