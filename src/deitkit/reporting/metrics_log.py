"""metrics.jsonl: one JSON object a line, each step at most once whatever was interrupted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deitkit.runtime.durable import write_file
from deitkit.training.events import Evaluated, StepDone

if TYPE_CHECKING:
    from torch import Tensor


class MetricsLog:
    """Appends events to a file; `rewind` drops what a resumed run will write again."""

    def __init__(self, path: Path, *, enabled: bool) -> None:
        self.path = path
        self.enabled = enabled
        self._file: IO[str] | None = None

    def rewind(self, step: int) -> None:
        """Keep the lines up to `step`, and none that a kill cut short."""
        if not self.enabled or not self.path.is_file():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue
        write_file(self.path, "".join(kept).encode())

    def write(self, event: StepDone | Evaluated, *, log_interval: int) -> None:
        """Add `event`; of the steps only every `log_interval`-th and those that were skipped."""
        if not self.enabled:
            return
        if isinstance(event, Evaluated):
            self._append(
                {
                    "event": "evaluated",
                    "step": event.step,
                    "epoch": event.epoch,
                    "scores": event.scores,
                    "best": event.best,
                }
            )
        elif event.skipped or event.step % log_interval == 0 or event.step == 1:
            self._append(
                {
                    "event": "step",
                    "step": event.step,
                    "epoch": round(event.epoch, 4),
                    "lr": event.lr,
                    "loss": _finite(event.losses.total),
                    "label_loss": _finite(event.losses.label),
                    "distill_loss": _finite(event.losses.distill),
                    "grad_norm": _finite(event.grad_norm),
                    "skipped": event.skipped,
                    **({} if event.image_size is None else {"image_size": event.image_size}),
                }
            )

    def _append(self, record: dict[str, Any]) -> None:
        if self._file is None:
            self._file = self.path.open("a", encoding="utf-8")
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._file is not None:
            self._file.close()


def _finite(value: Tensor) -> float | None:
    """The number, or None (null): NaN and infinity are no JSON."""
    number = float(value)
    return number if math.isfinite(number) else None
