"""A function over many rows on a few threads: results in order, memory bounded, Ctrl-C at once."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from deitkit.runtime.processors import usable_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK_ROWS = 16
_WAITING_CHUNKS = 2
"""Chunks finished or running ahead, for each thread."""


def num_decode_threads() -> int:
    """Processors this process may use, at most 8: Pillow decodes without the interpreter lock."""
    return min(8, usable_cpus())


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


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int
) -> Generator[Result, None, None]:
    """`function` of each item, in order, while the caller works on those before.

    At most two for each thread are begun or wait: what they hold may be large. `items` are asked
    for in the caller's own thread. When the caller stops, no further item is begun.
    """
    if num_threads <= 1:
        yield from map(function, items)
        return
    executor = ThreadPoolExecutor(num_threads, thread_name_prefix="ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) == 2 * num_threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
