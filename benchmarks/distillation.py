"""What a teacher is worth, and how few of its answers do: accuracy on images no training saw.

    python benchmarks/distillation.py view-epochs --core 0 --seeds 0
    python benchmarks/distillation.py view-epochs --core 1 --seeds 1 --budget 12m
    python benchmarks/distillation.py view-epochs --report
    python benchmarks/distillation.py imagenette --core 0 --tune --arms distilled
    python benchmarks/distillation.py imagenette --core 0 --seeds 0 1 2 --arms distilled
    python benchmarks/distillation.py imagenette --report

view-epochs  CIFAR-10, a public ResNet-56 as teacher through examples/own_teacher.py. Arms: `live`
             asks it about new views in every epoch, `1/3` and `1/10` in that share of the epochs
             and show those views again, `auto` is deitkit's own choice, `teacher` the teacher.
             At equal epochs, or with --budget at equal wall clock.
imagenette   A public MobileNetV2 of 1,000 ImageNet classes, matched by name, teaches a small DeiT
             from scratch: `distilled` against `undistilled` (no teacher, no distillation token) at
             equal wall clock. --tune first tries the same number of settings of each arm, measured
             on a fifth of the training images; the best of an arm is what is run then. The teacher
             is shown 160 px, whose cost suits the budget: 97 % right among the ten.

One run is one JSON file in --out, beside one bit for each test image, right or wrong; what is
there is not run again, so processes may share the work and the folder. --core pins to one core and
one thread. The clock is that of deitkit.train: reading images, timing, the teacher, validation and
checkpoints included, and the test is not. Weights are chosen on a tenth of the training images
that deitkit splits off; test images are only measured on.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from finetune import declare_torchvision_ops

import deitkit
from deitkit.config import build_config, read_config_file
from deitkit.data import open_split
from deitkit.evaluation.metrics import wilson_interval
from deitkit.evaluation.paired import paired_gain
from deitkit.teachers import Classifier
from deitkit.teachers.class_match import match_classes
from deitkit.training.events import Planned, StepDone
from deitkit.training.teacher_clean import ask_on_clean

Pairs = list[tuple[bytes, str]]
"""Encoded images and the names of their classes."""

ROOT = Path(__file__).resolve().parents[1]
DATA_SETS = {"view-epochs": "cifar10", "imagenette": "imagenette"}
ARMS = {
    "view-epochs": ["live", "1/3", "1/10"],
    "imagenette": ["distilled", "undistilled"],
}
BASELINES = {"view-epochs": "live", "imagenette": "undistilled"}
TRIALS = {
    "distilled": [
        *("lr=0.013,view_epochs=2", "lr=0.026,view_epochs=2"),
        *("lr=0.013,view_epochs=4", "lr=0.026,view_epochs=4"),
    ],
    "undistilled": ["lr=0.007", "lr=0.013", "lr=0.026", "lr=0.013,image_size=96"],
}
"""As many for either arm of imagenette; at a batch of 64 the peaks are an eighth of these."""
TRIAL_STEP = 5
"""While tuning, every fifth image of a class is measured on and not trained on."""
CLOCK_SHARE = 0.9
"""Of a budget, what is left for epochs when V is worked out; the number of epochs is deitkit's."""


# Data


def read_pairs(folder: Path, split: str, *, limit: int | None = None) -> Pairs:
    """A split's images; with `limit` as many first ones of each class as make up so many."""
    import pyarrow.parquet as parquet

    names = (folder / "classes.txt").read_text().splitlines()
    kept = defaultdict(int)
    pairs: Pairs = []
    for path in sorted(folder.glob(f"{split}*.parquet")):
        table = parquet.read_table(path).to_pydict()
        for cell, label in zip(table["image"], table["label"], strict=True):
            if limit is None or kept[label] < limit // len(names):
                kept[label] += 1
                pairs.append((cell["bytes"], names[label]))
    return pairs


def split_for_trials(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """Training images in two: to train on, and to choose settings on."""
    place: dict[str, int] = defaultdict(int)
    parts: tuple[Pairs, Pairs] = ([], [])
    for pair in pairs:
        place[pair[1]] += 1
        parts[place[pair[1]] % TRIAL_STEP == 0].append(pair)
    return parts


def opened(image: bytes) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(image)).convert("RGB"))


# Teachers, made the way a user makes them


@cache
def resnet_56(data: Path, size: int) -> Classifier:
    sys.path.insert(0, str(ROOT / "examples"))
    from own_teacher import own_teacher

    assert size == 32, "the size it was trained at"
    return own_teacher(data / "weights/cifar10_resnet/resnet56-4bfd9763.th")


@cache
def mobilenet_v2(data: Path, size: int) -> Classifier:
    declare_torchvision_ops()
    import timm

    network = timm.create_model("mobilenetv2_100", pad_type="same")
    folder = data / "weights/mobilenetv2_100_imagenet"
    file = folder / "mobilenetv2_100_timm_same_imagenetnorm.pth"
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True)["state_dict"])
    return Classifier.from_callable(
        network,
        name="MobileNetV2",
        version="timm, same padding",
        image_size=size,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_ratio=0.875,
        class_names=(data / "imagenet_samples100/classes.txt").read_text().splitlines(),
    )


TEACHERS: dict[str, Callable[[Path, int], Classifier]] = {
    "view-epochs": resnet_56,
    "imagenette": mobilenet_v2,
}


# One run


def arm_settings(a: argparse.Namespace, arm: str) -> dict[str, Any]:
    """What an arm sets, of train's settings."""
    if arm == "undistilled":
        return {"model": a.model, "image_size": a.image_size}
    settings: dict[str, Any] = {
        "model": a.model.replace("_patch", "_distilled_patch"),
        "image_size": a.image_size,
        "teacher": TEACHERS[a.benchmark](a.data, a.teacher_size),
        # In memory each run pays for its own answers.
        "teacher_cache": "memory",
    }
    if arm == "live":
        settings |= {"teacher_cache": "off", "view_epochs": 0}
    elif "/" in arm:
        settings["view_epochs"] = num_view_epochs(a, Fraction(arm))
    return settings


def num_view_epochs(a: argparse.Namespace, share: Fraction) -> int:
    """V of an arm; at equal wall clock from the epochs that fit if `share` of them is asked for."""
    num_epochs = float(a.epochs)
    if a.budget is not None:
        cost = calibrated(a)
        epoch_s = float(share) * cost["live_s"] + float(1 - share) * cost["replay_s"]
        num_epochs = CLOCK_SHARE * seconds_of(a.budget) / epoch_s
    return max(1, round(float(share) * num_epochs))


def calibrated(a: argparse.Namespace) -> dict[str, float]:
    """Seconds of an epoch that asks and of one that replays, from a run of three epochs; once."""
    path = a.out / f"calibration-{a.train_images}-{a.model}-{a.image_size}.json"
    if not path.is_file():
        ends: list[tuple[float, float]] = []

        def on_event(event: Any) -> None:
            if isinstance(event, StepDone):
                ends.append((event.epoch, time.perf_counter()))

        settings = arm_settings(a, "auto") | {"epochs": 3, "view_epochs": 1, "seed": 0}
        train(a, read_train(a), settings, a.out / "runs" / f"{path.stem}-{os.getpid()}", on_event)
        found = {}
        steps = list(pairwise(ends))
        for name, wanted in (("live_s", lambda e: e <= 1), ("replay_s", lambda e: e > 1)):
            # Between an epoch's last step and the next one stands an evaluation: the median.
            step_s = statistics.median(q[1] - p[1] for p, q in steps if wanted(q[0] - 1e-6))
            found[name] = step_s / (ends[1][0] - ends[0][0])
        if not path.is_file():
            write_result(path, found)
    return json.loads(path.read_text())


def seconds_of(budget: str) -> float:
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]


def read_train(a: argparse.Namespace) -> Pairs:
    return read_pairs(a.data / DATA_SETS[a.benchmark], "train", limit=a.train_images)


def train(
    a: argparse.Namespace,
    pairs: Pairs,
    settings: dict[str, Any],
    folder: Path,
    on_event: Callable[[Any], None] = lambda event: None,
) -> Any:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fixed = {"workers": 0, "batch_size": a.batch_size, "init": "scratch"}
    return deitkit.train(
        data=pairs,
        out=str(folder),
        overwrite=True,
        on_event=on_event,
        **(fixed | settings | parsed(a.set)),
    )


def run_arm(
    a: argparse.Namespace,
    arm: str,
    seed: int,
    *,
    name: str,
    settings: dict[str, Any],
    train_pairs: Pairs,
    test_pairs: Pairs,
) -> None:
    """Train, answer every test image, write NAME.json and NAME.bits."""
    path = a.out / f"{name}.json"
    if path.is_file():
        print(f"{name}: is there", flush=True)
        return
    planned: list[Planned] = []

    def on_event(event: Any) -> None:
        if isinstance(event, Planned):
            planned.append(event)

    length = {"epochs": a.epochs} if a.budget is None else {"budget": a.budget}
    asked = {**arm_settings(a, arm), **length, "seed": seed, **settings}
    start = time.monotonic()
    run = train(a, train_pairs, asked, a.out / "runs" / name, on_event)
    seconds = time.monotonic() - start
    predictions = run.predict([opened(image) for image, _ in test_pairs])
    right_N = np.array(
        [said.class_name == truth for said, (_, truth) in zip(predictions, test_pairs, strict=True)]
    )
    resolved = build_config(read_config_file(run.folder / "config.yaml")[0])
    plan = planned[0]
    result = {
        **about(a, name=name, arm=arm, seed=seed, right_N=right_N),
        "seconds": round(seconds, 1),
        "epochs": plan.total_steps / plan.steps_per_epoch,
        "view_epochs": resolved.distill.view_epochs if "teacher" in asked else None,
        "num_train": run.result["num_train"],
        "val_top1": run.result["val_top1"],
        "parameters": run.result["parameters"],
        "settings": settings,
        "choices": {name: value for name, value, _ in plan.choices},
    }
    store(a, name, result, right_N)


def ask_teacher(a: argparse.Namespace, test_pairs: Pairs) -> None:
    """The teacher itself on the test images, as one more arm."""
    if (a.out / "teacher-seed0.json").is_file():
        return
    classifier = TEACHERS[a.benchmark](a.data, a.teacher_size)
    names = (a.data / DATA_SETS[a.benchmark] / "classes.txt").read_text().splitlines()
    images = open_split(test_pairs, class_names=names)
    columns = match_classes(classifier.class_names, names).columns
    assert columns is not None and len(images) == len(test_pairs)
    start = time.monotonic()
    logits_NK = ask_on_clean(classifier, images)[:, list(columns)]
    right_N = logits_NK.argmax(axis=1) == images.labels
    result = {
        **about(a, name="teacher-seed0", arm="teacher", seed=0, right_N=right_N),
        "seconds": round(time.monotonic() - start, 1),
        "parameters": classifier.num_params,
    }
    store(a, "teacher-seed0", result, right_N)


def about(
    a: argparse.Namespace, *, name: str, arm: str, seed: int, right_N: np.ndarray
) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {
        "name": name,
        "arm": arm,
        "seed": seed,
        "mode": "tune" if a.tune else "epochs" if a.budget is None else f"clock {a.budget}",
        "accuracy": float(right_N.mean()),
        "num_images": len(right_N),
        "command": " ".join(["python", *sys.argv]),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit,
    }


def store(a: argparse.Namespace, name: str, result: dict[str, Any], right_N: np.ndarray) -> None:
    """The JSON last: a run is there when it is."""
    np.packbits(right_N).tofile(a.out / f"{name}.bits")
    write_result(a.out / f"{name}.json", result)
    shown = ("arm", "seed", "mode", "accuracy", "seconds", "epochs", "view_epochs", "settings")
    print(json.dumps({key: result.get(key) for key in shown}), flush=True)


def write_result(path: Path, result: dict[str, Any]) -> None:
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(json.dumps(result, indent=1) + "\n")
    beside.replace(path)


# Settings as text


def parsed(texts: Iterable[str]) -> dict[str, Any]:
    """`lr=0.01` and `views.cutmix=1`, several in one text with commas, as settings of train."""
    found: dict[str, Any] = {}
    for text in (part for whole in texts for part in whole.split(",") if part):
        key, _, value = text.partition("=")
        try:
            found[key] = json.loads(value)
        except json.JSONDecodeError:
            found[key] = value
    return found


def slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in ".-" else "_" for c in text)


def best_trial(a: argparse.Namespace, arm: str) -> dict[str, Any]:
    """The settings with which this arm did best on the images kept aside; without trials none.
    Either arm must have had the same number of them."""
    tried: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in TRIALS}
    for r in results(a):
        if r["mode"] == "tune":
            tried[r["arm"]][json.dumps(r["settings"])].append(r["accuracy"])
    nums = {name: sorted(map(len, scores.values())) for name, scores in tried.items()}
    assert len(set(map(tuple, nums.values()))) == 1, f"trials: {nums}"
    means = {key: statistics.mean(scores) for key, scores in tried[arm].items()}
    return json.loads(max(means, key=means.get)) if means else {}


# Report


def results(a: argparse.Namespace) -> list[dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in sorted(a.out.glob("*.json"))]
    return [result for result in found if "arm" in result]


def read_right(a: argparse.Namespace, result: dict[str, Any]) -> np.ndarray:
    bits = np.fromfile(a.out / f"{result['name']}.bits", dtype=np.uint8)
    return np.unpackbits(bits, count=result["num_images"]).astype(bool)


def points(low: float, high: float) -> str:
    return f"{100 * low:+.2f} to {100 * high:+.2f}"


def mean_interval(values: np.ndarray, quantile: float) -> tuple[float, float]:
    """95 % of the mean of independent `values`, whose own spread is all that is known."""
    half = quantile * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def report(a: argparse.Namespace) -> str:
    """Accuracy of every arm, and what it gains over the baseline with the same seed."""
    everything = results(a)
    lines = [
        "| mode | arm | seeds | test accuracy, mean (each seed) | epochs | V | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for result in sorted(everything, key=lambda r: r["seed"]):
        if result["mode"] != "tune":
            mode = "" if result["arm"] == "teacher" else result["mode"]
            groups[mode, result["arm"]].append(result)
    for (mode, arm), runs in sorted(groups.items()):
        each = ", ".join(f"{100 * r['accuracy']:.2f}" for r in runs)
        mean = 100 * statistics.mean(r["accuracy"] for r in runs)
        if len(runs) == 1:
            num = runs[0]["num_images"]
            low, high = wilson_interval(round(runs[0]["accuracy"] * num), num)
            each = f"{100 * low:.1f} to {100 * high:.1f}"
        cells = [
            f"{statistics.median(r[key] for r in runs):.0f}" if runs[0].get(key) else ""
            for key in ("epochs", "view_epochs", "seconds")
        ]
        lines.append(
            f"| {mode} | {arm} | {len(runs)} | {mean:.2f} % ({each}) | " + " | ".join(cells) + " |"
        )
    lines += ["", *gains(a, groups)]
    trials = [r for r in everything if r["mode"] == "tune"]
    if trials:
        lines += ["", "| trial on training images kept aside | arm | accuracy |", "|---|---|---|"]
        lines += [
            f"| {json.dumps(r['settings'])}, seed {r['seed']} | {r['arm']} "
            f"| {100 * r['accuracy']:.2f} % |"
            for r in trials
        ]
    return "\n".join(lines)


def gains(a: argparse.Namespace, groups: dict[tuple[str, str], list[dict[str, Any]]]) -> list[str]:
    """Paired differences: each seed over its images, then the mean over images and over seeds."""
    baseline = BASELINES[a.benchmark]
    lines = [
        f"| mode | arm less {baseline} | seed | points | 95 % interval | p |",
        "|---|---|---|---|---|---|",
    ]
    for (mode, arm), runs in sorted(groups.items()):
        if arm in (baseline, "teacher"):
            continue
        others = {r["seed"]: r for r in groups.get((mode, baseline), [])}
        differences, by_image = [], []
        for run in runs:
            if run["seed"] not in others:
                continue
            right_N, other_N = read_right(a, run), read_right(a, others[run["seed"]])
            gain = paired_gain(right_N, other_N)
            differences.append(gain.difference)
            by_image.append(right_N.astype(float) - other_N)
            lines.append(
                f"| {mode} | {arm} | {run['seed']} | {100 * gain.difference:+.2f} "
                f"| {points(*gain.interval)} | {gain.p_value:.2g} |"
            )
        if len(differences) < 2:
            continue
        mean = f"{100 * statistics.mean(differences):+.2f}"
        over_images = mean_interval(np.mean(by_image, axis=0), 1.96)
        from scipy.stats import t

        quantile = float(t.ppf(0.975, len(differences) - 1))
        over_seeds = mean_interval(np.array(differences), quantile)
        p_value = one_sample_p(np.array(differences))
        lines += [
            f"| {mode} | {arm} | all, over images | {mean} | {points(*over_images)} | |",
            f"| {mode} | {arm} | all, over seeds (t) | {mean} | {points(*over_seeds)} "
            f"| {p_value:.2g} |",
        ]
    return lines


def one_sample_p(differences: np.ndarray) -> float:
    from scipy.stats import ttest_1samp

    return float(ttest_1samp(differences, 0.0).pvalue)


# Command line


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("benchmark", choices=DATA_SETS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=None, help="runs/benchmarks/BENCHMARK")
    parser.add_argument("--arms", nargs="+", default=None, help="also 1/N, auto and teacher")
    parser.add_argument("--seeds", nargs="+", type=int, default=None)
    parser.add_argument("--core", type=int, default=None, help="run on this core alone")
    parser.add_argument("--train-images", type=int, default=None, help="the first of each class")
    parser.add_argument("--test-images", type=int, default=None, help="for a quick look only")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--budget", default=None, help="equal wall clock instead of equal epochs")
    parser.add_argument("--model", default=None, help="name of the student without teacher")
    parser.add_argument("--image-size", type=int, default=None)
    parser.add_argument("--teacher-size", type=int, default=None, help="imagenette: pixels a side")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--set", nargs="*", default=[], help="settings of all runs")
    parser.add_argument("--tune", action="store_true", help="try --settings, for later runs")
    parser.add_argument("--settings", nargs="+", default=None, help="one trial each: a=1,b=2")
    parser.add_argument("--report", action="store_true")
    a = parser.parse_args()
    is_cifar = a.benchmark == "view-epochs"
    if is_cifar and a.tune:
        parser.error("view-epochs compares arms under one setting; --set changes it for all")
    a.out = a.out or Path("runs/benchmarks") / a.benchmark
    a.arms = a.arms or ARMS[a.benchmark]
    a.seeds = a.seeds or ([0] if a.tune else [0, 1, 2])
    a.image_size = a.image_size or (32 if is_cifar else 64)
    a.teacher_size = a.teacher_size or (32 if is_cifar else 160)
    a.model = a.model or ("deit_nano_conv_patch4_32" if is_cifar else "deit_nano_conv_patch8_64")
    if is_cifar:
        a.train_images = a.train_images or 3000
    else:
        a.budget = a.budget or "12m"
    return a


def pin(core: int) -> None:
    """One core, one thread, whatever the machine has: numpy's threads are counted when it is
    imported, so the program starts once more."""
    os.sched_setaffinity(0, {core})
    if os.environ.get("OPENBLAS_NUM_THREADS") != "1":
        os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        os.execv(sys.executable, [sys.executable, *sys.argv])
    torch.set_num_threads(1)


def main() -> None:
    a = read_arguments()
    a.out.mkdir(parents=True, exist_ok=True)
    if a.report:
        print(report(a))
        return
    if a.core is not None:
        pin(a.core)
    train_pairs = read_train(a)
    folder = a.data / DATA_SETS[a.benchmark]
    if a.tune:
        train_pairs, test_pairs = split_for_trials(train_pairs)
    else:
        test_pairs = read_pairs(folder, "test", limit=a.test_images)
    for seed in a.seeds:
        for arm in a.arms:
            if arm == "teacher":
                ask_teacher(a, test_pairs)
                continue
            trials: list[dict[str, Any]] = [{}]
            if a.tune:
                trials = [parsed([text]) for text in a.settings or TRIALS[arm]]
            elif a.benchmark == "imagenette":
                trials = [best_trial(a, arm)]
            for settings in trials:
                words = ["tune" if a.tune else "epochs" if a.budget is None else a.budget]
                words += [arm, f"seed{seed}"]
                if a.tune:
                    words += [f"{key}={value}" for key, value in settings.items()]
                run_arm(
                    a,
                    arm,
                    seed,
                    name=slug("-".join(words)),
                    settings=settings,
                    train_pairs=train_pairs,
                    test_pairs=test_pairs,
                )


if __name__ == "__main__":
    main()
