"""Many requests, a third of them bad: nothing grows. S32 in short; its length is in benchmarks/."""

from __future__ import annotations

import time

import numpy as np
import pytest
from PIL import Image

from deitkit.runtime import threads
from deitkit.serving import memory
from deitkit.serving import service as service_module
from tests.serving.client import wait_until
from tests.serving.process import Process
from tests.serving.running import running
from tests.serving.toy import Toy, encoded, picture_bytes

WARM, NUM = 100, 600


def test_s32_files_threads_and_memory_stay(process: Process):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)
    good = [picture_bytes(), encoded(Image.fromarray(pixels), "JPEG")]
    bad = [b"", b"text", good[1][:-200], picture_bytes(size=(1, 1))]
    seen = []
    for number in range(NUM):
        if number % 10 < 7:
            assert process.ask(good[number % 2]).status_code == 200
        elif number % 10 == 7:
            files = ("a", good[0]), ("b", bad[number // 10 % 4])
            assert process.send(*files).status_code == 200
        else:
            assert process.ask(bad[number // 10 % 4]).status_code in (400, 422)
        if number >= WARM and number % 50 == 0:
            seen.append((process.num_files, process.num_threads, process.kilobytes("VmRSS")))
    files, threads, kilobytes = zip(*seen, strict=True)
    assert len(set(files)) == 1
    assert len(set(threads)) == 1
    assert kilobytes[-1] - kilobytes[0] <= 8_000


@pytest.mark.parametrize(
    ("environment", "calls"), [({}, [(-8, 1)]), ({"MALLOC_ARENA_MAX": "4"}, [])]
)
def test_s32_threads_share_their_memory_unless_the_user_chose(monkeypatch, environment, calls):
    """glibc's mallopt(M_ARENA_MAX, 1)."""
    made: list[tuple[int, int]] = []

    class Glibc:
        def __init__(self, name: None) -> None:
            self.mallopt = lambda *arguments: made.append(arguments)

    monkeypatch.setattr(threads.sys, "platform", "linux")
    monkeypatch.setattr(threads.ctypes, "CDLL", Glibc)
    monkeypatch.setattr(memory.os, "environ", environment)
    memory.share_memory()
    assert made == calls


def test_s32_free_memory_is_given_back_after_work_and_only_then(monkeypatch):
    given_back: list[int] = []
    monkeypatch.setattr(service_module, "REST_S", 0.05)
    monkeypatch.setattr(service_module, "memory_returner", lambda: lambda: given_back.append(1))
    toy = Toy()
    with running(toy) as here:
        wait_until(lambda: len(given_back) == 1)  # after the picture that warmed it up
        here.ask(picture_bytes())
        wait_until(lambda: len(given_back) == 2)
        time.sleep(0.3)
        assert len(given_back) == 2
