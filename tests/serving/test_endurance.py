"""Many requests, a third of them bad: nothing grows. S32 in short; its length is in benchmarks/."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tests.serving.process import Process
from tests.serving.toy import encoded, picture_bytes

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
