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

from deitkit.serving.metrics import Meter
from deitkit.serving.refusals import Refused, busy

MAX_BATCH = 16
MAX_FAILURES = 3
"""So many batches in a row may fail before the server says that it is not ready."""

Ask = Callable[[Sequence[np.ndarray]], np.ndarray]
"""Pictures uint8 [H, W, C] -> probabilities [N, K]."""


@dataclass(eq=False)
class _Waiting:
    picture_HWC: np.ndarray
    deadline: float
    answer: asyncio.Future[np.ndarray]


class Batcher:
    """Whatever waits when the worker is free becomes its next batch: no request waits for others.

    The answer to a picture depends on it alone: a batch that fails is asked again one by one.
    """

    def __init__(self, ask: Ask, *, meter: Meter, wait_timeout_s: float) -> None:
        self._ask = ask
        self._meter = meter
        self._wait_timeout_s = wait_timeout_s
        self._queue: deque[_Waiting] = deque()
        self._filled = asyncio.Event()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="deitkit-answers")
        self._task: asyncio.Task[None] | None = None
        self.num_failures = 0
        """Batches that failed since the last that did not."""

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

    async def answer(self, picture_HWC: np.ndarray) -> np.ndarray:
        """Probabilities [K] of one picture. Cancelled, it leaves the queue.

        Raises:
            Refused: busy, its turn did not come in time (FAULTS S13); model_failed (S15).
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_timeout_s
        waiting = _Waiting(picture_HWC, deadline, loop.create_future())
        self._queue.append(waiting)
        self._meter.set_waiting(len(self._queue))
        self._filled.set()
        return await waiting.answer

    async def run(self, work: Callable[[], Any]) -> Any:
        """Other work for the model, in turn with its batches."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def _serve(self) -> None:
        while True:
            await self._filled.wait()
            batch = self._next_batch()
            if batch:
                await self._answer_batch(batch)

    def _next_batch(self) -> list[_Waiting]:
        """The oldest that somebody still waits for."""
        now = asyncio.get_running_loop().time()
        batch: list[_Waiting] = []
        while self._queue and len(batch) < MAX_BATCH:
            waiting = self._queue.popleft()
            if waiting.answer.done():
                self._meter.count_dropped("client_gone")
            elif waiting.deadline < now:
                self._meter.count_dropped("deadline")
                waiting.answer.set_exception(busy())
            else:
                batch.append(waiting)
        self._meter.set_waiting(len(self._queue))
        if not self._queue:
            self._filled.clear()
        return batch

    async def _answer_batch(self, batch: list[_Waiting]) -> None:
        rows = await self._asked([waiting.picture_HWC for waiting in batch])
        if rows is None and len(batch) > 1:
            for waiting in batch:
                self._give(waiting, await self._asked([waiting.picture_HWC]))
            return
        for place, waiting in enumerate(batch):
            self._give(waiting, None if rows is None else rows[place : place + 1])

    async def _asked(self, pictures: list[np.ndarray]) -> np.ndarray | None:
        """Probabilities [N, K]; None where the model failed or said what is no number."""
        self._meter.observe_batch(len(pictures))
        loop = asyncio.get_running_loop()
        try:
            rows_NK = await loop.run_in_executor(self._worker, self._ask, pictures)
        except Exception:  # whatever it is, these requests end with 500 and the server lives
            return None
        return rows_NK if np.isfinite(rows_NK).all() else None

    def _give(self, waiting: _Waiting, row_1K: np.ndarray | None) -> None:
        if row_1K is None:
            self.num_failures += 1
            self._meter.count_failure()
        else:
            self.num_failures = 0
        if waiting.answer.done():
            return
        if row_1K is None:
            failed = Refused(500, "model_failed", "the model has no answer to this picture")
            waiting.answer.set_exception(failed)
        else:
            waiting.answer.set_result(row_1K[0])
