"""One command per row of docs/results.md: `python benchmarks/accuracy.py NAME`.

From data to a line: accuracy on images no training saw, 95 % interval, seconds of the whole
commands. Teacher and students get their budgets from the table below; the student alone also gets
the teacher's. Nothing is chosen on the test images.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import deitkit
from deitkit.cli.demo import load_digits
from deitkit.evaluation.metrics import wilson_interval
from deitkit.reporting.console import TrainingConsole


@dataclass(frozen=True, kw_only=True)
class Row:
    """Settings of the three runs; `folder` is the data's name in the folder given by data=."""

    folder: str | None
    teacher: dict[str, Any]
    student: dict[str, Any]
    distilled: dict[str, Any] = field(default_factory=dict)
    teacher_s: int
    student_s: int
    folds: int = 1


ROWS = {
    "digits": Row(
        folder=None,
        teacher={"model": "small_cnn", "optim.label_smoothing": 0},
        student={"model": "deit_nano_conv_patch2_8"},
        distilled={"model": "deit_nano_conv_distilled_patch2_8"},
        teacher_s=20,
        student_s=45,
        folds=5,
    ),
    "fashion_mnist": Row(
        folder="fashion_mnist",
        teacher={"model": "small_cnn", "data.channels": 1, "optim.label_smoothing": 0},
        student={"model": "deit_nano_conv_patch4_28", "data.channels": 1},
        distilled={"model": "deit_nano_conv_distilled_patch4_28", "data.channels": 1},
        teacher_s=150,
        student_s=400,
    ),
    "imagenette_64": Row(
        folder="imagenette",
        teacher={"model": "small_cnn", "image_size": 64, "optim.label_smoothing": 0},
        student={"model": "deit_nano_conv_patch8_64"},
        distilled={"model": "deit_nano_conv_distilled_patch8_64"},
        teacher_s=150,
        student_s=420,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=["teacher", "alone", "student"])
    arguments = parser.parse_args()
    row = ROWS[arguments.name]
    out = arguments.out / f"{arguments.name}-seed{arguments.seed}"
    results: dict[str, list[tuple[int, int, float]]] = {}
    for fold in range(row.folds):
        train_data, test_data = load(row, arguments.data, fold)
        for name, settings in runs(row, out / f"fold{fold}", arguments.only):
            started = time.monotonic()
            console = TrainingConsole()
            run = deitkit.train(
                data=train_data,
                seed=arguments.seed,
                on_event=console.show,
                progress=console.progress,
                **settings,
            )
            evaluation = run.evaluate(test_data, split=None)
            console.close()
            seconds = time.monotonic() - started
            num = evaluation.fused.num_images
            results.setdefault(name, []).append((round(evaluation.accuracy * num), num, seconds))
            print(
                name, fold, {h: round(m.top1, 4) for h, m in evaluation.heads.items()}, flush=True
            )
    report(arguments.name, results, arguments.seed)


def runs(row: Row, out: Path, only: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings of train) of each run, the teacher first."""
    both_s = row.teacher_s + row.student_s
    teacher_folder = str(out / "teacher")
    table = [
        ("teacher", {**row.teacher, "budget": f"{row.teacher_s}s"}),
        ("alone", {**row.student, "budget": f"{both_s}s"}),
        (
            "student",
            {
                **row.student,
                **row.distilled,
                "budget": f"{row.student_s}s",
                "teacher": teacher_folder,
            },
        ),
    ]
    return [
        (name, {**settings, "out": str(out / name)}) for name, settings in table if name in only
    ]


def load(row: Row, data: Path, fold: int) -> tuple[Any, Any]:
    """What trains and what is tested; the digits in stratified folds."""
    if row.folder is not None:
        source = str(data / row.folder)
        return source, source
    images, labels, _ = load_digits()
    place = np.zeros(len(labels), dtype=int)
    for digit in range(10):
        where = np.flatnonzero(labels == digit)
        place[where] = np.arange(len(where)) % row.folds
    pairs = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    train = [pair for pair, part in zip(pairs, place, strict=True) if part != fold]
    test = [pair for pair, part in zip(pairs, place, strict=True) if part == fold]
    return train, test


def report(name: str, results: dict[str, list[tuple[int, int, float]]], seed: int) -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    for arm, folds in results.items():
        right, total = sum(f[0] for f in folds), sum(f[1] for f in folds)
        low, high = wilson_interval(right, total)
        line = {
            "row": name,
            "arm": arm,
            "accuracy": round(100 * float(np.mean([f[0] / f[1] for f in folds])), 2),
            "interval": [round(100 * low, 2), round(100 * high, 2)],
            "seconds": round(sum(f[2] for f in folds)),
            "seed": seed,
            "python": platform.python_version(),
            "commit": commit,
        }
        print(json.dumps(line), file=sys.stdout)


if __name__ == "__main__":
    main()
