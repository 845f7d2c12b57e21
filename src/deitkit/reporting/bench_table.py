"""What `deitkit bench` found, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable


def print_bench(console: Console, facts: Mapping[str, Any]) -> None:
    """`Benched.to_dict()`: a row for each way and batch size."""
    height, width = facts["picture_size"]
    table = Table(title=Text(printable(f"{facts['model']}, pictures of {width}x{height}")))
    for name in ("", "batch", "images a second", "median", "95 % within", "calls"):
        table.add_column(name, justify="left" if name == "" else "right")
    for row in facts["rows"]:
        if row["median_ms"] is None:
            why = Text(f"{row['way']}: {printable(row['why'])}")
            table.add_row(why, str(row["batch_size"]), "", "", "", "")
            continue
        table.add_row(
            row["way"],
            str(row["batch_size"]),
            f"{row['images_per_s']:,.1f}",
            f"{row['median_ms']:,.1f} ms",
            f"{row['p95_ms']:,.1f} ms",
            str(row["num_calls"]),
        )
    console.print(table)
    machine = facts["machine"]
    console.print(Text(f"on {printable(str(machine))}"))
