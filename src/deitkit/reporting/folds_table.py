"""What the folds of a run found, as a table and as a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable
from deitkit.reporting.durations import duration
from deitkit.reporting.intervals import percent_bounds

MAX_CLASS_ROWS = 20


def folds_line(found: Mapping[str, Any]) -> str:
    """Mean, spread and macro accuracy of `Judged.found`."""
    return (
        f"Over {len(found['folds'])} folds the accuracy is {_points(found['mean'])} % on average, "
        f"with a standard deviation of {_points(found['deviation'])}; macro accuracy, each class "
        f"counted alike: {_points(found['macro'])} % ({percent_bounds(found['macro_interval'])})."
    )


def print_folds(console: Console, found: Mapping[str, Any]) -> None:
    """A row for each fold and one for all images together, then the classes."""
    table = Table(title="folds: each image answered once, by a model that never saw it")
    for column in ("fold", "trained on", "judged", "accuracy", "95 % interval", "epochs", "took"):
        table.add_column(column, justify="right")
    for number, fold in enumerate(found["folds"], 1):
        table.add_row(
            str(number),
            f"{fold['num_train']:,}",
            f"{fold['num_val']:,}",
            f"{_points(fold['accuracy'])} %",
            percent_bounds(fold["interval"]),
            f"{fold['epochs']:.1f}",
            duration(fold["seconds"]),
        )
    table.add_section()
    together = f"{_points(found['accuracy'])} %"
    interval = percent_bounds(found["interval"])
    table.add_row("all", "", f"{found['num_images']:,}", together, interval, "", "")
    console.print(table)
    console.print(folds_line(found))
    rows = sorted(found["per_class"], key=_recall)
    if len(rows) > MAX_CLASS_ROWS:
        rows = rows[:MAX_CLASS_ROWS]
        console.print(f"the {MAX_CLASS_ROWS} weakest of {len(found['per_class']):,} classes:")
    classes = Table()
    for column in ("class", "images", "precision", "recall"):
        classes.add_column(column, justify="left" if column == "class" else "right")
    for row in rows:
        shares = [_share(row[name]) for name in ("precision", "recall")]
        classes.add_row(Text(printable(row["name"])), f"{row['num_images']:,}", *shares)
    console.print(classes)


def _recall(row: Mapping[str, Any]) -> float:
    return -1.0 if row["recall"] is None else float(row["recall"])


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _share(value: float | None) -> str:
    return "n/a" if value is None else f"{_points(value)} %"
