"""Pictures that wait, answered together: a bounded queue in front of one worker thread."""

# Shapes: N images, H height, W width, C channels, K classes.

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from deitkit.serving.deadline import waiting_until
from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import Refused, busy

MAX_BATCH = 16
MAX_BATCH_BYTES = 64_000_000
"""A batch that has so many pixels takes no further picture."""
MAX_FAILURES = 3
"""So many pictures in a row get no answer before the server says that it is not ready."""

Ask = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Pictures uint8 [H, W, C] -> probabilities [N, K]."""


@dataclass(eq=False)
class _Waiting:
    picture_HWC: np.ndarray
    answer: asyncio.Future[np.ndarray]


class Batcher:
    """Whatever waits when the worker is free becomes its next batch: no request waits for others.

    The answer to a picture depends on it alone: a batch that fails is asked again one by one. How
    many may wait is the guard's to say.
    """

    def __init__(self, ask: Ask, *, meter: Meter) -> None:
        self._ask = ask
        self._meter = meter
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._turn = asyncio.Lock()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="deitkit-answers")
        self._task: asyncio.Task[None] | None = None
        self.num_failures = 0
        """Pictures without an answer since the last that had one."""
        self.num_begun = 0
        """Batches and other work that were begun."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing is being answered."""
        return not self._queue and not self._turn.locked()

    @property
    def is_well(self) -> bool:
        return self.num_failures < MAX_FAILURES

    def start(self) -> None:
        """Begin to answer, in the running event loop."""
        self._task = asyncio.get_running_loop().create_task(self._serve())

    async def close(self) -> None:
        """Answer nothing more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._worker.shutdown(wait=False, cancel_futures=True)

    async def answer(self, picture_HWC: np.ndarray, deadline: float) -> np.ndarray:
        """Probabilities [K] of one picture. Cancelled, it leaves the queue.

        Raises:
            Refused: busy, its turn did not come by `deadline`, a time of the event loop (FAULTS
                S13); model_failed (S15).
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(picture_HWC, loop.create_future())
        self._queue.append(waiting)
        self._meter.set_waiting(len(self._queue))
        self._filled.set()
        timer = loop.call_at(deadline, self._give_up, waiting)
        try:
            return await waiting.answer
        finally:
            timer.cancel()
            self._leaves(waiting)

    async def run(self, work: Callable[[], Any], deadline: float) -> Any:
        """Other work for the model, in turn with its batches.

        Raises:
            Refused: busy, its turn did not come by `deadline`.
        """
        async with waiting_until(deadline, self._meter):
            await self._turn.acquire()
        self.num_begun += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, work)
        finally:
            self._turn.release()

    def _give_up(self, waiting: _Waiting) -> None:
        if self._leaves(waiting) and not waiting.answer.done():
            self._meter.count_dropped("deadline")
            waiting.answer.set_exception(busy())

    def _leaves(self, waiting: _Waiting) -> bool:
        """Take it out of the queue; False where it is there no more."""
        if waiting not in self._queue:
            return False
        self._queue.remove(waiting)
        self._meter.set_waiting(len(self._queue))
        return True

    async def _serve(self) -> None:
        while True:
            await self._filled.wait()
            async with self._turn:
                batch = self._next_batch()
                if batch:
                    await self._answer_batch(batch)

    def _next_batch(self) -> list[_Waiting]:
        """The oldest."""
        batch: list[_Waiting] = []
        num_bytes = 0
        while self._queue and len(batch) < MAX_BATCH and num_bytes < MAX_BATCH_BYTES:
            batch.append(self._queue.popleft())
            num_bytes += batch[-1].picture_HWC.nbytes
        self._meter.set_waiting(len(self._queue))
        if not self._queue:
            self._filled.clear()
        return batch

    async def _answer_batch(self, batch: list[_Waiting]) -> None:
        found = await self._asked([waiting.picture_HWC for waiting in batch])
        if isinstance(found, Exception) and len(batch) > 1:
            for waiting in batch:
                self._give(waiting, await self._asked([waiting.picture_HWC]), 0)
            return
        for place, waiting in enumerate(batch):
            self._give(waiting, found, place)

    async def _asked(self, pictures: list[np.ndarray]) -> np.ndarray | Exception:
        """Probabilities [N, K], or why the model has none."""
        self._meter.observe_batch(len(pictures))
        self.num_begun += 1
        loop = asyncio.get_running_loop()
        try:
            rows_NK = await loop.run_in_executor(self._worker, self._ask, pictures)
            if len(rows_NK) != len(pictures) or not np.isfinite(rows_NK).all():
                raise ArithmeticError("the model's answer is not one row of numbers a picture")
            return rows_NK
        except Exception as error:  # whatever it is, these requests end and the server lives
            return error

    def _give(self, waiting: _Waiting, found: np.ndarray | Exception, place: int) -> None:
        is_awaited = not waiting.answer.done()
        if isinstance(found, Exception):
            self.num_failures += 1
            self._meter.count_failure()
            if is_awaited:
                waiting.answer.set_exception(_failed(found))
        else:
            self.num_failures = 0
            if is_awaited:
                waiting.answer.set_result(found[place])


def _failed(cause: Exception) -> Refused:
    refused = Refused(500, "model_failed", "the model has no answer to this picture")
    refused.__cause__ = cause
    return refused
