"""ranks=auto: one rank a core, or one process with a thread a core, whichever is the faster here.

The ranks are there before it is known whether they win: all time a few steps, then the first alone
times the same steps while the others wait. Where it wins they leave, and it goes on alone.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from deitkit.config import settled
from deitkit.errors import ConfigError

if TYPE_CHECKING:
    from deitkit.runtime.world import World
    from deitkit.training.assemble import Assembly
    from deitkit.training.resolution import Resolution

MUST_WIN = 1.05
"""Ranks cost memory and processes: they are taken where they are faster by this factor."""
NUM_ROUNDS = 2
"""In turn, so that what else the machine does meets both."""
GIVEN = "the processes of this command; ranks=N, ranks=auto or torchrun use more"
BY_DEVICE = "one for each CUDA device"
BY_STUDENT = "those of its student"


class RankNotNeeded(Exception):  # noqa: N818 - nothing went wrong
    """This rank leaves: the first is faster alone."""


class Arranged(NamedTuple):
    """The ranks that go on, what was chosen for them, and how fast they are."""

    world: World
    resolution: Resolution
    probe: Assembly
    """What was timed; its state is spoilt."""
    step_s: float
    evaluation_s: float


def arrange_ranks(
    world: World,
    resolve: Callable[[int], Resolution],
    build: Callable[[Resolution, World], Assembly],
    *,
    keeps_all: bool,
    limit_s: float,
    told: Callable[[int, int], None],
) -> Arranged:
    """Time a few steps on the ranks there are, and, where the launcher left it open, on one.

    `resolve` chooses what depends on the number of ranks. With `keeps_all` none leaves. Timing
    takes at most `limit_s`.

    Raises RankNotNeeded on the ranks that leave.
    """
    from deitkit.runtime.launch import may_go_alone
    from deitkit.training.timing import measure

    together = resolve(world.world_size)
    if world.device.type != "cpu" or not may_go_alone() or keeps_all:
        why = BY_STUDENT if keeps_all else BY_DEVICE if may_go_alone() else GIVEN
        together.settle_ranks(world.world_size, why)
        probe = build(together, world)
        return Arranged(world, together, probe, *measure(probe, limit_s=limit_s, progress=told))

    from deitkit.runtime.device import all_cores
    from deitkit.runtime.world import World as OneProcess

    alone, lone = OneProcess(device=world.device), resolve(1)
    together.settle_ranks(world.world_size, "")
    lone.settle_ranks(1, "")
    try:
        probes = build(together, world), build(lone, alone) if world.is_main else None
    except ConfigError as error:
        return _leave_or_go_on(world, alone, lone, build, limit_s, told, f"not more: {error.why}")
    times: list[Any] = []
    for _ in range(NUM_ROUNDS):
        times.append([measure(probes[0], limit_s=limit_s / 2 / NUM_ROUNDS, progress=told)])
        if probes[1] is not None:
            with all_cores():
                share_s = limit_s / 2 / NUM_ROUNDS
                times[-1].append(measure(probes[1], limit_s=share_s, progress=told))
        world.barrier()
    times = world.broadcast_json(times)
    ranks_s, alone_s = (min(one[k][0] for one in times) for k in range(2))
    gain = (alone_s / _batch(lone)) / (ranks_s / _batch(together))
    said = f"{1000 * ranks_s:.0f} ms a step on {world.world_size} ranks"
    said += f", {1000 * alone_s:.0f} ms in one process with all threads"
    if gain < MUST_WIN:
        return _leave_or_go_on(world, alone, lone, build, limit_s / 2, told, said)
    together.settle_ranks(world.world_size, said)
    # The best round of each compares them; what is to come is like all rounds.
    step_s = fmean(one[0][0] for one in times)
    return Arranged(world, together, probes[0], step_s, times[-1][0][1])


def _leave_or_go_on(
    world: World,
    alone: World,
    lone: Resolution,
    build: Callable[[Resolution, World], Assembly],
    limit_s: float,
    told: Callable[[int, int], None],
    why: str,
) -> Arranged:
    """The first rank alone from here; no other is needed."""
    from deitkit.runtime.device import use_all_cores
    from deitkit.training.timing import measure

    world.close()
    if not world.is_main:
        raise RankNotNeeded
    use_all_cores()
    lone.settle_ranks(1, why)
    probe = build(lone, alone)
    return Arranged(alone, lone, probe, *measure(probe, limit_s=limit_s, progress=told))


def _batch(resolution: Resolution) -> int:
    return int(settled(resolution.config.optim.batch_size))
