"""Bytes of a request -> pixels, or the reason why not; on a few threads, in bounded memory."""

# Shapes: H height, W width, C channels.

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from deitkit.data import REASONS, DecodeFault, DecodePolicy, decode
from deitkit.serving.deadline import waiting_until
from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import Refused

STATUS = {"too_large": 422, "too_small": 422, "value_range": 422}
"""HTTP's status of a picture that is one, but not one to answer; the others are 400."""
CODES = {"empty_file": "not_an_image", "decode_error": "not_an_image"}
NUM_THREADS = 2
ROOM_BYTES = 256_000_000
"""Pixels that may wait for the model. A picture of 100 kB can hold 150 MB of them."""


def decode_picture(encoded: bytes, policy: DecodePolicy) -> np.ndarray:
    """uint8 [H, W, C], upright and opaque.

    Raises:
        Refused: not_an_image, truncated, format_not_allowed, too_large, too_small, value_range.
    """
    try:
        return decode(encoded, policy)
    except DecodeFault as fault:
        raise Refused(
            STATUS.get(fault.reason, 400),
            CODES.get(fault.reason, fault.reason),
            REASONS[fault.reason],
        ) from fault


class Decoder:
    """Decodes on a few threads, and none while what is decoded already fills the room."""

    def __init__(self, policy: DecodePolicy, *, meter: Meter, room_bytes: int = ROOM_BYTES) -> None:
        self._policy = policy
        self._meter = meter
        self._room_bytes = room_bytes
        self._threads = ThreadPoolExecutor(NUM_THREADS, thread_name_prefix="deitkit-decodes")
        self._turns = asyncio.Semaphore(NUM_THREADS)
        self._has_room = asyncio.Event()
        self._num_bytes = 0
        self._hold(0)

    @contextlib.asynccontextmanager
    async def decoded(self, encoded: bytes, deadline: float) -> AsyncIterator[np.ndarray]:
        """The pixels, uint8 [H, W, C]; they take room until this ends.

        Raises:
            Refused: as `decode_picture`; busy, its turn did not come by `deadline`.
        """
        picture_HWC = await self._decode(encoded, deadline)
        self._hold(picture_HWC.nbytes)
        try:
            yield picture_HWC
        finally:
            self._hold(-picture_HWC.nbytes)

    def close(self) -> None:
        """Decode nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _decode(self, encoded: bytes, deadline: float) -> np.ndarray:
        async with waiting_until(deadline, self._meter):
            await self._turns.acquire()
        try:
            async with waiting_until(deadline, self._meter):
                await self._has_room.wait()
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, decode_picture, encoded, self._policy)
        finally:
            self._turns.release()

    def _hold(self, num_bytes: int) -> None:
        self._num_bytes += num_bytes
        if self._num_bytes < self._room_bytes:
            self._has_room.set()
        else:
            self._has_room.clear()
