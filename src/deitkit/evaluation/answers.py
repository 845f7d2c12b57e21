"""From probabilities to what is said of a picture; shared by all that predict. No torch."""

# Shapes: K classes.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np

from deitkit.flow import Prediction

Item = TypeVar("Item")


def answer(
    source: str,
    probabilities_K: np.ndarray,
    class_names: Sequence[str],
    threshold: float | None,
) -> Prediction:
    """The likeliest class of one picture, and whether the model is sure enough."""
    best = int(probabilities_K.argmax())
    probability = float(probabilities_K[best])
    return Prediction(
        source=source,
        class_name=class_names[best],
        probability=probability,
        probabilities=probabilities_K.astype(np.float32),
        abstains=threshold is not None and probability < threshold,
    )


def in_blocks_of(size: int, items: Iterator[Item]) -> Iterator[list[Item]]:
    """The items in lists of `size`, the last one shorter."""
    block: list[Item] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
