"""Pages: whatever a name says it stays text; numbers in words; pictures as data."""

from __future__ import annotations

import base64
import io
import xml.etree.ElementTree as ElementTree
from functools import cache
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError
from PIL import Image

from deitkit.data import DataReport, printable
from deitkit.data.findings import Finding
from deitkit.evaluation.metrics import Metrics, summarise
from deitkit.reporting.charts import line_chart
from deitkit.reporting.comparison import comparison_page
from deitkit.reporting.pages import chart, duration, percent, picture, points, render_page
from deitkit.reporting.report_facts import (
    calibration_facts,
    class_tables,
    costs,
    curves,
    data_facts,
)
from tests.reporting.page_tree import PAYLOADS, check_self_contained, parse, words_of

PIXELS = np.zeros((4, 4, 3), np.uint8)


def share(value: float) -> dict[str, Any]:
    return {"value": value, "interval": [0.1, 0.9], "num_right": 1, "num_images": 2}


def report_page(text: str) -> bytes:
    """Every section filled, `text` wherever a name, a path or an advice may stand."""
    log = [
        {
            "event": "step",
            "step": 1,
            "epoch": 1.0,
            "lr": 1e-3,
            "loss": 2.0,
            "label_loss": 1.0,
            "distill_loss": 1.0,
        },
        {"event": "evaluated", "step": 1, "epoch": 1.0, "scores": {"raw": {"top1": 0.5}}},
    ]
    side = {"name": text, "num_params": 5, "latency_ms": 1.0}
    facts = {
        "run": text,
        "headline": text,
        "subline": text,
        "notes": [text],
        "summary": [("classes", text)],
        "charts": curves(log),
        "classes": [{"name": text, "num_images": 2, "recall": 0.5, "precision": None, "f1": None}],
        "hidden_classes": 1,
        "matrix": {
            "names": [text],
            "rows": [{"name": text, "cells": [{"count": 2, "shade": "0.75"}]}],
        },
        "confusions": [{"truth": text, "said": text, "count": 1, "total": 2}],
        "calibration": {"words": text, "threshold": text, "chart": ""},
        "pictures": [
            {
                "title": text,
                "words": text,
                "shown": [{"images": [(picture(PIXELS), text)], "text": text, "source": text}],
            }
        ],
        "teacher": {"classes": text, "clean": share(0.5)},
        "comparison": {
            "teacher": side,
            "student": side,
            "measured_on": text,
            "gain": {
                "share": share(0.5),
                "other": share(0.6),
                "difference": -0.1,
                "interval": [-0.2, 0.1],
            },
            "advice": text,
        },
        "agreement": text,
        "race": {"titles": [text] * 7, "rows": [[text] * 7], "reasons": [text]},
        "costs": [("steps", text)],
        "data": [("from", text)],
        "data_warnings": [text],
        "command": text,
        "config": [text, "  and more"],
        "version": "1",
        "when": "now",
    }
    return render_page("report.html", facts)


def check_page(text: str) -> bytes:
    finding = Finding(
        code="conflict", level="serious", title=text, why=text, do=text, count=2, names=(text,)
    )
    shown = {"image": picture(PIXELS), "label": text, "split": text, "path": text}
    doubt = {
        "image": picture(PIXELS),
        "label": text,
        "path": text,
        "said": {text: {"class": text, "probability": 0.9}},
    }
    return render_page(
        "check.html",
        {
            "source": text,
            "stops": None,
            "findings": [{"one": finding, "groups": [[shown]]}],
            "doubts": [doubt],
            "data": [("from", text)],
            "split_command": text,
            "split_note": None,
            "version": "1",
            "when": "now",
        },
    ) + render_page(
        "check.html",
        {
            "source": text,
            "stops": text,
            "findings": [],
            "doubts": [],
            "data": [],
            "split_command": None,
            "split_note": text,
            "version": "1",
            "when": "now",
        },
    )


def compare_page(text: str) -> bytes:
    metrics = {"top1": 0.5, "top1_interval": [0.4, 0.6], "nll": 1.0, "ece": 0.1}
    run = {
        "name": f"a{text}",
        "metrics": metrics,
        "gain": None,
        "parameters": 5,
        "seconds": None,
        "latency_ms": 1.0,
    }
    gain = {"difference": 0.1, "interval": [-0.1, 0.2], "p_value": 0.5}
    log = [
        {"event": "step", "step": 1, "epoch": 1.0, "label_loss": 1.0},
        {"event": "evaluated", "step": 1, "epoch": 1.0, "scores": {"raw": {"top1": 0.5}}},
    ]
    facts = {
        "measured_on": text,
        "runs": [run, {**run, "name": f"b{text}", "gain": gain}],
        "settings": {text: [text, text]},
        "data": {text: [text, text]},
    }
    return comparison_page(facts, {f"a{text}": log, f"b{text}": log}, version="1")


PAGES = {"report": report_page, "check": check_page, "compare": compare_page}


@cache
def harmless_elements(page: str) -> list[tuple[str, tuple[str, ...]]]:
    return parse(PAGES[page]("harmless name")).elements


@pytest.mark.parametrize("payload", PAYLOADS, ids=repr)
@pytest.mark.parametrize("page", PAGES)
def test_whatever_a_name_says_it_stays_text(page, payload):
    """S22, S23: the same elements and attributes as with a harmless name, and the payload is there
    to be read, its control and direction marks escaped."""
    hostile = PAGES[page](payload)
    assert parse(hostile).elements == harmless_elements(page)
    assert parse(hostile).comments == []
    check_self_contained(hostile)
    assert " ".join(printable(payload).split()) in words_of(hostile)
    for mark in ("\u202e", "\u2066", "\x00", "\x08"):
        assert mark not in hostile.decode("utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_pages_fetch_nothing_and_have_a_policy(page):
    """S23."""
    check_self_contained(PAGES[page]("plain"))
    policy = parse(PAGES[page]("plain")).attributes
    (content,) = {value for tag, name, value in policy if name == "content" and "src" in value}
    rules = dict(rule.strip().split(" ", 1) for rule in content.split(";"))
    assert rules == {
        "default-src": "'none'",
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_a_fact_that_is_missing_is_an_error_and_not_a_gap():
    with pytest.raises(UndefinedError):
        render_page("check.html", {"source": "x"})


def test_charts_on_one_page_have_ids_of_their_own():
    svg = line_chart({"a": [(0, 0), (1, 1)]}, title="T", x_label="x", y_label="y")
    page = f"{chart(svg, 1)}{chart(svg, 2)}".encode()
    ids = [value for _, name, value in parse(page).attributes if name == "id"]
    assert ids == ["title1", "desc1", "title2", "desc2"]
    used = [value for _, name, value in parse(page).attributes if name == "aria-labelledby"]
    assert used == ["title1 desc1", "title2 desc2"]


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((300, 600, 3), 160, (80, 160)),
        ((32, 16, 3), 160, (160, 80)),
        ((100, 90, 3), 160, (100, 90)),
        ((16, 16, 1), 32, (32, 32)),
        ((1, 900, 3), 160, (1, 160)),
    ],
)
def test_pictures_as_data(size, side, expected):
    """Made smaller to fit; small ones enlarged in whole blocks; one channel is grey."""
    pixels = np.full(size, 200, np.uint8)
    address = picture(pixels, side=side)
    kind, content = address.split(",")
    assert kind == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (image.height, image.width) == expected
    assert np.abs(np.asarray(image, int) - 200).max() <= 3


def test_numbers_in_words():
    assert [percent(0.12345), percent(None), percent(1, 0)] == ["12.3 %", "n/a", "100 %"]
    assert [points(0.0123), points(-0.2)] == ["+1.2 points", "-20.0 points"]
    assert [duration(s) for s in (3.21, 89.9, 90, 5399, 5400)] == [
        "3.2 s",
        "89.9 s",
        "2 min",
        "90 min",
        "1.5 h",
    ]


# The facts of the report.


def steps(losses: list[tuple[float, float | None]]) -> list[dict[str, Any]]:
    return [
        {
            "event": "step",
            "step": k,
            "epoch": k / 10,
            "lr": 0.1,
            "loss": label + (distill or 0),
            "label_loss": label,
            "distill_loss": distill,
        }
        for k, (label, distill) in enumerate(losses, start=1)
    ]


def words_in(svg: Any) -> list[str]:
    return parse(str(svg).encode()).text


def test_curves_show_each_loss_and_both_weights():
    evaluated = {
        "event": "evaluated",
        "step": 2,
        "epoch": 0.2,
        "scores": {"raw": {"top1": 0.5}, "ema": {"top1": 0.75}},
    }
    accuracy, loss, rate = curves([*steps([(2.0, 1.0), (1.5, 0.5)]), evaluated])
    assert {"weights as they are", "their moving average"} <= set(words_in(accuracy))
    assert {"label", "teacher", "total"} <= set(words_in(loss))
    assert "learning rate" in words_in(rate)
    _, plain, _ = curves([*steps([(2.0, 0.0), (1.5, 0.0)]), evaluated])
    assert "teacher" not in words_in(plain), "no teacher, no line of zeros"


def test_no_log_has_no_charts_and_skipped_steps_leave_a_gap():
    assert curves([]) == []
    log = steps([(2.0, 0.0), (1.0, 0.0)])
    log[1] |= {"loss": None, "label_loss": None, "distill_loss": None}
    assert len(curves(log)) == 2, "loss and learning rate, no accuracy yet"


def test_long_logs_are_averaged_in_groups():
    """8,000 steps of losses 0, 1, 0, 1: at most 400 points, each 0.5."""
    charts = curves(steps([(float(k % 2), 0.0) for k in range(8000)]))
    (line,) = [
        value
        for tag, name, value in parse(str(charts[0]).encode()).attributes
        if tag == "polyline" and name == "points" and len(value) > 100
    ]
    heights = {point.split(",")[1] for point in line.split()}
    assert len(line.split()) == 400
    assert len(heights) == 1


def metrics_of(said: list[int], labels: list[int], num_classes: int) -> Metrics:
    logits = np.eye(num_classes)[said] * 5
    return summarise(logits, np.array(labels), [f"class {k}" for k in range(num_classes)])


def test_the_matrix_and_the_weakest_class_first():
    """Of class 0 one of two is right, of class 1 both, class 2 has none to measure."""
    facts = class_tables(metrics_of([0, 1, 1, 1], [0, 0, 1, 1], 3))
    assert [(row.name, row.recall) for row in facts["classes"]] == [
        ("class 0", 0.5),
        ("class 1", 1.0),
        ("class 2", None),
    ]
    cells = [[cell["count"] for cell in row["cells"]] for row in facts["matrix"]["rows"]]
    assert cells == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    shades = [[cell["shade"] for cell in row["cells"]] for row in facts["matrix"]["rows"]]
    assert shades[0] == ["0.38", "0.38", "0.00"], "three quarters at most, of the row's share"
    assert facts["confusions"] == []


def test_many_classes_are_told_by_their_confusions():
    """21 classes of 2 images: three of class 4 and 7 are taken for another."""
    labels = [k for k in range(21) for _ in range(2)]
    said = list(labels)
    said[8] = said[9] = 5
    said[14] = 0
    facts = class_tables(metrics_of(said, labels, 21))
    assert facts["matrix"] is None
    assert facts["confusions"] == [
        {"truth": "class 4", "said": "class 5", "count": 2, "total": 2},
        {"truth": "class 7", "said": "class 0", "count": 1, "total": 2},
    ]
    many = class_tables(metrics_of(list(range(203)), list(range(203)), 203))
    assert (len(many["classes"]), many["hidden_classes"]) == (200, 3)


def test_the_data_in_words():
    report = DataReport(
        "photos", class_counts={"train": {"a": 3, "b": 12}, "val": {"a": 1, "b": 1}}
    )
    report.measure(np.array([[10, 20], [30, 20], [50, 20]]))
    report.skipped.add("truncated", "x.jpg")
    report.leaks.count = 2
    report.warnings.append("mind this")
    rows, warnings = data_facts(report.to_dict())
    assert rows == [
        ("from", "photos"),
        ("train", "15 images, 3 to 12 a class"),
        ("val", "2 images, 1 a class"),
        ("heights", "10 to 50 pixels, median 30"),
        ("widths", "20 pixels"),
        ("left out", "1 truncated"),
        ("validation images that are also in train", "2"),
    ]
    assert warnings == ["mind this"]


def test_what_a_run_cost_by_hand():
    """10 epochs of 300 images in 60 s: 50 images a second; 6 x 2 million x 3,000 = 0.036 TFLOP."""
    result = {"parameters": 1_234, "macs": 2e6, "seconds": 60.0, "steps": 40, "command_seconds": 75}
    rows = dict(costs(result, [{"epoch": 10.0, "step": 40}], 300))
    assert rows == {
        "parameters": "1,234",
        "multiply-adds an image": "2.0 million",
        "training": "60.0 s, 40 steps",
        "the whole command": "75.0 s",
        "images a second": "50, evaluation included",
        "work of the student": "0.036 TFLOP",
    }
    assert costs(None, [{"epoch": 1.0, "step": 7}], 300) == [("steps so far", "7")]


def test_reliability_before_and_after_by_hand():
    """60 answers, all 90 % sure, 36 right: a point at (90, 60) before. After a temperature that
    makes them 60 % sure it lies at (60, 60), on the line."""
    labels = np.array([0] * 36 + [1] * 24)
    before = np.log(np.tile([0.9, 0.1], (60, 1)))
    after = np.log(np.tile([0.6, 0.4], (60, 1)))
    temperature = {"temperature": 5.4, "plain_ece": 0.3, "ece": 0.0}
    threshold = {"threshold": None}
    facts = calibration_facts(
        before, after, labels, {"temperature": temperature, "threshold": threshold}
    )
    assert "from 30.0 % to 0.0 %" in facts["words"]
    assert {"as it should be", "before", "after"} <= set(words_in(facts["chart"]))
    # The first series is drawn twice: in the legend, then as the diagonal.
    _, diagonal = [
        [tuple(map(float, point.split(","))) for point in node["points"].split()]
        for node in nodes(facts["chart"], "polyline")
        if node["class"] == "s0"
    ]
    spots = [(float(n["cx"]), float(n["cy"])) for n in nodes(facts["chart"], "circle")]
    (left, bottom), (right, top) = diagonal

    def placed(x: float, y: float) -> tuple[float, float]:
        return (
            pytest.approx(left + x / 100 * (right - left), abs=0.2),
            pytest.approx(bottom + y / 100 * (top - bottom), abs=0.2),
        )

    assert spots == [placed(90, 60), placed(60, 60)]


def nodes(svg: Any, kind: str) -> list[dict[str, str]]:
    root = ElementTree.fromstring(str(svg))
    return [node.attrib for node in root.iter() if node.tag.endswith(f"}}{kind}")]
