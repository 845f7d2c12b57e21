"""Items worked on ahead of their reader: in order, never too many, none after the reader left."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from deitkit.data.threads import map_ahead


def counted(asked: list[int], num: int = 50) -> Iterator[int]:
    for item in range(num):
        asked.append(item)
        yield item


@pytest.mark.parametrize("num_threads", [1, 2, 5])
def test_in_order_whatever_takes_longer(num_threads):
    def slow_if_even(item: int) -> int:
        time.sleep(0.004 * (item % 2 == 0))
        return item * item

    found = list(map_ahead(slow_if_even, range(40), num_threads=num_threads))
    assert found == [item * item for item in range(40)]


def test_two_a_thread_are_begun_and_no_more():
    """Six of fifty when the first is handed over, one more for each that is taken."""
    asked: list[int] = []
    found = map_ahead(lambda item: item, counted(asked), num_threads=3)
    for taken in range(5):
        assert next(found) == taken
        assert len(asked) == 6 + taken
    found.close()
    assert len(asked) == 10


def test_they_run_beside_each_other():
    """Each waits for the other: one after the other they would wait for ever."""
    together = threading.Barrier(2, timeout=20)
    assert len(list(map_ahead(lambda item: together.wait(), range(4), num_threads=2))) == 4


def test_an_error_comes_in_its_place():
    found = map_ahead(lambda item: 6 // (3 - item), range(9), num_threads=2)
    assert [next(found), next(found), next(found)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)
