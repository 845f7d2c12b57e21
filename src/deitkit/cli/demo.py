"""deitkit demo"""

from __future__ import annotations

import io
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.errors import ConfigError

TEACHER_EPOCHS, STUDENT_EPOCHS, ALONE_EPOCHS = 12, 20, 28
"""Epochs and no budget: a slow or busy machine takes longer, and ends in the same place. The eight
epochs more of the student alone take longer than the teacher does."""
EVERY_NTH_TESTS = 5

PUBLISHED_BASELINE = (
    "support vector machine, published by scikit-learn (trained on the first half, tested on the "
    "second)",
    "97 %",
    "about 1 s",
)


def demo(*, out: str = "demo", overwrite: bool = False) -> int:
    """Train a teacher and two students on 1,797 scanned digits, in two minutes, and compare them.

    A second call shows the finished runs again; an interrupted one goes on.

    Parameters
    ----------
    out
        Folder for the images and the three runs.
    overwrite
        Train all three anew.
    """
    from deitkit.api import train
    from deitkit.reporting.console import TrainingConsole, make_console

    started = time.monotonic()
    folder = Path(out).expanduser()
    photos = folder / "digits"
    console = make_console()
    write_digits(photos)
    console.print(f"1,797 scanned digits of 8x8 pixels are in {photos}/train and {photos}/test\n")
    runs: list[tuple[str, str, dict[str, Any]]] = [
        (
            "teacher, a small CNN",
            "teacher",
            {"model": "small_cnn", "epochs": TEACHER_EPOCHS, "optim.label_smoothing": 0},
        ),
        (
            "student alone, for the teacher's time longer",
            "alone",
            {"model": STUDENT, "epochs": ALONE_EPOCHS},
        ),
        (
            "student with the teacher",
            "student",
            {
                "model": STUDENT_DISTILLED,
                "epochs": STUDENT_EPOCHS,
                "teacher": str(folder / "teacher"),
            },
        ),
    ]
    rows = []
    for title, name, settings in runs:
        settings = {"data": str(photos), "out": str(folder / name), **settings}
        shown = " ".join(f"{key}={value}" for key, value in settings.items())
        console.print(f"$ deitkit train {shown}", style="bold")
        training = TrainingConsole()
        try:
            run = train(
                on_event=training.show,
                progress=training.progress,
                overwrite=overwrite or None,
                **settings,
            )
            evaluation = run.evaluate(photos / "test", progress=training.progress)
        finally:
            training.close()
        console.print()
        rows.append((title, run, evaluation))
    _print_table(console, rows, folder, time.monotonic() - started)
    return 0


STUDENT = "deit_nano_conv_patch2_8"
STUDENT_DISTILLED = "deit_nano_conv_distilled_patch2_8"


def load_digits() -> tuple[np.ndarray, np.ndarray, str]:
    """The embedded data: images uint8 [1797, 8, 8], labels uint8 [1797], source and licence."""
    resource = files("deitkit.cli") / "digits" / "digits.npz"
    with np.load(io.BytesIO(resource.read_bytes()), allow_pickle=False) as archive:
        return archive["images"], archive["labels"], str(archive["note"])


def write_digits(folder: Path) -> None:
    """The embedded images as an ordinary folder: train and test, a folder a digit, PNG files.

    Every fifth image of a digit is a test image. Files that are there already stay.

    Raises:
        ConfigError: NOT_OURS, the folder holds something else.
    """
    from PIL import Image

    from deitkit.runtime.durable import write_file

    note_file = folder / "SOURCE.txt"
    if note_file.is_file():
        return
    if folder.exists() and any(folder.iterdir()) and not (folder / "train").is_dir():
        raise ConfigError("NOT_OURS", folder, "holds other files", "choose another out=")
    images, labels, note = load_digits()
    seen = [0] * 10
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = "test" if seen[label] % EVERY_NTH_TESTS == 0 else "train"
        seen[label] += 1
        target = folder / split / str(label)
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(target / f"{index:04d}.png")
    # Written last: without it the folder is made again.
    write_file(note_file, (note + "\n").encode())


def _print_table(console: Any, rows: list[Any], folder: Path, seconds: float) -> None:
    from rich.table import Table
    from rich.text import Text

    from deitkit.reporting.console import percent
    from deitkit.reporting.durations import duration

    num_images = rows[0][2].fused.num_images
    table = Table(title=f"{num_images} test images that no training saw")
    for name in ("", "accuracy", "95 % interval", "parameters", "seconds"):
        table.add_column(name, justify="left" if not name else "right", overflow="fold")
    for title, run, evaluation in rows:
        low, high = evaluation.fused.top1_interval
        table.add_row(
            Text(title),
            percent(evaluation.accuracy),
            f"{100 * low:.1f} to {100 * high:.1f}",
            f"{run.result['parameters']:,}",
            f"{run.result['command_seconds']:.0f}",
        )
    title, accuracy, time_needed = PUBLISHED_BASELINE
    table.add_row(Text(title), accuracy, "", "", time_needed)
    console.print(table)
    for _, run, _ in rows:
        console.print(f"run folder: {run.folder}")
    console.print(f"\nthe whole demo took {duration(seconds)}; now with your own images:")
    console.print("  deitkit train data=photos/            one folder for each class")
    console.print(f"  deitkit predict {folder / 'student'} {folder / 'digits' / 'test' / '3'}")
