"""The teacher in tables: what it knows and costs before training, what it was worth after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable
from deitkit.reporting.console import percent
from deitkit.reporting.intervals import percent_bounds
from deitkit.reporting.tables import HEAD_NAMES, MAX_CLASS_ROWS

Values = Mapping[str, Any]

_STORAGES = {
    "live": "for every view, live",
    "memory": "once for each stored view, kept in memory",
    "disk": "once for each stored view, kept on disk",
}


def print_teacher(console: Console, facts: Values, class_names: Sequence[str]) -> None:
    """`TeacherFacts.to_dict()`, before training."""
    height, width = facts["image_size"]
    cost = facts["cost"]
    table = Table(title=_text(f"teacher: {facts['name']}"), show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("parameters", _count(facts["num_params"]))
    table.add_row("image size", f"{width}x{height} pixels")
    table.add_row("classes", _text(facts["classes"]))
    table.add_row("right on clean validation images", _said(facts["clean"]))
    if facts["views"] is not None:
        table.add_row("right on views of training images", _said(facts["views"]))
    table.add_row("cost of one step", f"{cost['student_steps']:.2f} steps of the student")
    table.add_row("cost of the run", _cost(cost))
    asked = f"{_STORAGES[facts['storage']]}   ({facts['storage_reason']})"
    table.add_row("asked", _text(asked))
    console.print(table)
    _print_class_shares(console, facts["per_class"], class_names)
    _print_notes(console, facts["notes"])


def print_comparison(console: Console, comparison: Values) -> None:
    """`Comparison.to_dict()`, after training."""
    teacher, student, gain = (comparison[key] for key in ("teacher", "student", "gain"))
    table = Table(title=_text(comparison["measured_on"]))
    table.add_column("")
    for side, contender in (("teacher", teacher), ("student", student)):
        table.add_column(_text(f"{side}: {contender['name']}"), overflow="fold")
    table.add_row("accuracy", _said(gain["other"]), _said(gain["share"]))
    table.add_row("parameters", *(_count(c["num_params"]) for c in (teacher, student)))
    table.add_row("one image takes", *(_latency(c["latency_ms"]) for c in (teacher, student)))
    console.print(table)
    console.print(_text(f"times on {comparison['latency_on']}"))
    console.print(f"student less teacher: {_difference(gain)}")
    if comparison["advice"] is not None:
        _print_notes(console, [comparison["advice"]])


def print_diagnostics(console: Console, diagnostics: Values, *, asked: Sequence[str] = ()) -> None:
    """`evaluation.diagnostics.Diagnostics.to_dict()`: what distillation did, and who was asked."""
    for said in asked:
        console.print(_text(said))
    if diagnostics["agreement"]:
        _print_agreement(console, diagnostics["agreement"])
    if diagnostics["token_gain"] is not None:
        said = _difference(diagnostics["token_gain"])
        console.print(f"distillation head less class head: {said}")
    tokens = diagnostics["tokens"]
    if tokens is not None:
        console.print(
            f"class and distillation token: cosine {tokens['input']:.2f} entering, "
            f"{tokens['output']:.2f} leaving (0.06 and 0.93 in the paper)"
        )
    if diagnostics["gain"] is not None:
        console.print(f"gain over the other run: {_difference(diagnostics['gain'])}")
        _print_class_gains(console, diagnostics["class_gains"])


def _print_agreement(console: Console, agreement: Values) -> None:
    table = Table(title="agreement with the teacher")
    for column in ("", "same decision", "95 % interval"):
        table.add_column(column, justify="left" if not column else "right")
    names = HEAD_NAMES | {"other": "the other run"}
    if "cls" not in agreement:
        names["fused"] = "the model"
    for head, share in agreement.items():
        table.add_row(names[head], _share(share), percent_bounds(share["interval"]))
    console.print(table)


def _print_class_shares(
    console: Console, shares: Sequence[Values], class_names: Sequence[str]
) -> None:
    """Where there are many classes, those that the teacher knows least."""
    rows = list(zip(class_names, shares, strict=True))
    if len(rows) > MAX_CLASS_ROWS:
        known = [row for row in rows if row[1]["num_images"]]
        rows = sorted(known, key=lambda row: row[1]["value"])[:MAX_CLASS_ROWS]
    table = Table(title="agreement with the labels, in percent")
    for column in ("class", "images", "agreement", "95 % interval"):
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, share in rows:
        bounds = percent_bounds(share["interval"]) if share["num_images"] else ""
        cells = (f"{share['num_images']:,}", _plain(share["value"]), bounds)
        table.add_row(_text(name), *cells)
    console.print(table)
    if len(rows) < len(class_names):
        console.print(f"the lowest {len(rows)} of {len(class_names)} classes")


def _print_class_gains(console: Console, gains: Sequence[Values]) -> None:
    """Where there are many classes, those with the largest differences either way."""
    rows = list(gains)
    if len(rows) > MAX_CLASS_ROWS:
        known = [row for row in rows if row["gain"]["difference"] is not None]
        rows = sorted(known, key=lambda row: -abs(row["gain"]["difference"]))[:MAX_CLASS_ROWS]
    table = Table(title="accuracy by class, in percent")
    for column in ("class", "images", "other run", "this run", "gain", "95 % interval", ""):
        table.add_column(column, justify="left" if column in ("class", "") else "right")
    for row in rows:
        gain = row["gain"]
        there = gain["difference"] is not None
        table.add_row(
            _text(row["name"]),
            f"{gain['share']['num_images']:,}",
            _plain(gain["other"]["value"]),
            _plain(gain["share"]["value"]),
            f"{100 * gain['difference']:+.1f}" if there else "n/a",
            percent_bounds(gain["interval"], signed=True) if there else "",
            row["verdict"],
        )
    console.print(table)
    if len(rows) < len(gains):
        console.print(f"the {len(rows)} largest of {len(gains)} classes")


def _print_notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(Text("note: ", style="yellow") + _text(note))


def _cost(cost: Values) -> str:
    said = f"{cost['live_factor']:.2f} times that of a run without teacher"
    if cost.get("until", 1.0) < 1:
        return f"{said}, asked in the first {100 * cost['until']:.0f} % of the epochs"
    said += " if it is asked live"
    if cost["cached_factor"] is None:
        return said
    stored = f"{cost['num_view_epochs']} of {cost['num_epochs']:.0f} epochs"
    if cost["num_view_epochs"] >= cost["num_epochs"]:
        stored = "every epoch"
    return f"{said}, {cost['cached_factor']:.2f} with {stored} stored"


def _text(said: str) -> Text:
    """Names of files and classes in it can do nothing to the terminal."""
    return Text(printable(said))


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _latency(latency_ms: float | None) -> str:
    return "not measured" if latency_ms is None else f"{latency_ms:,.2f} ms"


def _plain(value: float | None) -> str:
    return "n/a" if value is None else f"{100 * value:.1f}"


def _share(share: Values) -> str:
    return "n/a" if share["value"] is None else percent(share["value"])


def _said(share: Values) -> str:
    if share["value"] is None:
        return "n/a"
    return f"{_share(share)} of {share['num_images']:,} ({percent_bounds(share['interval'])})"


def _difference(gain: Values) -> str:
    """Points, with interval and p-value."""
    if gain["difference"] is None:
        return "n/a"
    p_value = gain["p_value"]
    chance = "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"
    bounds = percent_bounds(gain["interval"], signed=True)
    return f"{100 * gain['difference']:+.1f} points (95 % interval {bounds}, McNemar {chance})"
