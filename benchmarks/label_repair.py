"""How well doubtful labels are found, and what 150 corrections win back.

    python benchmarks/label_repair.py [--core 1] [--budget 10m] [--seeds 2]

imagenette, 3,200 training images at 64 px, 8 % of them under a wrong label (seed 0, evenly among
the other classes). A student without a teacher is trained on the noisy labels; all its images are
ranked as `deitkit review` ranks them, by the student alone and by the student with a public
MobileNetV2 that never saw these labels. Then the first 150 of that second ranking get their true
label, as a careful person would give it, through `labels=`, and the same training runs again;
`clean` is trained on the true labels. Equal steps: those that fit --budget on the noisy labels. All
are tested on the 1,000 test images, whose labels are true. One training is right on a point more or
less by chance alone, so all three are trained under several seeds, and differences are means over
them, image by image; the ranking is that of the first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from distillation import mobilenet_v2, pin, read_pairs

import deitkit
from deitkit.api.reviewing import Doubtful, find_doubtful
from deitkit.data import open_split
from deitkit.data.label_overlay import CHANGE, KEEP, LabelEdit, write_overlay
from deitkit.evaluation.doubts import doubts, ranked
from deitkit.evaluation.metrics import softmax, wilson_interval
from deitkit.teachers.class_match import match_classes
from deitkit.training.teacher_clean import ask_on_clean

SHARE_SWAPPED = 0.08
NUM_SHOWN, NUM_CORRECTED = 100, 150
SETTINGS: dict[str, Any] = {
    "model": "deit_nano_conv_patch8_64",
    "image_size": 64,
    "batch_size": 64,
    "lr": 0.013,
    "init": "scratch",
    "workers": 0,
}


def write_folders(a: argparse.Namespace) -> dict[str, str]:
    """clean/ and noisy/ with train, and test; the true class of each training file by its name."""
    names = (a.data / "imagenette/classes.txt").read_text().splitlines()
    rng = np.random.default_rng(0)
    truth: dict[str, str] = {}
    pairs = read_pairs(a.data / "imagenette", "train")
    swapped = set(rng.permutation(len(pairs))[: round(SHARE_SWAPPED * len(pairs))].tolist())
    for number, (content, name) in enumerate(pairs):
        file = f"{number:05}.jpg"
        truth[file] = name
        said = name
        if number in swapped:
            said = str(rng.choice([other for other in names if other != name]))
        for folder, label in (("clean", name), ("noisy", said)):
            path = a.out / folder / "train" / label / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    for number, (content, name) in enumerate(read_pairs(a.data / "imagenette", "test")):
        path = a.out / "test" / name / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return truth


def train(a: argparse.Namespace, name: str, seed: int, **more: Any) -> tuple[Any, np.ndarray]:
    """A run, and which test images it is right on."""
    folder = "noisy" if name == "repaired" else name
    out = a.out / "runs" / f"{name}-{seed}"
    run = deitkit.train(data=str(a.out / folder), out=str(out), seed=seed, **SETTINGS, **more)
    images = open_split(a.out / "test", class_names=run.class_names)
    right_N = run.predictor.fused_logits(images).argmax(axis=1) == images.labels
    print(name, seed, f"{100 * right_N.mean():.2f} %", flush=True)
    return run, right_N


def found_share(order: np.ndarray, wrong_N: np.ndarray) -> dict[str, Any]:
    num = int(wrong_N[order[:NUM_SHOWN]].sum())
    return {
        "precision": num / NUM_SHOWN,
        "interval": wilson_interval(num, NUM_SHOWN),
        "among_first_150": int(wrong_N[order[:NUM_CORRECTED]].sum()),
    }


def mean_gain(right: list[np.ndarray], other_right: list[np.ndarray]) -> dict[str, Any]:
    """Of the accuracy, a mean over seeds, with the 95 % interval that the images leave it."""
    gains_N = np.mean(
        [a.astype(float) - b for a, b in zip(right, other_right, strict=True)], axis=0
    )
    mean, reach = gains_N.mean(), 1.96 * gains_N.std(ddof=1) / np.sqrt(len(gains_N))
    return {"mean": float(mean), "interval": [float(mean - reach), float(mean + reach)]}


def write_corrections(path: Path, doubtful: Doubtful, order: np.ndarray, true_N: list[str]) -> None:
    """What a careful person answers to the first pictures of `order`."""
    edits = {}
    for place in order.tolist():
        row = doubtful.row(place)
        is_wrong = row["label"] != true_N[place]
        edits[row["id"]] = LabelEdit(
            image_id=row["id"],
            path=row["path"],
            action=CHANGE if is_wrong else KEEP,
            label=true_N[place] if is_wrong else "",
        )
    write_overlay(path, edits)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/label-repair"))
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--seeds", type=int, default=2)
    a = parser.parse_args()
    if a.core is not None:
        pin(a.core)
    if not (a.out / "runs").is_dir():
        shutil.rmtree(a.out, ignore_errors=True)
    truth = write_folders(a)
    noisy, right_N = train(a, "noisy", 0, budget=a.budget)
    right: dict[str, list[np.ndarray]] = {"noisy": [right_N], "clean": [], "repaired": []}
    steps = json.loads((noisy.folder / "result.json").read_text())["steps"]
    doubtful = find_doubtful(noisy)
    images = doubtful.images
    true_N = [truth[Path(images.describe(i)).name] for i in range(len(images))]
    wrong_N = np.array(
        [doubtful.class_names[images.labels[i]] != true_N[i] for i in range(len(images))]
    )
    classifier = mobilenet_v2(a.data, 128)
    columns = match_classes(classifier.class_names, doubtful.class_names).columns
    teacher_NK = softmax(ask_on_clean(classifier, images)[:, list(columns)])
    both = ranked(doubts(images.labels, [doubtful.judges["student"], teacher_NK]))
    facts: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]),
        "num_images": len(images),
        "num_wrong": int(wrong_N.sum()),
        "student": found_share(doubtful.order, wrong_N),
        "teacher": found_share(ranked(doubts(images.labels, [teacher_NK])), wrong_N),
        "student_and_teacher": found_share(both, wrong_N),
    }
    print(json.dumps(facts, indent=1), flush=True)
    write_corrections(a.out / "labels.csv", doubtful, both[:NUM_CORRECTED], true_N)
    more = {"noisy": {}, "clean": {}, "repaired": {"labels": str(a.out / "labels.csv")}}
    for seed in range(a.seeds):
        for name, settings in more.items():
            if len(right[name]) == seed:
                _, right_N = train(a, name, seed, **{"schedule.steps": steps}, **settings)
                right[name].append(right_N)
    accuracy = {name: [float(one.mean()) for one in found] for name, found in right.items()}
    lost = mean_gain(right["clean"], right["noisy"])
    won = mean_gain(right["repaired"], right["noisy"])
    facts |= {
        "steps": steps,
        "accuracy": accuracy,
        "lost": lost,
        "won_back": won,
        "share_won_back": won["mean"] / lost["mean"] if lost["mean"] > 0 else None,
    }
    (a.out / "result.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
