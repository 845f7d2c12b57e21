"""A function over many rows on a few threads: results in order, memory bounded, Ctrl-C at once."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

_CHUNK_ROWS = 16
_WAITING_CHUNKS = 2
"""Chunks finished or running ahead, for each thread."""


def num_decode_threads() -> int:
    """Cores this process may use, at most 8: Pillow decodes without the interpreter lock."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # No affinity on macOS and Windows.
        cores = os.cpu_count() or 1
    return min(8, cores)


def map_rows(
    function: Callable[[int], Result], num_rows: int, *, num_threads: int
) -> Generator[Result, None, None]:
    """`function(0)`, `function(1)`, ... in order.

    When the caller stops, by an exception or an interrupt, no further row is begun.
    """
    if num_threads <= 1:
        yield from map(function, range(num_rows))
        return
    stop = threading.Event()

    def run_chunk(first: int) -> list[Result]:
        results = []
        for row in range(first, min(first + _CHUNK_ROWS, num_rows)):
            if stop.is_set():
                break
            results.append(function(row))
        return results

    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="decode")
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for first in range(0, num_rows, _CHUNK_ROWS):
            waiting.append(executor.submit(run_chunk, first))
            if len(waiting) > _WAITING_CHUNKS * num_threads:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        stop.set()
        executor.shutdown(wait=False, cancel_futures=True)
