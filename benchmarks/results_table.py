"""Lines of the tables in docs/results.md, each in the place of the one of the same data and arm."""

from __future__ import annotations

import datetime
import os
import subprocess
from pathlib import Path

from deitkit.evaluation.metrics import wilson_interval

PAGE = Path(__file__).parents[1] / "docs" / "results.md"


def percent_interval(num_right: int, num_images: int) -> str:
    """Wilson's interval at 95 %."""
    low, high = wilson_interval(num_right, num_images)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def hardware() -> str:
    try:
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
    except OSError:
        names = []
    return f"{len(os.sched_getaffinity(0))} cores {names[0] if names else ''}".strip()


def today_and_commit() -> str:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return f"{datetime.date.today()}, {commit}"


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def rows_of(table: str) -> list[list[str]]:
    """The cells of each line between `<!-- table begins -->` and `<!-- table ends -->`."""
    lines, start, end = _between(table)
    return [cells_of(line) for line in lines[start + 1 : end]]


def write_line(line: str, *, table: str) -> None:
    """Into the table, in the place of the line with the same first two cells, else at its end."""
    lines, start, end = _between(table)
    rows = lines[start + 1 : end]
    places = [i for i, row in enumerate(rows) if cells_of(row)[:2] == cells_of(line)[:2]]
    if places:
        rows[places[0]] = line
    else:
        rows.append(line)
    PAGE.write_text("\n".join([*lines[: start + 1], *rows, *lines[end:]]) + "\n", encoding="utf-8")


def _between(table: str) -> tuple[list[str], int, int]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start, end = (lines.index(f"<!-- {table} {which} -->") for which in ("begins", "ends"))
    return lines, start, end
