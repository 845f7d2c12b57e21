"""Evaluations and comparisons as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable
from deitkit.reporting.console import percent
from deitkit.reporting.intervals import percent_bounds

HEAD_NAMES = {"fused": "both heads", "cls": "class head", "dist": "distillation head"}
MAX_CONFUSION_CLASSES = 20
MAX_CLASS_ROWS = 60


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def print_evaluation(
    console: Console, evaluation: dict[str, Any], class_names: Sequence[str]
) -> None:
    """Heads, classes and confusions of `Evaluation.to_dict()`."""
    heads = evaluation["heads"]
    fused = heads["fused"]
    table = Table(title=f"{fused['num_images']:,} images of {printable(evaluation['data'])}")
    for column in ("", "top-1", "95 % interval", "top-5", "95 % interval", "nll", "calib. error"):
        table.add_column(column, justify="left" if not column else "right")
    for head, metrics in heads.items():
        name = HEAD_NAMES[head] if len(heads) > 1 else "accuracy"
        top5, bounds5 = metrics["top5"], metrics["top5_interval"]
        table.add_row(
            name,
            percent(metrics["top1"]),
            percent_bounds(metrics["top1_interval"]),
            "n/a" if top5 is None else percent(top5),
            "" if bounds5 is None else percent_bounds(bounds5),
            f"{metrics['nll']:.4f}",
            f"{metrics['ece']:.4f}",
        )
    console.print(table)
    console.print(
        f"macro accuracy, each class counted alike: {percent(fused['macro'])} "
        f"(95 % interval {percent_bounds(fused['macro_interval'])})"
    )
    classes = Table(title="classes, in percent")
    for column in ("class", "images", "precision", "recall", "F1"):
        classes.add_column(column, justify="left" if column == "class" else "right")
    for row in fused["per_class"][:MAX_CLASS_ROWS]:
        classes.add_row(
            Text(printable(row["name"])),
            f"{row['num_images']:,}",
            _share(row["precision"]),
            _share(row["recall"]),
            _share(row["f1"]),
        )
    console.print(classes)
    if len(class_names) > MAX_CLASS_ROWS:
        console.print(f"and {len(class_names) - MAX_CLASS_ROWS} more classes: see --json")
    _print_confusion(console, fused["confusion"], class_names)


def _print_confusion(
    console: Console, confusion: Sequence[Sequence[int]], class_names: Sequence[str]
) -> None:
    if len(class_names) <= MAX_CONFUSION_CLASSES:
        table = Table(title="confusion: a row is the true class, a column the predicted one")
        table.add_column("")
        for index in range(len(class_names)):
            table.add_column(str(index), justify="right")
        for index, (name, row) in enumerate(zip(class_names, confusion, strict=True)):
            cells = [str(n) if n else "." for n in row]
            table.add_row(Text(f"{index} {printable(name)}"), *cells)
        console.print(table)
        return
    pairs = [
        (n, class_names[i], class_names[j])
        for i, row in enumerate(confusion)
        for j, n in enumerate(row)
        if n and i != j
    ]
    table = Table(title="most frequent confusions")
    for column in ("images", "true class", "taken for"):
        table.add_column(column)
    for n, true, taken in sorted(pairs, reverse=True)[:20]:
        table.add_row(str(n), Text(printable(true)), Text(printable(taken)))
    console.print(table)
