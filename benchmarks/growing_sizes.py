"""What images that grow over the run save, and what they cost in accuracy.

    python benchmarks/growing_sizes.py [--core 0] [--epochs 20] [--sizes 32,48,64,96] [--seeds 3]

imagenette from scratch: the same model, epochs, seeds and settings with images of the last size
from beginning to end (`fixed`), and growing (`growing`), one after the other on one core. Seconds
are those of the process on its core, so that other work on the machine does not count. Tested on
the 1,000 test images; the difference is paired by image over all seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from distillation import pin

import deitkit
from deitkit.data import open_split
from deitkit.evaluation.metrics import wilson_interval
from deitkit.evaluation.paired import paired_gain


def train(a: argparse.Namespace, arm: str, seed: int) -> tuple[float, np.ndarray]:
    """Seconds of training, evaluations included, and which test images are right."""
    sides = [int(side) for side in a.sizes.split(",")]
    settings: dict[str, Any] = {
        "model": f"deit_nano_conv_patch8_{sides[-1]}",
        "image_size": sides[-1],
        "epochs": a.epochs,
        "batch_size": 64,
        "lr": 0.013,
        "init": "scratch",
        "workers": 0,
        "seed": seed,
        "run.report": False,
    }
    if arm == "growing":
        settings["sizes"] = a.sizes
    out = a.out / f"{arm}-{seed}"
    seconds_file = out / "cpu_seconds.json"
    start = time.process_time()
    run = deitkit.train(data=str(a.data / "imagenette"), out=str(out), **settings)
    if not seconds_file.exists():
        seconds_file.write_text(json.dumps(time.process_time() - start))
    images = open_split(a.data / "imagenette", split="test", class_names=run.class_names)
    right_N = run.predictor.fused_logits(images).argmax(axis=1) == images.labels
    seconds = float(json.loads(seconds_file.read_text()))
    print(f"{arm} {seed}: {100 * right_N.mean():.2f} %, {seconds:.0f} s", flush=True)
    return seconds, right_N


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/growing-sizes"))
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--sizes", default="32,48,64,96")
    parser.add_argument("--seeds", type=int, default=3)
    a = parser.parse_args()
    if a.core is not None:
        pin(a.core)
    found: dict[str, list[tuple[float, np.ndarray]]] = {"fixed": [], "growing": []}
    for seed in range(a.seeds):
        for arm, results in found.items():
            results.append(train(a, arm, seed))
    print(f"\npython {' '.join(sys.argv)}\n\n| arm | accuracy | 95 % interval | seconds a run |")
    print("|---|---|---|---|")
    right = {arm: np.concatenate([right_N for _, right_N in rows]) for arm, rows in found.items()}
    for arm, rows in found.items():
        low, high = wilson_interval(int(right[arm].sum()), len(right[arm]))
        seconds = [seconds for seconds, _ in rows]
        print(
            f"| {arm} | {100 * right[arm].mean():.2f} % | {100 * low:.1f} to {100 * high:.1f} | "
            f"{', '.join(f'{one:.0f}' for one in seconds)} |"
        )
    gain = paired_gain(right["growing"], right["fixed"])
    low, high = gain.interval
    pairs = zip(found["fixed"], found["growing"], strict=True)
    ratio = np.median([fixed[0] / growing[0] for fixed, growing in pairs])
    print(f"\n{ratio:.2f} times less time; difference {100 * (gain.difference or 0):+.2f} points")
    print(f"({100 * low:+.2f} to {100 * high:+.2f})")


if __name__ == "__main__":
    main()
