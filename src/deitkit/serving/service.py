"""One model being served: pictures decoded, answered in batches, and put into words."""

# Shapes: H height, W width, C channels, K classes.

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np

from deitkit.data import DecodePolicy
from deitkit.evaluation.answers import answer
from deitkit.serving.batching import Batcher
from deitkit.serving.memory import memory_returner
from deitkit.serving.metrics import Meter
from deitkit.serving.pictures import Decoder
from deitkit.serving.refusals import Refused

NUM_TOP = 10
WAIT_TIMEOUT_S = 10.0
PROBE_INTERVAL_S = 5.0
REST_S = 1.0
"""Without a picture waiting, before memory is given back;"""
TIDY_INTERVAL_S = 10.0
"""and while there always is one: it costs a hundredth of the time."""


class Answerer(Protocol):
    """A model that answers: a Predictor or an OnnxPredictor."""

    @property
    def decode_policy(self) -> DecodePolicy: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def threshold(self) -> float | None: ...

    def probabilities(self, pictures: Sequence[np.ndarray]) -> np.ndarray: ...


Explain = Callable[[np.ndarray], Mapping[str, Any]]
"""A picture uint8 [H, W, C] -> class, box and heads, as /v1/explain gives them."""


@dataclass(eq=False)
class Service:
    """One model being served."""

    model: Answerer
    card: Mapping[str, Any]
    explain: Explain | None
    meter: Meter = field(default_factory=Meter)
    wait_timeout_s: float = WAIT_TIMEOUT_S
    """From the last byte of a request until the model begins on it."""
    probe_interval_s: float = PROBE_INTERVAL_S
    is_warm: bool = False
    is_stopping: bool = False

    def __post_init__(self) -> None:
        self.batcher = Batcher(
            lambda pictures: self.model.probabilities(pictures), meter=self.meter
        )
        self.decoder = Decoder(self.model.decode_policy, meter=self.meter)
        self._return_memory = memory_returner()

    @property
    def is_ready(self) -> bool:
        return self.is_warm and self.batcher.is_well and not self.is_stopping

    def stop(self) -> None:
        """Say that no more pictures are welcome."""
        self.is_stopping = True

    async def close(self) -> None:
        """Answer nothing more."""
        await self.batcher.close()
        self.decoder.close()

    async def keep_warm(self) -> None:
        """Ask about a grey picture before the first real one comes (FAULTS S19), and while ill.

        A server that says that it is not ready may get no other picture to recover with.
        """
        grey_HWC = np.full((64, 64, self.model.decode_policy.channels), 128, np.uint8)
        while True:
            if not (self.is_warm and self.batcher.is_well):
                with contextlib.suppress(Refused):
                    await self.batcher.answer(grey_HWC, self._deadline())
                    self.is_warm = True
            await asyncio.sleep(self.probe_interval_s)

    async def keep_tidy(self) -> None:
        """Give free memory back when there is time for it, or it has been too long (FAULTS S32)."""
        loop = asyncio.get_running_loop()
        num_before, last = 0, loop.time()
        while True:
            await asyncio.sleep(REST_S)
            is_due = self.batcher.is_idle or loop.time() - last >= TIDY_INTERVAL_S
            if is_due and self.batcher.num_begun != num_before:
                with contextlib.suppress(Refused):
                    await self.batcher.run(self._return_memory, self._deadline())
                num_before, last = self.batcher.num_begun, loop.time()

    async def predict(self, encoded: bytes, name: str | None) -> dict[str, Any]:
        """What is said of one picture. Raises Refused."""
        deadline = self._deadline()
        async with self.decoder.decoded(encoded, deadline) as picture_HWC:
            probabilities_K = await self.batcher.answer(picture_HWC, deadline)
        names = self.model.class_names
        said = answer(name or "", probabilities_K, names, self.model.threshold)
        order = np.argsort(-probabilities_K, kind="stable")[:NUM_TOP]
        return {
            "name": name,
            "class": said.class_name,
            "probability": said.probability,
            "abstains": said.abstains,
            "top": [{"class": names[k], "probability": float(probabilities_K[k])} for k in order],
        }

    async def explained(self, encoded: bytes) -> Mapping[str, Any]:
        """Where the model looked. Raises Refused."""
        if self.explain is None:
            raise Refused(404, "no_explanation", "this model cannot say what it looked at")
        deadline = self._deadline()
        async with self.decoder.decoded(encoded, deadline) as picture_HWC:
            said: Mapping[str, Any] = await self.batcher.run(
                partial(self.explain, picture_HWC), deadline
            )
        return said

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self.wait_timeout_s
