"""A forecast in words, by hand."""

from __future__ import annotations

import pytest

from deitkit.reporting.console import make_console
from deitkit.reporting.forecast_table import forecast_line, forecast_rows, megabytes, print_plan

FORECAST = {
    "total_s": 100.0,
    "seconds": {"reading": 4.9, "choosing": 5.0, "steps": 90.1},
    "memory_bytes": 1_234_000_000,
    "rests_on": ["a step took [bold]9 ms"],
}


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [(0, "0 MB"), (999_400_000, "999 MB"), (999_600_000, "1.00 GB"), (2.5e9, "2.50 GB")],
)
def test_megabytes(num_bytes, text):
    assert megabytes(num_bytes) == text


def test_the_line_names_parts_of_a_twentieth_or_more():
    assert forecast_line(FORECAST) == (
        "1 min 40 s for the whole command, 1.23 GB (timing a few steps and choosing 5.0 s, "
        "training steps 1 min 30 s)"
    )


def test_the_report_has_a_row_for_it_and_none_for_runs_without():
    assert forecast_rows({"forecast": FORECAST}) == [
        ("forecast before the first step", forecast_line(FORECAST))
    ]
    assert forecast_rows({"forecast": None}) == []
    assert forecast_rows({}) == forecast_rows(None) == []


def test_a_plan_on_a_narrow_screen_keeps_every_word(capsys):
    """Markup in names stays text, and the command stays one line."""
    command = "deitkit train data='[red]photos/' " + "a=1 " * 40
    row = {"what": "model", "choice": "deit [x]", "reason": "it fits", "settings": ["model.name"]}
    plan = {
        "data": {"classes": "2: [red], dog"},
        "choices": [row],
        "forecast": FORECAST,
        "notes": ["[bold]mind"],
        "command": command,
    }
    print_plan(make_console(), plan)
    text = capsys.readouterr().out
    assert command in text
    for words in ("2: [red], dog", "deit [x]", "note: [bold]mind", "a step took [bold]9 ms"):
        assert words in text
    assert "\x1b" not in text
