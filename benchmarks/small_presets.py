"""What the choices for small images on few cores bring, each left out or changed by itself.

    python benchmarks/small_presets.py [cifar10] [--budget 240s] [--cores 0 1] [--arms ...]

`deitkit train` for the same time on one core each, side by side on the cores that are given; judged
by the validation images that each run holds out of the training images (5,000 of CIFAR-10), never
by test images. The table is in docs/experiments.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from results_table import hardware, percent_interval, today_and_commit

ARMS = {
    "slim_hybrid, as chosen": [],
    "nano_conv with AdamW, the first choice": ["model=deit_nano_conv_patch{half}_{side}"],
    "AdamW": ["optim.name=adamw"],
    "Muon, kernels and matrices at the rate of the rest": ["optim.hidden_lr=1"],
    "Muon, twice the rate of kernels and matrices": ["optim.hidden_lr=12"],
    "blocks that begin with chance": ["model.weight_init=kaiming"],
    "heads read their token alone": ["model.pool=token"],
    "two of the three stages, four times the tokens: slim_quick": [
        "model=deit_slim_quick_patch{half}_{side}"
    ],
    "the same with convolutions and group norm for a stem": [
        "model=deit_slim_quick_patch{half}_{side}",
        "model.stem=conv",
    ],
    "the same with a linear stem": [
        "model=deit_slim_quick_patch{half}_{side}",
        "model.stem=linear",
    ],
    "a first convolution of twice the stride": ["model=deit_slim_hybrid_patch{twice}_{side}"],
    "no convolution in the MLP": ["model.mlp_conv=false"],
    "MLP twice as wide": ["model.mlp_ratio=4"],
    "two blocks": ["model.depth=2"],
    "twice as wide: shallow_hybrid": ["model=deit_shallow_hybrid_patch{patch}_{side}"],
    "batches of 64": ["batch_size=64", "lr=0.016"],
    "half of the learning rate": ["lr=0.004"],
    "twice the learning rate": ["lr=0.016"],
    "no warm-up": ["optim.warmup=0"],
    "warm-up of a fifth": ["optim.warmup=0.2"],
    "no running average of the weights": ["ema.half_life=0"],
    "average with a half-life of a tenth": ["ema.half_life=0.1"],
    "shifts": ["views.crop=padded"],
    "CutMix": ["views.cutmix=1"],
    "teacher first, its stem": ["teacher=auto"],
    "teacher first, a new stem": ["teacher=auto", "model.init_stem=new"],
    "teacher for half of the time": ["teacher=auto", "distill.teacher_share=0.5"],
    "no transformer: quick_cnn_narrow": ["model=quick_cnn_narrow"],
    "no transformer: small_cnn": ["model=small_cnn"],
}
SHAPES = {"cifar10": (8, 32), "fashion_mnist": (8, 28), "imagenette": (16, 64)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=SHAPES, default="cifar10")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/small_presets"))
    parser.add_argument("--budget", default="240s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cores", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--arms", nargs="*", choices=ARMS, default=list(ARMS))
    a = parser.parse_args()
    free: Queue[int] = Queue()
    for core in a.cores:
        free.put(core)

    def run(arm: str) -> None:
        core = free.get()
        try:
            print(line_of(a, arm, core), flush=True)
        finally:
            free.put(core)

    print(f"{a.name}, {a.budget} on one core each, {hardware()}, {today_and_commit()}\n")
    print("| | validation accuracy | 95 % interval | epochs | parameters |\n|---|---|---|---|---|")
    with ThreadPoolExecutor(len(a.cores)) as pool:
        list(pool.map(run, a.arms))


def line_of(a: argparse.Namespace, arm: str, core: int) -> str:
    patch, side = SHAPES[a.name]
    out = a.out / f"{a.name}-{a.budget}-{list(ARMS).index(arm)}-seed{a.seed}"
    settings = [
        *(f"data={a.data / a.name}", f"budget={a.budget}", f"seed={a.seed}", f"out={out}"),
        *(
            one.format(half=patch // 2, patch=patch, twice=2 * patch, side=side)
            for one in ARMS[arm]
        ),
        *(["data.channels=1"] if a.name == "fashion_mnist" else []),
    ]
    if not any(one.startswith(("teacher=", "model=")) for one in settings):
        settings.append(f"model=deit_slim_hybrid_patch{patch}_{side}")
    command = ["taskset", "-c", str(core), sys.executable, "-m", "deitkit", "train", *settings]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    if ended.returncode:
        return f"| {arm} | failed: {ended.stderr.strip().splitlines()[-1:]} | | | |"
    result = json.loads((out / "result.json").read_text())
    num = result["num_val"]
    interval = percent_interval(round(result["val_top1"] * num), num)
    return (
        f"| {arm} | {100 * result['val_top1']:.2f} % | {interval} | {result['epochs']:.2f} "
        f"| {result['parameters']:,} |"
    )


if __name__ == "__main__":
    main()
