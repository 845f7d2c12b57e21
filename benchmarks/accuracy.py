"""One command per row of docs/results.md: `python benchmarks/accuracy.py NAME`.

From data to lines of the table: accuracy on images no training saw, 95 % interval, seconds, PFLOP,
hardware, date, commit. The clock starts with each arm and includes its teacher, reading, timing and
evaluation; every arm has the whole budget, its test images included. Nothing is chosen on those.

student   a transformer that learns from the teacher it trains first (teacher=auto)
alone     the same transformer without a teacher, with the teacher's time as well
cnn       a convolutional network for the same time

All else is deitkit's default, but for `ranks=auto`: one process or one a core, whichever is faster.
Runs below ten minutes have three seeds. What the student gains over each of the others is a second
table: over one seed paired by image (Newcombe's interval, McNemar's test), over several by seed.
Rows that need a GPU say so where there is none. `cifar10_to_94` has been won at a budget where the
student's accuracy is 94.0 % or more: try smaller ones with --budget.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from results_table import hardware, percent_interval, today_and_commit, write_line

import deitkit
from deitkit.api.freeze import no_progress
from deitkit.cli.demo import load_digits
from deitkit.config import parse_duration_s
from deitkit.evaluation.paired import paired_gain
from deitkit.reporting.ablation import t_interval
from deitkit.reporting.console import TrainingConsole

STUDENT = "student"
ARMS = (STUDENT, "alone", "cnn")
OTHERS = ("its teacher", "alone", "cnn")
FLOP_PER_MAC, PASSES = 2, 3
"""Backward costs two forwards."""
TEST_SHARE = 0.04
"""Of an arm's time, what its test images may take; the command gets the rest."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What all arms share, and what each has of its own; all else is deitkit's default."""

    said: str
    folder: str | None
    """The data's name in the folder given by --data; None for the digits that come with deitkit."""
    budget_s: int
    """Of one fold."""
    settings: dict[str, Any] = field(default_factory=dict)
    cnn: str = "quick_cnn"
    folds: int = 1
    seeds: tuple[int, ...] = (0,)
    needs_cuda: bool = False


GPU_ROW = Row(
    said="CIFAR-10, 8 minutes of a GPU, up to 22 M",
    folder="cifar10",
    budget_s=480,
    settings={"model": "deit_tiny_quick{token}_patch4_32", "model.stem_width": 64},
    cnn="quick_cnn_wide",
    needs_cuda=True,
)
ROWS = {
    "digits": Row(
        said="digits 8x8, 5-fold mean", folder=None, budget_s=22, folds=5, seeds=(0, 1, 2)
    ),
    "fashion_mnist": Row(
        said="Fashion-MNIST 28x28",
        folder="fashion_mnist",
        budget_s=600,
        settings={"data.channels": 1},
        cnn="quick_cnn_narrow",
    ),
    "cifar10": Row(said="CIFAR-10 32x32", folder="cifar10", budget_s=1800),
    "imagenette": Row(said="imagenette, 3,200 images", folder="imagenette", budget_s=2700),
    "cifar10_plain": Row(
        said="CIFAR-10, 8 minutes of a GPU, plain DeiT-Ti",
        folder="cifar10",
        budget_s=480,
        settings={"model": "deit_tiny{token}_patch4_32"},
        cnn="quick_cnn_wide",
        needs_cuda=True,
    ),
    "cifar10_gpu": GPU_ROW,
    "cifar10_to_94": replace(GPU_ROW, said="CIFAR-10, time to 94.0 % on a GPU", budget_s=180),
}


class Measured(NamedTuple):
    """One network of one arm, of one fold or of all."""

    model: str
    parameters: int
    fold_accuracies: tuple[float, ...]
    right_N: NDArray[np.bool_]
    """Whether each test image is, in the order of the data; fold after fold."""
    seconds: float
    pflop: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    parser.add_argument("--seeds", type=int, nargs="*", help="as many as the row owes, from 0")
    parser.add_argument("--budget", help="60s, 10m; written down where left out")
    parser.add_argument("--only", nargs="*", choices=ARMS, default=ARMS)
    parser.add_argument("--set", nargs="*", default=[], help="name=value, for all arms")
    asked = parser.parse_args()
    row = ROWS[asked.name]
    if row.needs_cuda and not torch.cuda.is_available():
        raise SystemExit(f"{row.said}: no CUDA device here, so not measured")
    if asked.budget:
        row = replace(row, budget_s=round(parse_duration_s(asked.budget)))
    if asked.seeds:
        row = replace(row, seeds=tuple(asked.seeds))
    folder = asked.out / asked.name
    more = dict(one.split("=", 1) for one in asked.set)
    for arm in asked.only:
        parts: dict[str, list[list[Measured]]] = {}
        for seed in row.seeds:
            for name, folds in measure(row, arm, seed, asked, more).items():
                parts.setdefault(name, []).append(folds)
        for name, seeds in parts.items():
            found = [together(folds) for folds in seeds]
            for seed, one_seed in zip(row.seeds, found, strict=True):
                np.save(seed_folder(folder, seed) / f"{name}.npy", one_seed.right_N)
            show(table_line(row, name, found), table="accuracy.py", writes=not asked.budget)
    for name in OTHERS:
        is_new = STUDENT in asked.only or name in asked.only
        if is_new and (line := gain_line(row, name, folder)):
            show(line, table="gains", writes=not asked.budget)


def show(line: str, *, table: str, writes: bool) -> None:
    print(line, flush=True)
    if writes:
        write_line(line, table=table)


def seed_folder(folder: Path, seed: int) -> Path:
    return folder.with_name(f"{folder.name}-seed{seed}")


def measure(
    row: Row, arm: str, seed: int, asked: argparse.Namespace, more: dict[str, str]
) -> dict[str, list[Measured]]:
    """Train the arm in each fold; what came of it by fold, and of the teachers it trained."""
    found: dict[str, list[Measured]] = {}
    for fold in range(row.folds):
        out = seed_folder(asked.out / asked.name, seed) / f"{arm}{fold}"
        for name, measured in measure_fold(row, arm, seed, fold, out, asked.data, more):
            found.setdefault(name, []).append(measured)
    return found


def measure_fold(
    row: Row, arm: str, seed: int, fold: int, out: Path, data: Path, more: dict[str, str]
) -> list[tuple[str, Measured]]:
    """Train the arm once; (name, what came of it) of it and of the teacher it trained."""
    own = {"student": {"teacher": "auto"}, "alone": {}, "cnn": {"model": row.cnn}}[arm]
    train_data, test_data = load(row, data, fold)
    token = "_distilled" if arm == "student" else ""
    settings = {
        name: value.format(token=token) if isinstance(value, str) else value
        for name, value in row.settings.items()
        if arm != "cnn" or not name.startswith("model")
    }
    budget = f"{round((1 - TEST_SHARE) * row.budget_s)}s"
    settings |= {"budget": budget, "seed": seed, "out": str(out), **own, **more}
    started = time.monotonic()
    run = train(train_data, settings)
    right_N = answers_right(run, test_data)
    seconds = time.monotonic() - started
    taught = out / "teacher"
    found = []
    teacher_pflop = 0.0
    if taught.is_dir():
        teacher = deitkit.open_run(taught)
        teacher_pflop = training_pflop(teacher)
        own_seconds = float(result_of(teacher)["command_seconds"])
        teacher_right_N = answers_right(teacher, test_data)
        found = [("its teacher", one(teacher, teacher_right_N, own_seconds, teacher_pflop))]
        teacher_pflop += asking_pflop(run, teacher)
    whole = training_pflop(run) + teacher_pflop
    return [(arm, one(run, right_N, seconds, whole)), *found]


def answers_right(run: deitkit.Run, data: Any) -> NDArray[np.bool_]:
    """Whether each of the N test images is answered right."""
    images, _ = run.labelled_images(data, None, no_progress)
    right_N: NDArray[np.bool_] = run.predictor.fused_logits(images).argmax(axis=1) == images.labels
    return right_N


def train(data: Any, settings: dict[str, Any]) -> deitkit.Run:
    """As a user would: by the command line where the data has a path."""
    if isinstance(data, str):
        words = [f"{name}={value}" for name, value in settings.items()]
        command = [sys.executable, "-m", "deitkit", "train", f"data={data}", "ranks=auto", *words]
        subprocess.run(command, check=True)
        return deitkit.open_run(settings["out"])
    console = TrainingConsole()
    run = deitkit.train(data=data, on_event=console.show, progress=console.progress, **settings)
    console.close()
    return run


def one(run: deitkit.Run, right_N: NDArray[np.bool_], seconds: float, pflop: float) -> Measured:
    return Measured(
        model=result_of(run)["model"],
        parameters=result_of(run)["parameters"],
        fold_accuracies=(float(right_N.mean()),),
        right_N=right_N,
        seconds=seconds,
        pflop=pflop,
    )


def together(folds: list[Measured]) -> Measured:
    return folds[0]._replace(
        fold_accuracies=tuple(a for f in folds for a in f.fold_accuracies),
        right_N=np.concatenate([f.right_N for f in folds]),
        seconds=sum(f.seconds for f in folds),
        pflop=sum(f.pflop for f in folds),
    )


def result_of(run: deitkit.Run) -> dict[str, Any]:
    result = run.result
    assert result is not None, f"{run.folder} is not finished"
    return result


def config_of(run: deitkit.Run) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((run.folder / "config.yaml").read_text())
    return config


def training_pflop(run: deitkit.Run) -> float:
    """Forward and backward of every view."""
    result = result_of(run)
    num_views = result["num_train"] * result["epochs"]
    return FLOP_PER_MAC * PASSES * result["macs"] * num_views / 1e15


def asking_pflop(run: deitkit.Run, teacher: deitkit.Run) -> float:
    """The teacher's forward for every view that it is asked about."""
    result = result_of(run)
    asked = config_of(run)["distill"]["view_epochs"] or result["epochs"]
    num_views = result["num_train"] * min(asked, result["epochs"])
    return FLOP_PER_MAC * result_of(teacher)["macs"] * num_views / 1e15


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


def table_line(row: Row, arm: str, seeds: list[Measured]) -> str:
    """The mean over seeds, and each; the interval is that of the images of one."""
    num_images = len(seeds[0].right_N)
    num_right = round(fmean(int(one_seed.right_N.sum()) for one_seed in seeds))
    of_each = [100 * fmean(one_seed.fold_accuracies) for one_seed in seeds]
    each = f" ({', '.join(f'{a:.2f}' for a in of_each)})" if len(seeds) > 1 else ""
    cells = (
        row.said,
        arm,
        f"{seeds[0].model}, {seeds[0].parameters:,}",
        f"{fmean(of_each):.2f} %{each}",
        percent_interval(num_right, num_images),
        f"{fmean(one_seed.seconds for one_seed in seeds):,.0f}",
        f"{fmean(one_seed.pflop for one_seed in seeds):.3g}",
        f"{hardware()}, {seeds_said(row)}, {today_and_commit()}",
    )
    return f"| {' | '.join(cells)} |"


def gain_line(row: Row, other: str, folder: Path) -> str | None:
    """What the student has over another arm; None where a seed of either was not measured here."""
    places = [seed_folder(folder, seed) for seed in row.seeds]
    if not all((place / f"{name}.npy").is_file() for place in places for name in (STUDENT, other)):
        return None
    gains = [
        paired_gain(np.load(place / f"{STUDENT}.npy"), np.load(place / f"{other}.npy"))
        for place in places
    ]
    differences = [gain.difference or 0.0 for gain in gains]
    low, high = gains[0].interval if len(gains) == 1 else t_interval(differences)
    p_value = f"{gains[0].p_value:.2g}" if len(gains) == 1 else ""
    cells = (
        row.said,
        f"student less {other}",
        f"{100 * fmean(differences):+.2f} ({100 * low:+.2f} to {100 * high:+.2f})",
        p_value,
        f"{seeds_said(row)}, {today_and_commit()}",
    )
    return f"| {' | '.join(cells)} |"


def seeds_said(row: Row) -> str:
    if len(row.seeds) == 1:
        return f"seed {row.seeds[0]}"
    return f"seeds {', '.join(map(str, row.seeds))}"


if __name__ == "__main__":
    main()
