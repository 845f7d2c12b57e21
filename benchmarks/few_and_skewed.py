"""Few images: classes of very different sizes, folds, ending early, and what each choice for images
that are seen often brings.

    taskset -c 0 python benchmarks/few_and_skewed.py skew --data cifar10/ --seeds 2
    taskset -c 0 python benchmarks/few_and_skewed.py skew --seeds 3          # the embedded digits
    taskset -c 0 python benchmarks/few_and_skewed.py folds --seeds 4
    taskset -c 0 python benchmarks/few_and_skewed.py stop --seeds 3 --epochs 60 --patience 0 3 5 10
    python benchmarks/few_and_skewed.py stop --data cifar10/ --start deit_tiny.pth --images 30
    taskset -c 0 python benchmarks/few_and_skewed.py often --data cifar10/ --epochs 100 --seeds 2
    python benchmarks/few_and_skewed.py often --images 40 --epochs 30 --data imagenette/ \\
        --models deit_micro_quick_patch8_64 deit_micro_hybrid_patch16_64

All images are training images of their set; those that judge are kept aside, as many of each class.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import deitkit
from deitkit.api.freeze import no_progress
from deitkit.cli.demo import EVERY_NTH_TESTS, load_digits

NUM_CLASSES = 10
SKEW = 20
"""Images of the largest class over those of the smallest; the others lie between, geometrically."""

Pairs = list[tuple[np.ndarray, str]]

WAYS: dict[str, dict[str, Any]] = {
    "none": {"data.balance": "none"},
    "logits, tau 1": {"data.balance": "logits", "data.balance_strength": 1.0},
    "logits, tau 0.5": {"data.balance": "logits", "data.balance_strength": 0.5},
    "sampling, square root": {"data.balance": "sampling", "data.balance_strength": 0.5},
    "sampling, full": {"data.balance": "sampling", "data.balance_strength": 1.0},
}

OFTEN: dict[str, dict[str, Any]] = {
    "as chosen": {},
    "mixed to the end": {"schedule.strengths": ()},
    "CutMix without Mixup": {"views.mixup": 0.0},
    "nothing mixed": {"views.mixup": 0.0, "views.cutmix": 0.0},
    "no shifts": {"views.crop": "none"},
    "RandAugment and erasing besides": {
        "views.auto_augment": "rand-m9-mstd0.5-inc1",
        "views.erasing": 0.25,
    },
    "no running average of the weights": {"ema.half_life": 0.0},
    "average with a half-life of a tenth": {"ema.half_life": 0.1},
    "no warm-up": {"optim.warmup": 0.0},
    "warm-up of a fifth": {"optim.warmup": 0.2},
    "AdamW": {"optim.name": "adamw"},
    "16 tokens": {"model": "deit_slim_quick_patch8_32"},
    "256 tokens": {"model": "deit_slim_quick_patch2_32"},
}
"""What auto chooses for images that are seen a hundred times, each choice changed by itself."""


def read_images(folder: str | None) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, H, W, 3] and labels of the training images: of a folder of Parquet, or digits."""
    if folder is None:
        images, labels, _ = load_digits()
        grey = np.asarray(images).reshape(-1, 8, 8)
        # As the demo has it, every fifth of a digit belongs to the test split.
        places = [np.flatnonzero(labels == label) for label in range(NUM_CLASSES)]
        trains = np.concatenate([np.delete(own, np.s_[::EVERY_NTH_TESTS]) for own in places])
        return np.repeat(grey[trains][..., None], 3, axis=3), np.asarray(labels)[trains]
    import pyarrow.parquet as pq
    from PIL import Image

    images, labels = [], []
    for path in sorted(Path(folder).glob("train*.parquet")):
        table = pq.read_table(path).to_pydict()
        label_name = "label" if "label" in table else "labels"
        image_name = "img" if "img" in table else "image"
        for item, label in zip(table[image_name], table[label_name], strict=True):
            images.append(np.asarray(Image.open(io.BytesIO(item["bytes"])).convert("RGB")))
            labels.append(label)
    return np.stack(images), np.array(labels)


def take(
    images: np.ndarray, labels: np.ndarray, counts: list[int], judges: int, seed: int
) -> tuple[Pairs, Pairs]:
    """So many training images of each class, and as many judges of every class beside them."""
    rng = np.random.default_rng(seed)
    train: Pairs = []
    kept: Pairs = []
    for label, count in enumerate(counts):
        own = rng.permutation(np.flatnonzero(labels == label))
        train += [(images[i], str(label)) for i in own[:count]]
        kept += [(images[i], str(label)) for i in own[count : count + judges]]
    return train, kept


def judged(run: deitkit.Run, kept: Pairs, counts: list[int]) -> dict[str, float]:
    """Macro accuracy, accuracy where classes occur as in training, recall of the smallest three."""
    metrics = run.evaluate(kept, progress=no_progress).fused
    recalls = [row.recall or 0.0 for row in metrics.per_class]
    shares = np.array(counts) / sum(counts)
    return {
        "macro": metrics.macro,
        "as trained": float(np.dot(shares, recalls)),
        "smallest three": statistics.fmean(recalls[-3:]),
    }


def told(rows: Mapping[str, list[dict[str, float]]]) -> None:
    """A line for each way: means over the seeds, and each seed's macro accuracy."""
    for name, found in rows.items():
        means = {key: statistics.fmean(one[key] for one in found) for key in found[0]}
        each = ", ".join(f"{100 * next(iter(one.values())):.1f}" for one in found)
        said = " | ".join(f"{key} {100 * value:.1f}" for key, value in means.items())
        print(f"{name}: {said} (each: {each})", flush=True)


def skew(args: argparse.Namespace) -> None:
    images, labels = read_images(args.data)
    is_digits = args.data is None
    largest = args.images or (80 if is_digits else 400)
    counts = [round(largest * SKEW ** (-k / (NUM_CLASSES - 1))) for k in range(NUM_CLASSES)]
    model = "deit_nano_conv_patch2_8" if is_digits else "deit_nano_conv_patch4_32"
    print(f"classes of {counts} images, {model}, {args.epochs} epochs", flush=True)
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        train, kept = take(images, labels, counts, 80 if is_digits else 100, seed)
        for name in args.ways.split(";") if args.ways else WAYS:
            settings = WAYS[name]
            with tempfile.TemporaryDirectory() as out:
                run = train_quietly(train, out, args.epochs, seed, model, settings)
                rows.setdefault(name, []).append(judged(run, kept, counts))
            print(seed, name, json.dumps(rows[name][-1]), flush=True)
    told(rows)


def train_quietly(
    train: Pairs, out: str, epochs: int, seed: int, model: str, settings: Mapping[str, Any]
) -> deitkit.Run:
    return deitkit.train(
        data=train,
        out=out,
        epochs=epochs,
        seed=seed,
        model=model,
        overwrite=True,
        **{"init": "scratch", "run.report": False, "run.workers": 0, **settings},
    )


def folds(args: argparse.Namespace) -> None:
    """Does the folds' interval hold the accuracy that the run on all images turns out to have?"""
    images, labels = read_images(args.data)
    for seed in range(args.seeds):
        train, kept = take(images, labels, [args.images or 15] * NUM_CLASSES, 80, seed)
        for name, settings in (("one split", {}), ("5 folds", {"data.folds": 5})):
            with tempfile.TemporaryDirectory() as out:
                model = "deit_nano_conv_patch2_8"
                run = train_quietly(train, out, args.epochs, seed, model, settings)
                assert run.result is not None
                low, high = run.result["val_top1_interval"]
                real = run.evaluate(kept, progress=no_progress).accuracy
                print(
                    f"{seed} {name}: says {100 * run.result['val_top1']:.1f} % ({100 * low:.1f} to "
                    f"{100 * high:.1f}), is {100 * real:.1f} %, "
                    f"{run.result['command_seconds']:.0f} s",
                    flush=True,
                )


def stop(args: argparse.Namespace) -> None:
    """What a run loses and saves that ends after so many evaluations without a better one."""
    images, labels = read_images(args.data)
    is_digits = args.data is None
    model = "deit_nano_conv_patch2_8" if is_digits else "auto"
    settings: dict[str, Any] = {"run.workers": 0 if is_digits else "auto"}
    if args.start:
        settings |= {"init": args.start, "image_size": 64}
    found: dict[int, list[tuple[float, ...]]] = {}
    for seed in range(args.seeds):
        train, kept = take(images, labels, [args.images or 15] * NUM_CLASSES, 80, seed)
        for patience in args.patience:
            with tempfile.TemporaryDirectory() as out:
                own = {**settings, "schedule.patience": patience}
                run = train_quietly(train, out, args.epochs, seed, model, own)
                others = run.evaluate(kept, progress=no_progress).fused
                result = run.result
            assert result is not None
            ended = others.top1, others.nll, result["epochs"], result["command_seconds"]
            found.setdefault(patience, []).append(ended)
            print(f"seed {seed}, patience {patience}: {said_of(ended)}", flush=True)
    for patience, each in found.items():
        means = [statistics.fmean(column) for column in zip(*each, strict=True)]
        print(f"patience {patience}, mean: {said_of(means)}", flush=True)


def often(args: argparse.Namespace) -> None:
    """One seed after the other, so that a run that is stopped has pairs."""
    images, labels = read_images(args.data)
    ways = {name: {"model": name} for name in args.models} or OFTEN
    names = args.ways.split(";") if args.ways else list(ways)
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        train, kept = take(images, labels, [args.images or 100] * NUM_CLASSES, 500, seed)
        for name in names:
            settings = {"model": "deit_slim_quick_patch4_32", **ways[name]}
            model = settings.pop("model")
            with tempfile.TemporaryDirectory() as out:
                run = train_quietly(train, out, args.epochs, seed, model, settings)
                accuracy = run.evaluate(kept, progress=no_progress).accuracy
                assert run.result is not None
                seconds = run.result["command_seconds"]
            found[name].append(accuracy)
            gain = 100 * (accuracy - found[names[0]][-1])
            print(
                f"seed {seed}, {name}: {100 * accuracy:.2f} % ({gain:+.2f}), {seconds:.0f} s",
                flush=True,
            )
    for name, each in found.items():
        gains = [100 * (a - b) for a, b in zip(each, found[names[0]], strict=True)]
        said = ", ".join(f"{gain:+.2f}" for gain in gains)
        print(f"{name}: mean {100 * statistics.fmean(each):.2f} % ({said})", flush=True)


def said_of(ended: Sequence[float]) -> str:
    top1, nll, epochs, seconds = ended
    return f"{100 * top1:.1f} % of the others, nll {nll:.3f}, {epochs:.1f} epochs, {seconds:.0f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("skew", "folds", "stop", "often"))
    parser.add_argument("--data", help="a folder of Parquet; the embedded digits without it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0, help="of often")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, help="of the largest class, or of each, for folds")
    parser.add_argument("--ways", help="of skew and often, with semicolons between")
    parser.add_argument("--models", nargs="*", default=[], help="of often: networks, not choices")
    parser.add_argument("--patience", type=int, nargs="*", default=[0, 5], help="of stop")
    parser.add_argument("--start", help="of stop: trained weights to begin from, at 64 px")
    args = parser.parse_args()
    {"skew": skew, "folds": folds, "stop": stop, "often": often}[args.what](args)


if __name__ == "__main__":
    main()
