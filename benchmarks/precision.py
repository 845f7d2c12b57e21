"""A training step in float32 and in bfloat16, in turns.

    python benchmarks/precision.py [--threads 2] [--rounds 12] [--networks NAME ...]

Whole `train_step`s of what a run's settings are made into, random pixels, no teacher, no loading;
both in one process with the same weights. For CPUs with AMX: others emulate bfloat16.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from step_arms import random_dataset, resolved
from step_shapes import Shape, given
from turns import in_turn

PRECISIONS = ("float32", "bfloat16")
BATCH_SIZES = {
    "deit_shallow_quick_patch2_8": 128,
    "deit_slim_hybrid_patch8_32": 128,
    "deit_shallow_hybrid_patch8_32": 128,
    "quick_cnn": 128,
    "deit_micro_quick_patch8_64": 64,
    "deit_tiny_patch16_224": 16,
    "deit_small_patch16_224": 8,
}


def step_of(name: str, precision: str) -> Callable[[], float]:
    """A step that returns its seconds."""
    from deitkit.models import name_facts
    from deitkit.runtime.world import World
    from deitkit.training.assemble import assemble
    from deitkit.training.step import train_step

    side = name_facts(name).image_size or 32
    shape = Shape("", 0, int(side), 0, 0, batch_size=BATCH_SIZES[name], num_classes=10)
    settings = {
        "model": name,
        "image_size": side,
        "batch_size": shape.batch_size,
        "epochs": 10,
        "init": "scratch",
        "run.precision": precision,
    }
    dataset = random_dataset(shape, given(shape))
    assembly = assemble(resolved(settings, dataset), dataset, world=World())
    batch = assembly.steps[0]

    def step() -> float:
        start = time.perf_counter()
        train_step(assembly.state, batch, assembly.parts)
        return time.perf_counter() - start

    return step


def main() -> None:
    from deitkit.runtime.device import has_bfloat16_units
    from deitkit.runtime.threads import calm_process

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--networks", nargs="+", choices=BATCH_SIZES, default=list(BATCH_SIZES))
    asked = parser.parse_args()
    if not has_bfloat16_units(torch.device("cpu")):
        raise SystemExit("this CPU has no AMX (or torch does not say so): not measured")
    calm_process()
    torch.set_num_threads(asked.threads)
    print("| network, batch | float32, ms a step | bfloat16, ms a step | times as fast |")
    print("|---|---|---|---|")
    for name in asked.networks:
        steps = {precision: step_of(name, precision) for precision in PRECISIONS}
        seconds = in_turn(steps, rounds=asked.rounds, limit_s=600, warm_rounds=3)
        ratios = [a / b for a, b in zip(*seconds.values(), strict=True)]
        middles = [f"{1000 * statistics.median(times):.0f}" for times in seconds.values()]
        gain = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"| {name}, {BATCH_SIZES[name]} | {' | '.join(middles)} | {gain} |", flush=True)


if __name__ == "__main__":
    main()
