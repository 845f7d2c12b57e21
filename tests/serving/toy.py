"""Models that answer at once, slowly, wrongly or not at all; and pictures for them."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from deitkit.data import DecodePolicy

CARD = {"name": "toy", "deitkit": "0", "classes": ["dark", "light"]}


def lightness(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """[N, 2]: how light a picture is, by hand; the answer to it depends on it alone."""
    light_N = np.array([picture.mean() / 255 for picture in pictures])
    return np.stack([1 - light_N, light_N], axis=1)


@dataclass
class Toy:
    """Says how light pictures are, after `seconds`, by `answers`; notes the size of each batch."""

    answers: Callable[[Sequence[np.ndarray]], Any] = lightness
    seconds: float = 0.0
    class_names: tuple[str, ...] = ("dark", "light")
    threshold: float | None = None
    decode_policy: DecodePolicy = field(default_factory=DecodePolicy)
    batches: list[int] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    """While it is not set, no answer comes."""

    def __post_init__(self) -> None:
        self.gate.set()

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray:
        self.batches.append(len(pictures))
        time.sleep(self.seconds)
        assert self.gate.wait(30), "the test did not open the gate"
        return self.answers(pictures)


def picture_bytes(
    level: int = 100, *, size: tuple[int, int] = (32, 24), kind: str = "PNG"
) -> bytes:
    """An even grey picture of `level` 0 to 255, encoded."""
    return encoded(Image.new("RGB", size, (level, level, level)), kind)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
