"""The numbers of metrics.jsonl for TensorBoard, which is optional (`deitkit[tensorboard]`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deitkit.runtime.optional import optional_package
from deitkit.training.events import Evaluated, StepDone

FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes events into `folder`, a file for each time the run is gone on with.

    Raises:
        ConfigError: MISSING_PACKAGE, when it is enabled.
    """

    def __init__(self, folder: Path, *, enabled: bool) -> None:
        self._writer: Any = None
        self._folder = folder
        self._enabled = enabled
        if enabled:
            optional_package("tensorboard", extra="tensorboard", subject="run.tensorboard")

    def rewind(self, step: int) -> None:
        """Hide what a resumed run writes again: TensorBoard drops points from `step` on."""
        if self._enabled:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self._folder), purge_step=step + 1)

    def write(self, event: StepDone | Evaluated, *, log_interval: int) -> None:
        """Add `event`; of the steps those that metrics.jsonl has."""
        if self._writer is None:
            return
        if isinstance(event, Evaluated):
            for source, scores in event.scores.items():
                for name in ("top1", "nll", "ece"):
                    self._writer.add_scalar(f"validation/{source}/{name}", scores[name], event.step)
        elif event.skipped or event.step % log_interval == 0 or event.step == 1:
            values: dict[str, Any] = {
                "loss/total": event.losses.total,
                "loss/label": event.losses.label,
                "loss/distill": event.losses.distill,
                "lr": event.lr,
                "grad_norm": event.grad_norm,
            }
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", float(value), event.step)

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._writer is not None:
            self._writer.close()
