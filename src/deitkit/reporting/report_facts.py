"""What a run folder and its answers say, in the words and numbers of report.html."""

# Shapes: N images, K classes.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from deitkit.evaluation.calibration import reliability
from deitkit.evaluation.metrics import Metrics, softmax
from deitkit.reporting.charts import line_chart
from deitkit.reporting.pages import chart, duration, percent

Values = Mapping[str, Any]

MAX_CLASS_ROWS = 200
MAX_MATRIX = 20
"""Classes of the largest matrix that can be read; above, the largest confusions are listed."""
NUM_CONFUSIONS = 15
NUM_BARS, MIN_IN_BAR = 10, 5
"""Points of the reliability diagram; those of fewer images say nothing and are left out."""
MAX_POINTS = 400
"""Of a curve; more are averaged in groups."""


def curves(log: Sequence[Values]) -> list[Any]:
    """Charts of metrics.jsonl; those with nothing in them are left out."""
    steps = [line for line in log if line["event"] == "step"]
    evaluations = [line for line in log if line["event"] == "evaluated"]
    losses = {
        name: _thinned([(line["epoch"], line[key]) for line in steps if line[key] is not None])
        for name, key in (("label", "label_loss"), ("teacher", "distill_loss"), ("total", "loss"))
    }
    # Zero where nobody is asked, or not any more.
    losses["teacher"] = [point for point in losses["teacher"] if point[1]]
    if not losses["teacher"]:
        losses = {"loss": losses["total"]}
    sources = sorted({name for line in evaluations for name in line["scores"]})
    words = {"raw": "weights as they are", "ema": "their moving average"}
    accuracy = {
        words.get(name, name): [
            (line["epoch"], 100 * line["scores"][name]["top1"])
            for line in evaluations
            if name in line["scores"]
        ]
        for name in sources
    }
    rates = {"learning rate": _thinned([(line["epoch"], line["lr"]) for line in steps])}
    sides = [(line["epoch"], max(line.get("image_size") or [0])) for line in steps]
    grows = len({side for _, side in sides}) > 1
    wanted = (
        ("Validation accuracy", "percent", accuracy),
        ("Loss", "nats", losses),
        ("Learning rate", "", rates),
        ("Image size", "pixels", {"image size": sides if grows else []}),
    )
    return [
        chart(line_chart(series, title=title, x_label="epoch", y_label=unit or title), number)
        for number, (title, unit, series) in enumerate(wanted)
        if any(series.values())
    ]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS`, each the mean of its neighbours."""
    if len(points) <= MAX_POINTS:
        return list(points)
    parts = np.array_split(np.array(points, np.float64), MAX_POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def class_tables(metrics: Metrics) -> dict[str, Any]:
    """The table of classes, the weakest first, and their matrix or their confusions."""
    rows = sorted(metrics.per_class, key=lambda row: (row.recall is None, row.recall or 0.0))
    names = [row.name for row in metrics.per_class]
    confusion_KK = metrics.confusion_KK
    totals_K = confusion_KK.sum(axis=1)
    matrix = None
    if len(names) <= MAX_MATRIX:
        matrix = {
            "names": names,
            "rows": [
                {
                    "name": name,
                    "cells": [
                        {"count": int(count), "shade": f"{0.75 * count / max(1, total):.2f}"}
                        for count in counts
                    ],
                }
                for name, counts, total in zip(names, confusion_KK, totals_K, strict=True)
            ],
        }
    wrong_KK = confusion_KK - np.diag(np.diag(confusion_KK))
    order = np.argsort(-wrong_KK, axis=None, kind="stable")[:NUM_CONFUSIONS]
    pairs = [divmod(int(place), len(names)) for place in order]
    confusions = [
        {
            "truth": names[truth],
            "said": names[said],
            "count": int(wrong_KK[truth, said]),
            "total": int(totals_K[truth]),
        }
        for truth, said in pairs
        if wrong_KK[truth, said]
    ]
    return {
        "classes": rows[:MAX_CLASS_ROWS],
        "hidden_classes": max(0, len(rows) - MAX_CLASS_ROWS),
        "matrix": matrix,
        "confusions": confusions if matrix is None else [],
    }


def calibration_facts(
    plain_NK: np.ndarray, used_NK: np.ndarray, labels_N: np.ndarray, found: Values
) -> dict[str, Any]:
    """Reliability before and after the temperature, with what was found in words."""
    temperature, threshold = found["temperature"], found["threshold"]
    is_used = temperature["temperature"] != 1
    series: dict[str, list[tuple[float, float]]] = {"as it should be": [(0.0, 0.0), (100.0, 100.0)]}
    answers = {"before": plain_NK, "after": used_NK} if is_used else {"this model": used_NK}
    for name, logits_NK in answers.items():
        series[name] = [
            (100 * one.sure, 100 * one.right)
            for one in reliability(softmax(logits_NK), labels_N, num_bins=NUM_BARS)
            if one.sure is not None and one.right is not None and one.num_images >= MIN_IN_BAR
        ]
    if is_used:
        words = (
            f"Dividing the logits by a temperature of {temperature['temperature']:g}, found on "
            "these images, brings the mean distance between how sure it is and how often it is "
            f"right from {percent(temperature['plain_ece'])} to {percent(temperature['ece'])}. "
            "The bundle does so."
        )
    else:
        words = (
            "How sure it is and how often it is right differ by "
            f"{percent(temperature['ece'])} on average; no temperature was clearly better."
        )
    if threshold["threshold"] is None:
        said = (
            "No threshold was found below which to say nothing: every answer counts, or the "
            "validation images are too few to be sure of any part of them."
        )
    else:
        share = threshold["num_answered"] / threshold["num_images"]
        right = threshold["num_right"] / threshold["num_answered"]
        said = (
            f"Where no class reaches {percent(threshold['threshold'])} the model abstains. It then "
            f"answers {percent(share)} of these images and is right on {percent(right)} of those "
            f"(asked for were {percent(threshold['target'])}, with its interval)."
        )
    svg = line_chart(
        series,
        title="Sure and right",
        x_label="how sure it is, percent",
        y_label="how often right, percent",
    )
    return {"words": words, "threshold": said, "chart": chart(svg, 90)}


def data_facts(report: Values) -> tuple[list[tuple[str, str]], list[str]]:
    """data_report.json in words, and its warnings."""
    rows = [("from", str(report["source"]))]
    for split, count in report["num_images"].items():
        counts = report["class_counts"].get(split, {}).values()
        least, most = min(counts, default=0), max(counts, default=0)
        range_of = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        spread = f", {range_of} a class" if counts else ""
        rows.append((split, f"{count:,} images{spread}"))
    for side in ("heights", "widths"):
        low, middle, high = report[side]
        same = f"{low:,} pixels"
        text = same if low == high else f"{low:,} to {high:,} pixels, median {middle:,}"
        rows.append((side, text))
    skipped = [
        f"{found['count']:,} {reason.replace('_', ' ')}"
        for reason, found in report["skipped"].items()
    ]
    if skipped:
        rows.append(("left out", ", ".join(skipped)))
    for name, words in (
        ("duplicates", "the same picture more than once"),
        ("conflicts", "the same picture under different labels"),
        ("leaks", "validation images that are also in train"),
    ):
        if report[name]["count"]:
            rows.append((words, f"{report[name]['count']:,}"))
    return rows, [str(text) for text in report["warnings"]]


def costs(result: Values | None, log: Sequence[Values], num_train: int) -> list[tuple[str, str]]:
    """Parameters, time and speed."""
    rows: list[tuple[str, str]] = []
    if result is None:
        return [("steps so far", f"{max((line['step'] for line in log), default=0):,}")]
    rows.append(("parameters", f"{result['parameters']:,}"))
    rows.append(("multiply-adds an image", f"{result['macs'] / 1e6:,.1f} million"))
    rows.append(("training", f"{duration(result['seconds'])}, {result['steps']:,} steps"))
    rows.append(("the whole command", duration(result["command_seconds"])))
    last = max((line["epoch"] for line in log), default=0.0)
    if result["seconds"] > 0 and last:
        rate = last * num_train / result["seconds"]
        rows.append(("images a second", f"{rate:,.0f}, evaluation included"))
        # A backward pass costs two forward passes; a multiply-add is two operations.
        work = 6 * result["macs"] * last * num_train
        shown = f"{work / 1e15:.3g} PFLOP" if work >= 1e15 else f"{work / 1e12:.3g} TFLOP"
        rows.append(("work of the student", shown))
    return rows
