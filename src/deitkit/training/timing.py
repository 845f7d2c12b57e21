"""How long a step, an evaluation and a save take here, before the number of steps is decided."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deitkit.artifacts.checkpoint import save_checkpoint
from deitkit.errors import DeitkitError
from deitkit.training.assemble import Assembly
from deitkit.training.scoring import score
from deitkit.training.step import train_step
from deitkit.training.workers import PREFETCHED_STEPS

NUM_WARM_STEPS = 2
MIN_TIMED_STEPS, MAX_TIMED_STEPS = 8, 24
ENOUGH_S, ENOUGH_SHARE = 2.0, 0.1
"""Of timed steps, at least, and of the limit: short steps are timed more often, and longer where
there is time, so that a moment's noise counts less."""
NUM_TIMED_IMAGES = 128
MAX_SAVED_BYTES = 64 * 10**6
"""Of a checkpoint, what is written on trial; the rest is taken to cost as much a byte."""


def load_optimizers() -> None:
    """Have torch load what the first optimizer of a process needs, seconds on a slow machine, so
    that it is nobody's own time where one command trains several runs."""
    torch.optim.AdamW([torch.zeros(1, requires_grad=True)])


def measure(
    assembly: Assembly, *, limit_s: float, progress: Callable[[int, int], None]
) -> tuple[float, float]:
    """Seconds of one training step, loading included, and of one evaluation. Spoils the state.

    A run that grows its images is timed at each of its sizes, and a step is their mean.
    """
    sizes = assembly.steps.sizes.sizes
    step_s = 0.0
    for place, size in enumerate(sizes):
        part = replace(assembly, steps=assembly.steps.at_size(size))
        step_s += _measure_step(part, limit_s / len(sizes), place, len(sizes), progress)
    return assembly.world.max(step_s / len(sizes)), _measure_evaluation(assembly)


def _measure_step(
    assembly: Assembly,
    limit_s: float,
    place: int,
    num_places: int,
    progress: Callable[[int, int], None],
) -> float:
    """Seconds of one step.

    The batches that loader workers prepared ahead are used up first: they would hide the loading.
    Slow steps are cut off after `limit_s`, when at least two were timed.
    """
    state, parts, world = assembly.state, assembly.parts, assembly.world
    num_warm = NUM_WARM_STEPS + PREFETCHED_STEPS * assembly.num_workers
    num_all = num_warm + MAX_TIMED_STEPS
    enough_s = max(ENOUGH_S, ENOUGH_SHARE * limit_s)
    times = [time.monotonic()]
    with closing(assembly.batches(0, num_all)) as batches:
        for batch in batches:
            with world.lost_ranks_told():
                float(train_step(state, batch, parts).losses.total)
            times.append(time.monotonic())
            progress(place * num_all + len(times) - 1, num_places * num_all)
            num_timed = len(times) - 1 - num_warm
            is_enough = num_timed >= MIN_TIMED_STEPS and times[-1] - times[num_warm] > enough_s
            is_late = times[-1] - times[0] > limit_s and len(times) > NUM_WARM_STEPS + 2
            if world.any(is_enough or is_late):
                break
    first = min(num_warm, max(NUM_WARM_STEPS, len(times) - 1 - MIN_TIMED_STEPS))
    return (times[-1] - times[first]) / (len(times) - 1 - first)


def _measure_evaluation(assembly: Assembly) -> float:
    """Seconds in which weights and their average answer all validation images."""
    state, world = assembly.state, assembly.world
    few = assembly.dataset.val
    few = few.subset(np.arange(min(NUM_TIMED_IMAGES, len(few))), few.name)
    start = time.monotonic()
    score(state.model, few, assembly.spec, world, lambda: False)
    num_models = 1 if state.average is None else 2
    share = len(assembly.dataset.val) / len(few)
    return world.max((time.monotonic() - start) * share * num_models)


def measure_saving(assembly: Assembly) -> tuple[float, float]:
    """Seconds of writing the best weights and a checkpoint, tried in a temporary folder;
    0 where that cannot be written to, which is no reason to stop here."""
    tensors, _ = assembly.state.pack()
    total = sum(tensor.nbytes for tensor in tensors.values())
    few: dict[str, Tensor] = {}
    num_bytes = 0
    for name, tensor in tensors.items():
        if num_bytes + tensor.nbytes > MAX_SAVED_BYTES and few:
            break
        few[name] = tensor
        num_bytes += tensor.nbytes
    of_model = sum(tensor.nbytes for tensor in assembly.state.model.state_dict().values())
    try:
        with tempfile.TemporaryDirectory(prefix="deitkit-") as name:
            start = time.monotonic()
            save_checkpoint(Path(name), step=0, tensors=few, state={}, lineage="trial", machine={})
            checkpoint_s = (time.monotonic() - start) * total / max(1, num_bytes)
            if of_model > MAX_SAVED_BYTES:
                return checkpoint_s * of_model / total, checkpoint_s
            start = time.monotonic()
            with suppress(DeitkitError):
                assembly.save_best(Path(name), {})(assembly.state.model, {})
            return time.monotonic() - start, checkpoint_s
    except (OSError, DeitkitError):
        return 0.0, 0.0
