"""A race as a table: every arm, what it reached, what it cost, and why others were not tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable
from deitkit.reporting.intervals import percent_bounds

TITLES = ("", "accuracy", "95 % interval", "seconds", "parameters", "ms an image", "")
Race = Mapping[str, Any]
"""What race.json holds."""


def race_rows(race: Race) -> list[tuple[str, ...]]:
    """The cells of each arm, under `TITLES`; the winner first, then who was best, the others last.

    An arm that was only tried shows what its short run reached.
    """
    return [_row(arm, is_winner=arm["name"] == race["winner"]) for arm in _ordered(race)]


def race_reasons(race: Race) -> list[str]:
    """A line for each reason, with the arms it holds for."""
    told: dict[str, list[str]] = {}
    for arm in _ordered(race):
        if arm["why"]:
            told.setdefault(arm["why"], []).append(arm["title"])
    return [f"{', '.join(titles)}: {why}" for why, titles in told.items()]


def race_facts(race: Race | None) -> dict[str, Any] | None:
    """The table for report.html; None where there was no race, or it is not decided."""
    if race is None or race["winner"] is None:
        return None
    return {"titles": TITLES, "rows": race_rows(race), "reasons": race_reasons(race)}


def print_race(console: Console, race: Race) -> None:
    """Table and reasons."""
    num_images = max(arm["num_images"] for arm in race["arms"])
    table = Table(title=Text(f"the race, on {num_images:,} validation images"))
    for number, name in enumerate(TITLES):
        table.add_column(name, justify="right" if 0 < number < 6 else "left", overflow="fold")
    for row in race_rows(race):
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
    for line in race_reasons(race):
        console.print(Text(printable(line)))
    console.print(
        f"{race['spent_s']:.0f} s of {race['budget_s']:.0f} s; each arm's run is in race/. The "
        "winner was chosen on these images: images kept aside give the honest figure."
    )


def _ordered(race: Race) -> list[Mapping[str, Any]]:
    return sorted(
        race["arms"],
        key=lambda arm: (arm["name"] != race["winner"], -(arm["accuracy"] or -1.0)),
    )


def _row(arm: Mapping[str, Any], *, is_winner: bool) -> tuple[str, ...]:
    state = "winner" if is_winner else arm["state"]
    seconds = f"{arm['seconds']:.0f}" if arm["seconds"] else ""
    if arm["accuracy"] is None:
        return (arm["title"], "", "", seconds, "", "", state)
    return (
        arm["title"],
        f"{100 * arm['accuracy']:.1f} %",
        percent_bounds(arm["interval"]),
        seconds,
        f"{arm['parameters']:,}" if arm["parameters"] else "unknown",
        f"{arm['latency_ms']:.1f}",
        state,
    )
