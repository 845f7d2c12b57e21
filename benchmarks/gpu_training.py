"""Training on one GPU: images a second of a whole run's steps, timm's step beside it.

    python benchmarks/gpu_training.py [deit_small_distilled_patch16_224] [--batch 512]
        [--steps 60] [--rounds 3] [--device cuda] [--trace trace.json]

deitkit   `deitkit.fit` as a user would call it: uint8 images in memory, crop, RandAugment, mixing
          and erasing on the device, bf16, AdamW, the average of the weights; nothing in a step
          waits for the device. The first third of the steps is not counted.
compiled  the same with run.compile=true: the blocks of the student as torch.compile makes them.
timm      timm's model of the same shape, batches made before and left on the device, no
          augmentation but its Mixup: autocast to bf16, torch.compile, fused AdamW, ModelEmaV3.

`--trace` writes a profile of ten steps of deitkit, to open in chrome://tracing. `--device cpu` with
a small batch shows that the command works.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from finetune import declare_torchvision_ops

import deitkit
from deitkit.training.events import StepDone

NUM_CLASSES, NUM_IMAGES, SIDE = 100, 4096, 224


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?", default="deit_small_distilled_patch16_224")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=NUM_IMAGES)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--trace", type=Path)
    a = parser.parse_args()
    if a.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no CUDA device here; --device cpu --batch 4 --steps 6 tries the command")
    rates: dict[str, list[float]] = {"deitkit": [], "deitkit, compiled": [], "timm": []}
    for _ in range(a.rounds):
        rates["deitkit"].append(deitkit_rate(a, compiled=False))
        rates["deitkit, compiled"].append(deitkit_rate(a, compiled=True))
        rates["timm"].append(timm_rate(a))
    name = torch.cuda.get_device_name() if a.device == "cuda" else "CPU"
    print(f"\n{a.model}, batch {a.batch}, {name}, torch {torch.__version__}\n")
    print("| | img/s | least to most |\n|---|---|---|")
    for arm, found in rates.items():
        print(
            f"| {arm} | {statistics.median(found):,.0f} | {min(found):,.0f} to {max(found):,.0f} |"
        )


def deitkit_rate(a: argparse.Namespace, *, compiled: bool) -> float:
    """Images a second of the last two thirds of the steps."""
    # On CUDA a step is told of when the next one is queued, and `_wait` waits for that one too.
    num_ahead = 1 if a.device == "cuda" else 0
    chance = np.random.default_rng(0)
    shape = (a.images, SIDE, SIDE, 3)
    pixels = chance.integers(0, 256, shape, dtype=np.uint8)
    data = [(pixels[k], f"class {k % NUM_CLASSES:03d}") for k in range(a.images)]
    first, start = max(1, a.steps // 3), 0.0
    profiler = torch.profiler.profile() if a.trace and not compiled else None
    with tempfile.TemporaryDirectory() as folder:
        events = deitkit.fit(
            data=data,
            out=Path(folder) / "run",
            model=a.model,
            recipe="deit_small",
            init="scratch",
            device=a.device,
            batch_size=a.batch,
            **{
                "schedule.steps": a.steps,
                "schedule.eval_interval": a.steps,
                "run.report": False,
                "run.compile": compiled,
                "workers": 0,
            },
        )
        for event in events:
            if not isinstance(event, StepDone):
                continue
            if event.step == first:
                _wait(a.device)
                start = time.perf_counter()
                if profiler:
                    profiler.start()
            if profiler and event.step == first + 10:
                profiler.stop()
                profiler.export_chrome_trace(str(a.trace))
                profiler = None
            if event.step == a.steps:
                _wait(a.device)
                num_steps = a.steps - first - num_ahead
                return num_steps * a.batch / (time.perf_counter() - start)
    raise SystemExit("the run ended before its last step")


def timm_rate(a: argparse.Namespace) -> float:
    declare_torchvision_ops()
    import timm
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.utils import ModelEmaV3

    model = timm.create_model(a.model, num_classes=NUM_CLASSES, drop_path_rate=0.1).to(a.device)
    if hasattr(model, "set_distilled_training"):
        model.set_distilled_training(True)
    average = ModelEmaV3(model, decay=0.9999)
    run = torch.compile(model) if a.device == "cuda" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=a.device == "cuda")
    mixup, loss = Mixup(0.8, 1.0, num_classes=NUM_CLASSES), SoftTargetCrossEntropy()
    images = torch.rand(a.batch, 3, SIDE, SIDE, device=a.device)
    labels = torch.randint(0, NUM_CLASSES, (a.batch,), device=a.device)
    first, start = a.steps // 3, 0.0
    for step in range(a.steps):
        if step == first:
            _wait(a.device)
            start = time.perf_counter()
        mixed, targets = mixup(images.clone(), labels)
        with torch.autocast(a.device, torch.bfloat16, enabled=a.device == "cuda"):
            heads = run(mixed)
            heads = heads if isinstance(heads, tuple) else (heads,)
            total = sum(loss(head.float(), targets) for head in heads) / len(heads)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        average.update(model)
    _wait(a.device)
    return (a.steps - first) * a.batch / (time.perf_counter() - start)


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
