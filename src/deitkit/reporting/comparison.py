"""Runs side by side, for people: a table on the terminal, a page with their curves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable
from deitkit.reporting.charts import interval_chart, line_chart
from deitkit.reporting.pages import chart, duration, percent, points, render_page

Values = Mapping[str, Any]


def _rows(facts: Values) -> list[dict[str, str]]:
    """Each run in words."""
    rows = []
    for run in facts["runs"]:
        low, high = run["metrics"]["top1_interval"]
        gain = run["gain"]
        if gain is None:
            less, p_value = "", ""
        else:
            from_to = " to ".join(points(bound).split()[0] for bound in gain["interval"])
            less = f"{points(gain['difference'])} ({from_to})"
            p_value = "< 0.001" if gain["p_value"] < 0.001 else f"{gain['p_value']:.3f}"
        rows.append(
            {
                "name": run["name"],
                "accuracy": f"{percent(run['metrics']['top1'])}",
                "interval": f"{percent(low)} to {percent(high)}",
                "gain": less,
                "p": p_value,
                "nll": f"{run['metrics']['nll']:.4f}",
                "ece": percent(run["metrics"]["ece"]),
                "parameters": "" if run["parameters"] is None else f"{run['parameters']:,}",
                "latency": f"{run['latency_ms']:.1f} ms",
                "training": "" if run["seconds"] is None else duration(run["seconds"]),
            }
        )
    return rows


COLUMNS = {
    "name": "run",
    "accuracy": "accuracy",
    "interval": "95 % interval",
    "gain": "less the first",
    "p": "p (McNemar)",
    "nll": "nll",
    "ece": "calib. error",
    "parameters": "parameters",
    "latency": "one image",
    "training": "training",
}


def print_comparison_table(console: Console, facts: Values) -> None:
    """`Comparison.to_dict()` as tables: the runs, then what is not the same in them."""
    table = Table(title=Text(f"measured on {printable(facts['measured_on'])}"))
    rows = _rows(facts)
    table.add_column("")
    for row in rows:
        table.add_column(Text(printable(row["name"])), overflow="fold")
    for key, title in COLUMNS.items():
        if key != "name":
            table.add_row(title, *(row[key] for row in rows))
    console.print(table)
    for title, differences in (("settings", facts["settings"]), ("data", facts["data"])):
        if not differences:
            continue
        table = Table(title=f"other {title}")
        table.add_column("")
        for run in facts["runs"]:
            table.add_column(Text(printable(run["name"])), overflow="fold")
        for name, values in differences.items():
            table.add_row(name, *(Text(printable(value)) for value in values))
        console.print(table)


def comparison_page(facts: Values, logs: Mapping[str, Sequence[Values]], *, version: str) -> bytes:
    """The page: table, differences, curves over each other. `logs` are metrics.jsonl by run."""
    accuracy = {
        name: [
            (line["epoch"], 100 * max(scores["top1"] for scores in line["scores"].values()))
            for line in log
            if line["event"] == "evaluated"
        ]
        for name, log in logs.items()
    }
    loss = {
        name: [
            (line["epoch"], line["label_loss"])
            for line in log
            if line["event"] == "step" and line["label_loss"] is not None
        ]
        for name, log in logs.items()
    }
    charts = [
        chart(line_chart(_drawn(series), title=title, x_label="epoch", y_label=unit), number)
        for number, (title, unit, series) in enumerate(
            (("Validation accuracy", "percent", accuracy), ("Label loss", "nats", loss))
        )
        if any(series.values())
    ]
    intervals = [
        (
            printable(run["name"]),
            100 * run["gain"]["difference"],
            100 * run["gain"]["interval"][0],
            100 * run["gain"]["interval"][1],
        )
        for run in facts["runs"]
        if run["gain"] is not None
    ]
    first = printable(facts["runs"][0]["name"])
    gains = interval_chart(
        intervals, title=f"Less {first}", x_label="points of accuracy, 95 %", reference=0.0
    )
    return render_page(
        "compare.html",
        {
            **facts,
            "columns": COLUMNS,
            "rows": _rows(facts),
            "gains": chart(gains, 80),
            "charts": charts,
            "version": version,
            "when": time.strftime("%Y-%m-%d %H:%M %Z"),
        },
    )


def _drawn(series: Mapping[str, Sequence[tuple[float, float]]]) -> dict[str, Any]:
    return {printable(name): points for name, points in series.items() if points}
