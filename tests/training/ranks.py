"""Ranks as real processes, forked from one that has torch: a second each instead of four.

Each trains as the command would, and writes down what it saw. Faults come at a step of one rank.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deitkit.runtime.launch import MAY_GO_ALONE

TIMEOUT_S = 120
"""For a whole run, on a busy machine."""
PRELOADED = (
    "deitkit.api",
    "deitkit.cli.main",
    "deitkit.evaluation.predictor",
    "deitkit.training.assemble",
    "deitkit.training.loop",
    "tests.training.ranks",
    # An optimizer's first step imports it: 2 s a process.
    "torch._dynamo",
    "torch.nn.parallel.distributed",
    "torchinfo",
)


@dataclass(frozen=True)
class Fault:
    """What happens to one rank as it begins a step."""

    rank: int
    step: int
    what: str
    """kill, stop, sleep, nan (in its loss), or the number of a signal."""
    seconds: float = 0.0


@dataclass
class Seen:
    """What one rank wrote down; `code` is how its process ended."""

    code: int | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: str = ""
    num_buckets: int = 0
    """Gradient buckets that were exchanged."""
    num_reduces: int = 0
    """Sums and maxima over the ranks, those of the buckets among them."""
    num_asked: int = 0
    """Views the teacher was asked about."""
    finished_at_s: float = 0.0

    @property
    def losses(self) -> list[float]:
        return [step["loss"] for step in self.steps]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forking_context() -> Any:
    """Starts processes by a fork of one that has imported what a rank needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


def start_ranks(
    num_ranks: int,
    folder: Path,
    settings: dict[str, Any],
    *,
    faults: Sequence[Fault] = (),
    patience: dict[str, float] | None = None,
    step_s: dict[int, float] | None = None,
    own: dict[int, dict[str, Any]] | None = None,
) -> list[Any]:
    """Processes that run `deitkit.fit(**settings)`; `patience` sets times in runtime.watch.

    With `step_s`, what a step takes by the number of ranks, they may go on as one, as with
    ranks=auto. `own` are settings of single ranks.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = forking_context()
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    processes = []
    for rank in launched_ranks(num_ranks):
        launched = {} if num_ranks == 1 else launcher_says(rank, num_ranks, port)
        if step_s is not None:
            launched[MAY_GO_ALONE] = "1"
        given = settings | (own or {}).get(rank, {})
        process = context.Process(
            target=_train,
            args=(folder / f"{rank}.json", launched, given, faults, patience, step_s),
        )
        process.start()
        processes.append(process)
    return processes


def end_ranks(processes: list[Any], folder: Path) -> list[Seen]:
    """What the ranks saw, when all ended by themselves."""
    deadline = time.monotonic() + TIMEOUT_S
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    seen = []
    for rank, code in enumerate(codes):
        path = folder / f"{rank}.json"
        seen.append(Seen(**json.loads(path.read_text())) if path.exists() else Seen())
        seen[-1].code = code
    return seen


def run_ranks(num_ranks: int, folder: Path, settings: dict[str, Any], **more: Any) -> list[Seen]:
    return end_ranks(start_ranks(num_ranks, folder, settings, **more), folder)


def launched_ranks(num_ranks: int) -> range:
    """Those that are started; a test may leave one out."""
    return range(num_ranks)


def launcher_says(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _train(
    path: Path,
    launched: dict[str, str],
    settings: dict[str, Any],
    faults: Sequence[Fault],
    patience: dict[str, float] | None,
    step_s: dict[int, float] | None,
) -> None:
    os.environ |= launched
    # What `Watch` writes before it ends the process.
    os.dup2(os.open(path.with_suffix(".err"), os.O_WRONLY | os.O_CREAT), 2)
    import torch

    import deitkit
    from deitkit.errors import DeitkitError
    from deitkit.runtime import watch
    from deitkit.training import timing
    from deitkit.training.events import StepDone, Warned

    torch.set_num_threads(1)
    timing.MAX_TIMED_STEPS = timing.MIN_TIMED_STEPS
    for name, seconds in (patience or {}).items():
        setattr(watch, name, seconds)
    seen = Seen(code=0)
    _count_exchanges(seen)
    _install_faults(faults, int(launched.get("RANK", "0")))
    if step_s is not None:
        timing.measure = lambda assembly, **more: (step_s[assembly.world.world_size], 0.1)
    try:
        for event in deitkit.fit(**settings):
            if isinstance(event, StepDone):
                step = {"step": event.step, "loss": event.loss, "skipped": event.skipped}
                step |= {"ids": list(event.sample_ids), "reduces": seen.num_reduces}
                seen.steps.append(step)
            elif isinstance(event, Warned):
                seen.warnings.append(event.text)
    except DeitkitError as error:
        seen.error, seen.code = str(error), error.exit_code
    seen.finished_at_s = time.time()
    path.write_text(json.dumps(seen.__dict__))
    sys.stdout.flush()
    os._exit(seen.code or 0)


def _count_exchanges(seen: Seen) -> None:
    """From the first step on: what went between the ranks, and what the teacher was asked."""
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    from deitkit.runtime.world import World
    from deitkit.teachers.cached import CachedTeacher

    wrap, reduce, ask = World.wrap, dist.all_reduce, CachedTeacher.__call__

    def counted_bucket(state, bucket):
        seen.num_buckets += 1
        return allreduce_hook(state, bucket)

    def wrapped(world: World, *args: Any, **more: Any) -> Any:
        seen.num_buckets = seen.num_reduces = 0
        model = wrap(world, *args, **more)
        if world.world_size > 1:
            model.register_comm_hook(None, counted_bucket)
        return model

    def counted_reduce(*args: Any, **more: Any) -> Any:
        seen.num_reduces += 1
        return reduce(*args, **more)

    def counted_ask(self: CachedTeacher, *args: Any, **more: Any) -> Any:
        before = self.num_misses
        answers = ask(self, *args, **more)
        seen.num_asked += self.num_misses - before
        return answers

    World.wrap, dist.all_reduce = wrapped, counted_reduce  # type: ignore[method-assign]
    CachedTeacher.__call__ = counted_ask  # type: ignore[method-assign]


def _install_faults(faults: Sequence[Fault], rank: int) -> None:
    from deitkit.training import loop

    original = loop.train_step
    mine = {fault.step: fault for fault in faults if fault.rank == rank}

    def train_step(state: Any, batch: Any, parts: Any) -> Any:
        fault = mine.get(state.step)
        if fault is not None:
            if fault.what == "nan":
                images = batch.images_BCHW.float()
                images[0] = float("nan")
                batch = replace(batch, images_BCHW=images)
            elif fault.what == "sleep":
                time.sleep(fault.seconds)
            else:
                numbers = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
                os.kill(os.getpid(), numbers.get(fault.what) or int(fault.what))
        return original(state, batch, parts)

    loop.train_step = train_step
