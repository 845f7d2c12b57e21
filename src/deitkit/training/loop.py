"""The loop: steps, evaluations, checkpoints, and how it ends. It tells; others show."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deitkit.artifacts.checkpoint import rotate, save_checkpoint
from deitkit.errors import (
    CheckpointError,
    DivergedError,
    ModelFileError,
    ResourceError,
    StoppedError,
)
from deitkit.flow import Batch
from deitkit.models import ImageModel
from deitkit.training.events import Evaluated, Event, Finished, Saved, StepDone, Warned
from deitkit.training.parts import TrainParts
from deitkit.training.selection import Scores, better_of, is_kept, num_stale
from deitkit.training.state import TrainState
from deitkit.training.step import train_step
from deitkit.training.telling import Telling

MAX_BAD_STEPS = 3
MAX_FAILED_SAVES = 3
KEPT_CHECKPOINTS = 2


class Stop(Protocol):
    """Set from outside when the run should end early."""

    signal_number: int | None


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The stretch from wherever `state` stands to the last step."""

    state: TrainState
    parts: TrainParts
    batches: Callable[[int, int], Generator[Batch]]
    validate: Callable[[ImageModel, Callable[[], bool]], Scores | None]
    """Scores of a model on the validation images, or None when the callable asks to stop."""
    save_best: Callable[[ImageModel, dict[str, Any]], None]
    folder: Path
    """Holds the checkpoints."""
    total_steps: int
    eval_interval: int
    checkpoint_interval: int
    lineage: str
    machine: dict[str, Any]
    stop: Stop
    patience: int = 0
    """Evaluations without improvement that end it before the last step; 0 for none."""

    def events(self) -> Iterator[Event]:
        """Train; yield what happens. Closing the iterator saves a checkpoint first.

        Raises:
            StoppedError: a signal came; the checkpoint is saved.
            CheckpointError: CACHE_GONE, the teacher's cache was removed; the checkpoint is saved.
            DivergedError: several steps in a row without a finite gradient.
            ResourceError: checkpoints could not be written, several times in a row.
        """
        clock = _Clock(self.state.seconds)
        saved = self._progress()
        failed_saves = 0
        telling = Telling(int(self.state.bad_in_a_row))
        batches = self.batches(self.state.step, self.total_steps)
        # Before training one rank works for all, and is waited for.
        self.parts.world.slow_ranks()
        try:
            while True:
                stops = self._asked_to_stop()
                if stops or self._pauses(saved):
                    yield from self._told(telling.rest(), telling)
                if stops:
                    yield from self._save_and_raise(clock, saved)
                if self._evaluation_is_due():
                    evaluated = self._evaluate()
                    if evaluated is None:
                        continue
                    yield evaluated
                if self._checkpoint_is_due(saved):
                    try:
                        yield self._save(clock)
                        failed_saves = 0
                    except ResourceError as error:
                        failed_saves += 1
                        if failed_saves == MAX_FAILED_SAVES:
                            raise
                        yield Warned(f"no checkpoint at step {self.state.step}: {error}")
                    saved = self._progress()
                if self._is_over():
                    break
                batch = next(batches)
                try:
                    with self.parts.world.lost_ranks_told():
                        done = train_step(self.state, batch, self.parts)
                except CheckpointError as error:
                    # CACHE_GONE, before the step changed anything.
                    yield from self._told(telling.rest(), telling)
                    if self._progress() != saved:
                        yield self._save(clock)
                    raise error
                if done.step % self.parts.steps_per_epoch == 0:
                    self.parts.teacher.end_epoch(self.parts.world)
                yield from self._told(telling.add(done), telling)
        except GeneratorExit:
            if self._progress() != saved:
                self._save(clock)
            raise
        finally:
            # An error's traceback would keep the loader and its workers alive, and they leave
            # signals to us: the process could not end.
            batches.close()
        if self.state.step < self.total_steps:
            yield Warned(
                f"ended early, after step {self.state.step:,} of {self.total_steps:,}: "
                f"{self.patience} evaluations brought neither a higher accuracy nor a higher "
                "likelihood (schedule.patience)"
            )
        self.state.seconds = clock.seconds()
        yield Finished(step=self.state.step, seconds=clock.seconds(), best=dict(self.state.best))

    def _is_over(self) -> bool:
        """The last step is done, or patience is out: told by what a checkpoint holds."""
        is_stale = 0 < self.patience <= num_stale(self.state.history)
        return is_stale or self.state.step >= self.total_steps

    def _progress(self) -> tuple[int, int]:
        """Steps done, and those done at the last evaluation: what a checkpoint may lack."""
        return self.state.step, self.state.evaluated_step

    def _told(self, steps: Iterator[StepDone], telling: Telling) -> Iterator[Event]:
        for done in steps:
            yield done
            yield from (Warned(text) for text in self.parts.world.slow_ranks())
            _check_finite(done, telling.bad_in_a_row)

    def _pauses(self, saved: tuple[int, int]) -> bool:
        """Whether something else than the next step is due."""
        return self._is_over() or self._evaluation_is_due() or self._checkpoint_is_due(saved)

    def _asked_to_stop(self) -> bool:
        """All ranks stop at the same step."""
        return self.parts.world.any(self.stop.signal_number is not None)

    def _save_and_raise(self, clock: _Clock, saved: tuple[int, int]) -> Iterator[Event]:
        if self._progress() != saved:
            yield self._save(clock)
        number = self.stop.signal_number or 15
        after = f"after step {self.state.step} of {self.total_steps}, checkpoint saved"
        raise StoppedError(
            number,
            self.folder.parent,
            f"stopped {after if self.state.step else 'before the first step'}",
            f"go on with `deitkit train out={self.folder.parent}`",
        )

    def _evaluation_is_due(self) -> bool:
        step = self.state.step
        due = step > 0 and (step % self.eval_interval == 0 or step >= self.total_steps)
        return due and self.state.evaluated_step < step

    def _evaluate(self) -> Evaluated | None:
        """Weights and average on the validation images; the better one may be kept."""
        state = self.state
        models = {"raw": state.model}
        if state.average is not None:
            models["ema"] = state.average.model
        scores: dict[str, Mapping[str, float]] = {}
        for source, model in models.items():
            result = self._validated(model)
            if result is None:
                return None
            scores[source] = result
        winner = better_of(scores)
        is_best = is_kept(scores[winner], state.best)
        state.evaluated_step = state.step
        if is_best:
            peak = max(scores[winner]["top1"], state.best.get("peak_top1", 0.0))
            state.best = {"step": state.step, "source": winner, **scores[winner]}
            state.best["peak_top1"] = peak
            if self.parts.world.is_main:
                self.save_best(models[winner], dict(state.best))
        epoch = state.step / self.parts.steps_per_epoch
        plain = {source: dict(values) for source, values in scores.items()}
        state.history.append({"step": state.step, "epoch": epoch, "scores": plain})
        return Evaluated(
            step=state.step, epoch=epoch, scores=plain, is_best=is_best, best=dict(state.best)
        )

    def _validated(self, model: ImageModel) -> Scores | None:
        try:
            return self.validate(model, self._stop_now)
        except ModelFileError as error:
            raise DivergedError(
                "NOT_FINITE",
                f"step {self.state.step}",
                error.why,
                "lower lr= or set optim.clip_norm=1; the best weights so far are in best/",
            ) from error

    def _stop_now(self) -> bool:
        """Asked between two batches of an evaluation, where ranks need not agree yet."""
        return self.parts.world.world_size == 1 and self.stop.signal_number is not None

    def _checkpoint_is_due(self, saved: tuple[int, int]) -> bool:
        step = self.state.step
        due = step % self.checkpoint_interval == 0 or self._is_over()
        return due and self._progress() != saved

    def _save(self, clock: _Clock) -> Saved:
        path = self.folder / f"step-{self.state.step:08d}"
        self.state.seconds = clock.seconds()
        with contextlib.suppress(CheckpointError):
            # Of a cache that was removed the next step tells.
            self.parts.teacher.flush()
        if self.parts.world.is_main:
            tensors, numbers = self.state.pack()
            path = save_checkpoint(
                self.folder,
                step=self.state.step,
                tensors=tensors,
                state=numbers,
                lineage=self.lineage,
                machine=self.machine,
            )
            rotate(self.folder, keep=KEPT_CHECKPOINTS)
        return Saved(step=self.state.step, path=str(path))


def _check_finite(done: StepDone, bad_in_a_row: int) -> None:
    if bad_in_a_row < MAX_BAD_STEPS:
        return
    raise DivergedError(
        "NOT_FINITE",
        f"step {done.step}",
        f"{MAX_BAD_STEPS} steps in a row had no finite gradient (learning rate {done.lr:.3g}, "
        f"gradient norm {float(done.grad_norm):.3g}, sample ids "
        f"{', '.join(f'{i:016x}' for i in done.sample_ids[:8])})",
        "lower lr= or set optim.clip_norm=1; the best weights so far are in best/",
    )


class _Clock:
    """Seconds of training, earlier stretches included."""

    def __init__(self, earlier_s: float) -> None:
        self.earlier_s = earlier_s
        self.start_s = time.monotonic()

    def seconds(self) -> float:
        return self.earlier_s + time.monotonic() - self.start_s
