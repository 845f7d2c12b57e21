"""Charts: where the marks are, what the axes say, and that the text is XML whatever it holds."""

from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deitkit.reporting.charts import (
    COLOURS,
    DASHES,
    interval_chart,
    line_chart,
    log_ticks,
    round_ticks,
)

SVG = "{http://www.w3.org/2000/svg}"
LABELS = {"title": "t", "x_label": "x", "y_label": "y"}
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False).map(lambda x: float(f"{x:.9g}"))


def read(svg: str) -> ElementTree.Element:
    """Parsed as a browser would: anything that is no XML raises."""
    return ElementTree.fromstring(svg.encode())


def lines_of(svg: str, class_name: str) -> list[list[tuple[float, float]]]:
    """The points of each line in this colour, without the piece of it in the legend."""
    drawn = [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.get("points").split())]
        for line in read(svg).iter(f"{SVG}polyline")
        if line.get("class") == class_name
    ]
    return drawn[1:]


def texts(svg: str) -> dict[str, ElementTree.Element]:
    return {element.text: element for element in read(svg).iter(f"{SVG}text")}


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.43, 0.88, ["0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]),
        (0, 300, ["0", "50", "100", "150", "200", "250", "300"]),
        (-3, 14, ["-5", "0", "5", "10", "15"]),
        (0, 12_000, ["0", "2,000", "4,000", "6,000", "8,000", "10,000", "12,000"]),
        (0.001, 0.0035, ["0.0010", "0.0015", "0.0020", "0.0025", "0.0030", "0.0035"]),
        (5, 5, ["2", "3", "4", "5", "6", "7", "8"]),
        (0, 4e-7, ["0", "1e-07", "2e-07", "3e-07", "4e-07"]),
    ],
)
def test_ticks_by_hand(low, high, wanted):
    assert [text for _, text in round_ticks(low, high)] == wanted


@given(NUMBERS, NUMBERS)
def test_ticks_are_round_and_cover_both_ends(one, other):
    low, high = sorted((one, other))
    ticks = [place for place, _ in round_ticks(low, high)]
    slack = 1e-6 * max(high - low, 1e-12) + 1e-9
    assert ticks[0] <= low + slack and ticks[-1] >= high - slack
    assert 3 <= len(ticks) <= 9
    step = (ticks[-1] - ticks[0]) / (len(ticks) - 1)
    assert all(math.isclose(b - a, step, rel_tol=1e-6) for a, b in itertools.pairwise(ticks))
    factor = step / 10 ** math.floor(math.log10(step * 1.0000001))
    assert min(abs(factor - round_one) for round_one in (1, 2, 5)) < 1e-5
    for place, text in round_ticks(low, high):
        assert math.isclose(float(text.replace(",", "")), place, rel_tol=1e-5, abs_tol=slack)


def test_log_ticks_by_hand():
    assert [text for _, text in log_ticks(1, 1000)] == ["1", "10", "100", "1,000"]
    assert [text for _, text in log_ticks(3, 90)] == ["1", "2", "5", "10", "20", "50", "100"]
    assert [text for _, text in log_ticks(0.01, 0.01)] == ["0.01", "0.02", "0.05", "0.1"]


def test_points_lie_where_the_ticks_say():
    """(0, 0), (50, 0.5), (100, 1) on axes 0 to 100 and 0 to 1: corners and the middle."""
    svg = line_chart({"a": [(0, 0.0), (50, 0.5), (100, 1.0)]}, **LABELS)
    (first, middle, last), *_ = lines_of(svg, "s0")
    named = texts(svg)
    assert first[0] == pytest.approx(float(named["0"].get("x")), abs=0.1)
    assert last[0] == pytest.approx(float(named["100"].get("x")), abs=0.1)
    # A number on the axis stands 4.5 px under its line, so that its middle is on it.
    assert first[1] == pytest.approx(float(named["0.0"].get("y")) - 4.5, abs=0.1)
    assert last[1] == pytest.approx(float(named["1.0"].get("y")) - 4.5, abs=0.1)
    assert middle == pytest.approx(((first[0] + last[0]) / 2, (first[1] + last[1]) / 2), abs=0.1)
    assert last[1] < first[1], "up is more"


def test_decades_are_equally_wide():
    svg = line_chart({"a": [(1, 0.0), (10, 0.5), (1000, 1.0)]}, log_x=True, **LABELS)
    (one, ten, thousand), *_ = lines_of(svg, "s0")
    assert (thousand[0] - ten[0]) / (ten[0] - one[0]) == pytest.approx(2, rel=1e-3)


@pytest.mark.parametrize("gap", [(30, math.nan), (30, math.inf), (math.nan, 0.5)])
def test_a_gap_interrupts_the_line(gap):
    """Two points, a gap, one point, a gap, two points: two lines and a dot."""
    points = [(10, 0.1), (20, 0.2), gap, (40, 0.4), gap, (60, 0.6), (70, 0.7)]
    svg = line_chart({"a": points}, **LABELS)
    assert [len(part) for part in lines_of(svg, "s0")] == [2, 2]
    assert len(list(read(svg).iter(f"{SVG}circle"))) == 1


def test_points_left_of_a_logarithmic_axis_are_left_out():
    svg = line_chart({"a": [(0, 0.1), (1, 0.2), (10, 0.3)]}, log_x=True, **LABELS)
    assert [len(part) for part in lines_of(svg, "s0")] == [2]


def test_every_series_is_in_the_legend_and_no_two_look_alike():
    series = {f"series {k}": [(0, k), (1, k + 1)] for k in range(36)}
    svg = line_chart(series, **LABELS)
    assert set(series) <= set(texts(svg))
    looks = {(e.get("class"), e.get("stroke-dasharray")) for e in read(svg).iter(f"{SVG}polyline")}
    assert len(looks) == 36
    for name in series:
        width = float(texts(svg)[name].get("x")) + 7.3 * len(name)
        assert width < 720
    tops = sorted({float(texts(svg)[name].get("y")) for name in series})
    plot_top = min(float(line.get("y1")) for line in read(svg).iter(f"{SVG}line"))
    assert len(tops) > 3 and tops[-1] < plot_top


def test_intervals_by_hand():
    """On an axis from 0 to 10: 5 in the middle, 2 to 8 three tenths to both sides of it."""
    rows = [("whole", 5.0, 0.0, 10.0), ("part", 5.0, 2.0, 8.0)]
    svg = interval_chart(rows, title="t", x_label="x", reference=4.0)
    named = texts(svg)
    zero, ten = float(named["0"].get("x")), float(named["10"].get("x"))
    whiskers = [e for e in read(svg).iter(f"{SVG}line") if e.get("class") == "whisker"]
    wide = [e for e in whiskers if e.get("y1") == e.get("y2")]
    ends = [(float(e.get("x1")), float(e.get("x2"))) for e in wide]
    assert ends[0] == pytest.approx((zero, ten), abs=0.2)
    tenth = (ten - zero) / 10
    assert ends[1] == pytest.approx((zero + 2 * tenth, zero + 8 * tenth), abs=0.2)
    dots = [float(e.get("cx")) for e in read(svg).iter(f"{SVG}circle")]
    assert dots == pytest.approx([zero + 5 * tenth] * 2, abs=0.2)
    (mark,) = [e for e in read(svg).iter(f"{SVG}line") if e.get("class") == "reference"]
    assert float(mark.get("x1")) == pytest.approx(zero + 4 * tenth, abs=0.2)
    assert float(named["whole"].get("y")) < float(named["part"].get("y")), "in the order given"


def test_infinite_bound_runs_to_the_edge_without_a_cap():
    svg = interval_chart([("a", 5.0, -math.inf, 6.0), ("b", 5.0, 4.0, 6.0)], title="t", x_label="x")
    whiskers = [e for e in read(svg).iter(f"{SVG}line") if e.get("class") == "whisker"]
    assert len(whiskers) == 2 + 3
    grid = [float(e.get("x1")) for e in read(svg).iter(f"{SVG}line") if e.get("class") == "grid"]
    assert min(float(e.get("x1")) for e in whiskers) == pytest.approx(min(grid), abs=0.1)


@given(st.text(max_size=30), st.text(max_size=30))
def test_any_text_is_xml_and_comes_back(name, title):
    r"""`<b>&"` is text, not markup; what no XML may hold (\x00, half surrogates) is a space."""
    for svg in (
        line_chart({name: [(0, 0), (1, 1)]}, title=title, x_label=name, y_label=name),
        interval_chart([(name, 1.0, 0.0, 2.0)], title=title, x_label=name),
    ):
        root = read(svg)
        held = re.sub("[\x00-\x1f\ud800-\udfff\ufffe\uffff]", " ", title)
        assert (root.find(f"{SVG}title").text or "") == held


def test_screen_readers_hear_title_and_numbers():
    svg = interval_chart([("plain", 61.25, 58.0, 64.0)], title="Steps", x_label="accuracy")
    root = read(svg)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby").split() == [
        root.find(f"{SVG}title").get("id"),
        root.find(f"{SVG}desc").get("id"),
    ]
    assert root.find(f"{SVG}title").text == "Steps"
    assert root.find(f"{SVG}desc").text == "accuracy: plain 61.25 (58 to 64)"


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.1."""
    levels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in levels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("ground", ["light", "dark"])
def test_every_colour_stands_out_from_its_ground(ground):
    """WCAG 2.1, 1.4.11: 3 to 1 for graphics; the grounds are those of the style sheet."""
    style = read(line_chart({"a": [(0, 0), (1, 1)]}, **LABELS)).find(f"{SVG}style").text
    parts = style.split("@media (prefers-color-scheme:dark)")
    (paper,) = re.findall(r"\.ground\{fill:(#\w+)\}", parts[ground == "dark"])
    paper = paper if len(paper) == 7 else "#" + "".join(2 * digit for digit in paper[1:])
    for k, pair in enumerate(COLOURS):
        colour = pair[ground == "dark"]
        assert f".s{k}{{stroke:{colour}}}" in parts[ground == "dark"]
        light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3, colour
    assert len(set(DASHES)) == len(COLOURS)


def test_nothing_is_fetched():
    svg = line_chart({"a": [(0, 0), (1, 1)]}, **LABELS)
    assert re.findall(r"(?:href|src|url)\s*[=(]", svg) == []
    assert "script" not in svg
