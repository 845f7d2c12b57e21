"""What a person reads: times, shares, plans and tables, also with hostile names and no terminal."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deitkit.data import open_dataset
from deitkit.evaluation.metrics import summarise
from deitkit.flow import LossTerms
from deitkit.reporting.console import TrainingConsole, duration, make_console, percent
from deitkit.reporting.found import describe_dataset
from deitkit.reporting.tables import print_evaluation
from deitkit.training.events import Evaluated, Finished, Planned, Saved, StepDone, Warned

HOSTILE = ("[red]", "a\nb", "\u202egnp.tac", "x\x1b[31mred\x1b[0m", "[/]", ":smile:", "t\tab\r")
SHOWN = (
    "[red]",
    r"a\nb",
    r"\u202egnp.tac",
    r"x\x1b[31mred\x1b[0m",
    "[/]",
    ":smile:",
    r"t\tab\r",
)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (8.44, "8.4 s"),
        (9.96, "10 s"),
        (42.4, "42 s"),
        (59.7, "1 min 00 s"),
        (80, "1 min 20 s"),
        (119.6, "2 min 00 s"),
        (599.7, "10 min"),
        (720, "12 min"),
        (3599, "1 h 00 min"),
        (3900, "1 h 05 min"),
        (90000, "25 h 00 min"),
    ],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_a_duration_read_back_is_about_right(seconds):
    units = {"h": 3600, "min": 60, "s": 1}
    parts = re.findall(r"([\d.]+) (h|min|s)", duration(seconds))
    total = sum(float(number) * units[unit] for number, unit in parts)
    assert abs(total - seconds) <= (0.051 if seconds < 9 else 0.51 if seconds < 590 else 30.5)
    assert all(float(number) < 60 for number, unit in parts if unit != "h")


@pytest.mark.parametrize(("share", "text"), [(0, "0.00 %"), (0.98765, "98.77 %"), (1, "100.00 %")])
def test_percent(share, text):
    assert percent(share) == text


@pytest.fixture
def output(capsys) -> Callable[[], str]:
    """What a program without a terminal has written to both streams."""
    return lambda: "".join(capsys.readouterr())


PLAN = Planned(
    run_folder="/runs/[bold]x",
    total_steps=30,
    steps_per_epoch=10,
    start_step=5,
    batch_size=8,
    summary=[("classes", "2: [red], dog")],
    choices=[
        ("model.name", "deit_nano", "it fits"),
        ("views.flip", "0.5", "no class names a side"),
    ],
    forecast={
        "total_s": 75.0,
        "memory_bytes": 400_000_000,
        "seconds": {"start_up": 3.0, "steps": 72.0},
    },
    time_decides=True,
)
RESULT = {"val_top1": 0.75, "val_top1_interval": [0.5, 0.9], "num_val": 1200} | {
    "parameters": 12345,
    "seconds": 80,
}


def all_events() -> list:
    zero = torch.tensor(0.25)
    scores = {"raw": {"top1": 0.5}, "ema": {"top1": 0.625}}
    return [
        PLAN,
        Warned("[blink]careful[/blink]"),
        StepDone(6, 0.6, 1e-3, LossTerms(zero, zero, zero), zero, False),
        Evaluated(10, 1.0, scores, True, {}),
        Saved(10, "last/step"),
        Finished(30, 80.0, {}, False, RESULT),
    ]


@pytest.mark.parametrize("columns", [None, "0", "", "20"])
def test_without_a_terminal_the_lines_are_plain(output, monkeypatch, columns):
    """T51: no colours, no bars, no crash at width 0, and names are not taken for markup."""
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    shown = TrainingConsole()
    shown.progress("reading images", 1, 3)
    shown.progress("reading images", 3, 3)
    shown.progress("timing a few steps", 0, None)
    for event in all_events():
        shown.show(event)
    shown.close()
    text = output()
    assert "\x1b" not in text
    flat = " ".join(text.split())
    for expected in (
        "2: [red], dog",
        "deit_nano (it fits)",
        "flip 0.5 (no class names a side)",
        "30 steps, 3.0 epochs; budget=2h gives it more",
        "forecast 1 min 15 s for the whole command, 400 MB (training steps 1 min 12 s)",
        "budget=2h gives it more",
        "/runs/[bold]x",
        "going on from step 5 of 30",
        "note: [blink]careful[/blink]",
        "weights 50.00 %, average 62.50 % kept",
        "75.00 % of 1,200 validation images right (95 % interval 50.0 to 90.0), 12,345 parameters",
        "1 min 20 s of training",
    ):
        assert expected in flat, expected
    assert "already complete" not in text


def test_a_finished_run_says_that_nothing_was_changed(output):
    """T06"""
    TrainingConsole().show(Finished(30, 80.0, {}, True, RESULT))
    assert output().startswith("already complete; nothing was changed: 75.00 %")


def test_other_ranks_are_silent(output):
    shown = TrainingConsole(enabled=False)
    shown.progress("timing a few steps", 0, None)
    for event in all_events():
        shown.show(event)
    shown.close()
    assert output() == ""


def evaluation_of(names: tuple[str, ...], num: int = 40) -> dict:
    rng = np.random.default_rng(0)
    labels = np.arange(num) % len(names)
    metrics = summarise(rng.normal(size=(num, len(names))), labels, names).to_dict()
    return {"data": "photos/[green]\nval", "fusion": "mean", "heads": {"fused": metrics}}


@pytest.mark.parametrize("many", [False, True], ids=["matrix", "most-frequent"])
def test_hostile_names_are_printed_plainly(output, many):
    """D28, S24: no markup, no control character, no line of its own, no turned direction."""
    names = HOSTILE + tuple(f"class {i}" for i in range(20 if many else 0))
    print_evaluation(make_console(), evaluation_of(names, num=200), names)
    text = output()
    assert not any(character in text for character in "\x1b\u202e\t\r")
    assert r"photos/[green]\nval" in text
    table = text[text.index("classes, in percent") :]
    for shown in SHOWN:
        rows = [row for row in table.splitlines() if shown in row]
        assert rows, shown
        assert len(re.findall(r"\d+\.\d|n/a", rows[0])) == 3, rows[0]


def test_a_table_holds_the_numbers_of_the_evaluation(output):
    """Three images of a, two right; one of b, right; c has none: its recall is n/a, not 0 (D08)."""
    logits = np.array([[2.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 2, 0]])
    metrics = summarise(logits, np.array([0, 0, 0, 1]), ("a", "b", "c")).to_dict()
    evaluation = {"data": "x", "fusion": "mean", "heads": {"fused": metrics}}
    print_evaluation(make_console(), evaluation, ("a", "b", "c"))
    text = output()
    rows = [re.findall(r"[\w./]+", line) for line in text.splitlines()]
    assert ["a", "3", "100.0", "66.7", "80.0"] in rows
    assert ["b", "1", "50.0", "100.0", "66.7"] in rows
    assert ["c", "0", "n/a", "n/a", "n/a"] in rows
    assert ["0", "a", "2", "1", "."] in rows
    assert any("75.00" in row for row in rows)


def test_the_heads_are_named(output):
    evaluation = evaluation_of(("a", "b"))
    fused = evaluation["heads"]["fused"]
    evaluation["heads"] = {"fused": fused, "cls": fused, "dist": fused}
    print_evaluation(make_console(), evaluation, ("a", "b"))
    text = output()
    for name in ("both heads", "class head", "distillation head"):
        assert name in text


def test_what_was_found_is_described():
    """30 pictures of two classes with hostile names; sizes and splits in words."""
    rng = np.random.default_rng(0)
    names = ("a\nb", "\u202egnp")
    pairs = [
        (rng.integers(0, 255, (12, 10 + i // 2, 3), dtype=np.uint8), names[i % 2])
        for i in range(30)
    ]
    lines = dict(describe_dataset(open_dataset(pairs, val_fraction=0.2)))
    assert lines["classes"] == r"2: a\nb, \u202egnp"
    assert lines["images"] == "24 to train (12 to 12 a class), 6 to validate"
    assert re.fullmatch(r"1\dx12 to 2\dx12 pixels, half of them up to 1\dx12", lines["sizes"])
    assert "left out" not in lines
