"""What a decided run will take, and at its end what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from deitkit.api.report_pictures import NUM_SHOWN
from deitkit.api.teacher_report import NUM_LATENCY_RUNS, NUM_VIEWS
from deitkit.config import RunConfig, settled
from deitkit.runtime.memory import peak_memory_bytes

if TYPE_CHECKING:
    from deitkit.training.assemble import Assembly
    from deitkit.training.forecast import Costs, Forecast, Work
    from deitkit.training.spending import Spending

LATER_BYTES = 40_000_000
"""What a process takes after the first steps that nothing before them shows: the parts of the
report, buffers that grow. A round number that fits benchmarks/planner.py."""
PICTURE_BYTES = 40
"""For each value of a picture, the most that laying a map over it takes in the report."""


def forecast_run(
    config: RunConfig, probe: Assembly, costs: Costs, spending: Spending, *, has_teacher: bool
) -> Forecast:
    """Seconds by part, and memory, of the run that `config` decides; `probe` was timed.

    What `spending` holds is taken as it is. Every view is counted as asked about, also those that
    a cache of the teacher's answers already has.
    """
    from deitkit.training.forecast import Forecast, Work, in_order, later_seconds
    from deitkit.training.spending import ASKING
    from deitkit.training.teacher_choices import num_taught_steps

    steps, per_epoch = settled(config.schedule.steps), probe.steps.steps_per_epoch
    view_epochs, until = settled(config.distill.view_epochs), settled(config.distill.until)
    asked_steps = min(steps, view_epochs * per_epoch) if view_epochs else steps
    if until < 1:
        asked_steps = num_taught_steps(steps, steps_per_epoch=per_epoch, until=until)
    work = Work(
        steps=steps,
        asked_steps=asked_steps if has_teacher else 0,
        eval_interval=settled(config.schedule.eval_interval),
        checkpoint_interval=settled(config.schedule.checkpoint_interval),
        num_models=1 if probe.state.average is None else 2,
        num_val=len(probe.dataset.val),
        num_pictures=2 * NUM_SHOWN if config.run.report else 0,
        num_compared=NUM_LATENCY_RUNS if has_teacher else 0,
        batch_size=settled(config.optim.batch_size),
    )
    seconds = dict(spending.seconds)
    if has_teacher:
        # The table of the teacher, before the first step, shows it views.
        views = min(NUM_VIEWS, len(probe.steps.images))
        seconds[ASKING] = seconds.get(ASKING, 0.0)
        seconds[ASKING] += views * costs.teacher_step_s / work.batch_size
    seconds |= later_seconds(costs, work)
    later_bytes = LATER_BYTES
    if config.run.report:
        largest = int(probe.dataset.val.sizes.astype(int).prod(axis=1).max())
        later_bytes += PICTURE_BYTES * config.data.channels * largest
    return Forecast(
        seconds=in_order(seconds),
        memory_bytes=peak_memory_bytes() + later_bytes,
        rests_on=tuple(_rests_on(costs, work, later_bytes)),
    )


def _rests_on(costs: Costs, work: Work, later_bytes: int) -> list[str]:
    """The measurements behind the numbers."""
    said = [f"a step of {work.batch_size} images took {1000 * costs.step_s:.0f} ms here"]
    if work.asked_steps:
        said.append(
            f"the teacher adds {1000 * costs.teacher_step_s:.0f} ms to {work.asked_steps:,} of "
            f"{work.steps:,} steps"
        )
    said.append(
        f"{work.num_val:,} validation images take {costs.evaluation_s:.1f} s, a checkpoint "
        f"{costs.checkpoint_s:.2f} s"
    )
    said.append(
        "memory: the most that this process held while steps, an evaluation and a save were tried, "
        f"and {later_bytes / 1e6:.0f} MB for what comes later; loader workers have theirs beside it"
    )
    return said


def spent_facts(spending: Spending) -> dict[str, Any]:
    """What a command took, to lay beside its forecast."""
    from deitkit.training.forecast import in_order

    seconds = in_order(spending.seconds)
    return {
        "total_s": round(sum(seconds.values()), 2),
        "seconds": {part: round(value, 2) for part, value in seconds.items()},
        "memory_bytes": peak_memory_bytes(),
    }
