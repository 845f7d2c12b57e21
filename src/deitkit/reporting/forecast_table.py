"""A plan and a forecast, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.reporting.durations import duration

PART_WORDS = {
    "start_up": "starting",
    "reading": "reading the images",
    "teacher": "training the teacher",
    "asking": "asking the teacher before training",
    "image_cache": "filling the image cache",
    "choosing": "timing a few steps and choosing",
    "steps": "training steps",
    "evaluations": "evaluations",
    "checkpoints": "checkpoints",
    "conclusion": "calibration and report",
}


def megabytes(num_bytes: float) -> str:
    """410 MB, 2.31 GB."""
    if num_bytes < 999.5e6:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e9:.2f} GB"


def forecast_line(forecast: Mapping[str, Any]) -> str:
    """Time, memory, and the parts that take a twentieth or more, in a line."""
    total_s = forecast["total_s"]
    parts = [
        f"{PART_WORDS[part]} {duration(seconds)}"
        for part, seconds in forecast["seconds"].items()
        if seconds >= total_s / 20
    ]
    said = f"{duration(total_s)} for the whole command, {megabytes(forecast['memory_bytes'])}"
    return f"{said} ({', '.join(parts)})"


def forecast_rows(beside: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What forecast.json holds of a run's forecast, to stand below what it took; nothing for runs
    from before there was one."""
    forecast = None if beside is None else beside.get("forecast")
    return [("forecast before the first step", forecast_line(forecast))] if forecast else []


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """What was found, what was chosen and why, what it will take, and what to type."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for name, text in plan["data"].items():
        grid.add_row(name, Text(text))
    console.print(grid)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("what", no_wrap=True)
    table.add_column("choice", overflow="fold", max_width=34)
    table.add_column("reason", overflow="fold")
    for row in plan["choices"]:
        table.add_row(*(Text(row[name]) for name in ("what", "choice", "reason")))
    console.print()
    console.print(table)
    console.print()
    print_forecast(console, plan["forecast"])
    for text in plan["notes"]:
        console.print(Text("note: ", style="yellow") + Text(text))
    console.print()
    console.print(Text(plan["command"], style="bold"), soft_wrap=True)


def print_forecast(console: Console, forecast: Mapping[str, Any]) -> None:
    """Seconds of each part, their sum, memory, and what it rests on."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("forecast")
    table.add_column("time", justify="right")
    rows: Sequence[tuple[str, str]] = [
        (PART_WORDS[part], duration(seconds)) for part, seconds in forecast["seconds"].items()
    ]
    for name, text in rows:
        table.add_row(name, text)
    table.add_row(Text("the whole command", style="bold"), duration(forecast["total_s"]))
    table.add_row(Text("memory", style="bold"), megabytes(forecast["memory_bytes"]))
    console.print(table)
    for text in forecast["rests_on"]:
        console.print(Text(f"  {text}", style="dim"))
