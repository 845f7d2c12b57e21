"""Training on the terminal: what was found and chosen, a bar with its ETA, each evaluation."""

from __future__ import annotations

import os
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from deitkit.reporting.durations import duration
from deitkit.reporting.forecast_table import forecast_line
from deitkit.reporting.race_table import print_race
from deitkit.training.events import (
    Evaluated,
    Event,
    Finished,
    FoldsJudged,
    PartBegun,
    Planned,
    Raced,
    Saved,
    StepDone,
    Warned,
)

SHOWN_AFTER_S = 1.0
SHOWN_CHOICES = (
    "model.name",
    "model.init",
    "data.image_size",
    "data.balance",
    "schedule.steps",
    "optim.batch_size",
    "optim.lr",
    "views.crop",
    "views.flip",
    "views.mixup",
    "views.cutmix",
    "distill.kind",
)


class PatientConsole(Console):
    """A console that falls silent when its reader goes away, as `| head` does."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def make_console(*, stderr: bool = False) -> Console:
    """A console that never guesses at markup or colours names; width 0 counts as unknown."""
    stream = sys.stderr if stderr else sys.stdout
    width = None
    if not stream.isatty() or os.environ.get("COLUMNS") in ("", "0"):
        width = 100
    return PatientConsole(file=stream, markup=False, highlight=False, emoji=False, width=width)


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


class TrainingConsole:
    """Shows the events of one run; silent on ranks other than the first."""

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.console = make_console(stderr=True)
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._stage_start = 0.0
        self._rate_from: tuple[float, int] | None = None
        self._batch_size = 0
        self._part = 1
        self._said: set[str] = set()

    def progress(self, what: str, done: int, total: int | None) -> None:
        """A stage before training: its bar appears once it has lasted a second."""
        if not self.enabled:
            return
        now = time.monotonic()
        if what != self._stage:
            self.close()
            self._stage, self._stage_start = what, now
        if self._bar is None and now - self._stage_start > SHOWN_AFTER_S:
            self._open(what, total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, total=total)
            if total is not None and done >= total:
                self.close()

    def show(self, event: Event) -> None:
        if not self.enabled:
            return
        if isinstance(event, Planned):
            self._show_plan(event)
        elif isinstance(event, Warned) and (self._part == 1 or event.text not in self._said):
            self._said.add(event.text)
            self.console.print(Text("note: ", style="yellow") + Text(event.text))
        elif isinstance(event, StepDone):
            self._show_step(event)
        elif isinstance(event, Evaluated):
            self._show_evaluation(event)
        elif isinstance(event, Finished):
            self._show_end(event)
        elif isinstance(event, Raced):
            self.close()
            print_race(self.console, event.race)
        elif isinstance(event, PartBegun):
            self.close()
            self._part = event.number
            line = f"[{event.number}/{event.total}] {event.title}"
            self.console.print(line, style="bold")
        elif isinstance(event, FoldsJudged):
            from deitkit.reporting.folds_table import print_folds

            self.close()
            print_folds(self.console, event.found)
        elif isinstance(event, Saved):
            self._describe(f"saved step {event.step}")

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._task = None
        self._stage = ""

    def _open(self, what: str, total: int | None) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[said]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task(what, total=total, said="")
        self._bar.start()

    def _describe(self, said: str) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, said=said)

    def _show_plan(self, plan: Planned) -> None:
        self.close()
        self._batch_size = plan.batch_size
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column(overflow="fold")
        for name, text in plan.summary:
            grid.add_row(name, Text(text))
        chosen = {name: (value, why) for name, value, why in plan.choices}
        for name in SHOWN_CHOICES if self._part == 1 else ():
            if name in chosen:
                value, why = chosen[name]
                short = name.partition(".")[2].replace("_", " ")
                short = {"name": "chosen model", "init": "start"}.get(short, short)
                grid.add_row(short, Text(f"{value}   ({why})"))
        epochs = plan.total_steps / plan.steps_per_epoch
        length = f"{plan.total_steps:,} steps, {epochs:.1f} epochs"
        if plan.forecast is not None and plan.time_decides:
            length += "; budget=2h gives it more"
        grid.add_row("training", length)
        if plan.forecast is not None:
            grid.add_row("forecast", forecast_line(plan.forecast))
        grid.add_row("run folder", Text(plan.run_folder))
        self.console.print(grid)
        if plan.teacher is not None:
            from deitkit.reporting.teacher_table import print_teacher

            print_teacher(self.console, plan.teacher, plan.class_names)
        if plan.start_step:
            self.console.print(f"going on from step {plan.start_step:,} of {plan.total_steps:,}")
        self._open("training", plan.total_steps)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=plan.start_step)

    def _show_step(self, event: StepDone) -> None:
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, completed=event.step)
        now = time.monotonic()
        if self._rate_from is None:
            self._rate_from = (now, event.step)
            return
        since, step = self._rate_from
        if now - since > SHOWN_AFTER_S:
            rate = (event.step - step) * self._batch_size / (now - since)
            self._describe(f"epoch {event.epoch:.1f}  loss {event.loss:.3f}  {rate:,.0f} img/s")
            self._rate_from = (now, event.step)

    def _show_evaluation(self, event: Evaluated) -> None:
        self._rate_from = None
        parts = [
            f"{'weights' if source == 'raw' else 'average'} {percent(scores['top1'])}"
            for source, scores in event.scores.items()
        ]
        agreed = [s["agree_fused"] for s in event.scores.values() if "agree_fused" in s]
        if agreed:
            parts.append(f"as the teacher {percent(agreed[-1])}")
        mark = "  kept" if event.is_best else ""
        judged = any("folds" in scores for scores in event.scores.values())
        kind = "accuracy of the folds at their ends" if judged else "validation accuracy"
        line = f"epoch {event.epoch:6.1f}  {kind}: {', '.join(parts)}{mark}"
        self.console.print(line)

    def _show_end(self, event: Finished) -> None:
        self.close()
        result = event.result
        low, high = result["val_top1_interval"]
        start = "already complete; nothing was changed: " if event.already else ""
        self.console.print(
            f"{start}{percent(result['val_top1'])} of {result['num_val']:,} "
            f"{'images, each held out once,' if 'folds' in result else 'validation images'} "
            f"right (95 % interval {100 * low:.1f} to {100 * high:.1f}), {result['parameters']:,} "
            f"parameters, {duration(result['seconds'])} of training"
        )
        if "teacher" in result and not event.already:
            from deitkit.reporting.teacher_table import print_comparison

            print_comparison(self.console, result["teacher"])
