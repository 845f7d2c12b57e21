"""Charts as SVG text: lines, and estimates with their intervals. No dependency, no script.

Each chart is one self-contained file with its own light and dark colours. Colours are those of
Okabe and Ito 2008, "Color universal design", which colour-blind readers tell apart, lighter on a
dark ground; lines differ in their dashes besides, so that a grey print can be read too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

Point = tuple[float, float]
Row = tuple[str, float, float, float]

WIDTH = 720
PLOT_HEIGHT = 300
ROW_HEIGHT = 34
TEXT_SIZE = 13
MARGIN = 16
NUM_TICKS = 6
MAX_LABEL_CHARACTERS = 40
CHARACTER_WIDTH = 0.56 * TEXT_SIZE
"""Of the usual sans-serif fonts, on average; only the room for labels hangs on it."""

COLOURS = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff9e4a"),
    ("#007a5a", "#2fc99a"),
    ("#a6507d", "#e59ac2"),
    ("#8a6a00", "#f0e442"),
    ("#444444", "#d0d0d0"),
)
"""(on white, on black); each at least 3 to 1 against its ground, as WCAG 2.1 asks of graphics."""
DASHES = ("none", "7 3", "2 3", "9 3 2 3", "5 5", "12 4")


def line_chart(
    series: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_x: bool = False,
) -> str:
    """Lines through the points of each series, as SVG text.

    A point that is not finite (or not above 0 on a logarithmic axis) interrupts its line; a point
    with a gap on both sides is a dot. `series` has at least one point that can be drawn.
    """
    runs = {name: _unbroken(points, log_x=log_x) for name, points in series.items()}
    drawn = [point for parts in runs.values() for part in parts for point in part]
    assert drawn, "a chart needs a point"
    xs, ys = zip(*drawn, strict=True)
    legend, legend_height = _legend(list(series))
    y_ticks = round_ticks(min(ys), max(ys))
    left = MARGIN + 24 + max(_width_of(text) for _, text in y_ticks)
    top = MARGIN + 28 + legend_height
    bottom = top + PLOT_HEIGHT
    across = _Axis(log_ticks(min(xs), max(xs)) if log_x else round_ticks(min(xs), max(xs)), log_x)
    up = _Axis(y_ticks, False)
    right = WIDTH - max(MARGIN, 4 + _width_of(across.ticks[-1][1]) / 2)
    body = [legend]
    for place, text in across.ticks:
        x = across.at(place, left, right)
        body.append(_line("grid", x, top, x, bottom))
        body.append(_text(x, bottom + 18, text, anchor="middle"))
    for place, text in up.ticks:
        y = up.at(place, bottom, top)
        body.append(_line("grid", left, y, right, y))
        body.append(_text(left - 8, y + 4.5, text, anchor="end"))
    for k, parts in enumerate(runs.values()):
        for part in parts:
            spots = [(across.at(x, left, right), up.at(y, bottom, top)) for x, y in part]
            body.append(_path(k, spots))
    body.append(_text((left + right) / 2, bottom + 42, x_label, anchor="middle"))
    body.append(_text(0, 0, y_label, anchor="middle", turned_at=(MARGIN + 4, (top + bottom) / 2)))
    said = f"{y_label} over {x_label} of {', '.join(series)}"
    return _document(title, said, bottom + 56, body)


def interval_chart(
    rows: Sequence[Row], *, title: str, x_label: str, reference: float | None = None
) -> str:
    """A dot and its interval for each (label, value, low, high), as SVG text.

    Rows stand in the order given, from the top. `reference` is a place to compare with, such as
    0 for differences: a dashed upright line. An infinite bound runs to the edge of the chart.
    """
    assert rows, "a chart needs a row"
    places = [place for _, *numbers in rows for place in numbers if math.isfinite(place)]
    assert places, "a chart needs a number"
    places += [] if reference is None else [reference]
    labels = [_shortened(label) for label, *_ in rows]
    left = MARGIN + 12 + max(map(_width_of, labels))
    right = WIDTH - MARGIN - 12 - max(_width_of(f"{value:.4g}") for _, value, _, _ in rows)
    top = MARGIN + 28
    bottom = top + ROW_HEIGHT * len(rows)
    axis = _Axis(round_ticks(min(places), max(places)), False)
    body = []
    for place, text in axis.ticks:
        x = axis.at(place, left, right)
        body += [_line("grid", x, top, x, bottom), _text(x, bottom + 18, text, anchor="middle")]
    if reference is not None:
        x = axis.at(reference, left, right)
        body.append(_line("reference", x, top - 4, x, bottom))
    for k, (label, (full, value, low, high)) in enumerate(zip(labels, rows, strict=True)):
        y = top + ROW_HEIGHT * (k + 0.5)
        start, end = (
            axis.at(min(max(place, axis.low), axis.high), left, right) for place in (low, high)
        )
        body += [
            f"<g><title>{_xml(f'{full}: {value:.4g}, {low:.4g} to {high:.4g}')}</title>",
            _text(left - 12, y + 4.5, label, anchor="end"),
            _line("whisker", start, y, end, y),
            _line("whisker", start, y - 5, start, y + 5) if math.isfinite(low) else "",
            _line("whisker", end, y - 5, end, y + 5) if math.isfinite(high) else "",
        ]
        if math.isfinite(value):
            dot = axis.at(value, left, right)
            body.append(f'<circle class="dot" cx="{dot:.1f}" cy="{y:.1f}" r="5"/>')
        body += [_text(right + 12, y + 4.5, f"{value:.4g}"), "</g>"]
    body.append(_text((left + right) / 2, bottom + 42, x_label, anchor="middle"))
    said = "; ".join(
        f"{label} {value:.4g} ({low:.4g} to {high:.4g})" for label, value, low, high in rows
    )
    return _document(title, f"{x_label}: {said}", bottom + 56, body)


def round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """(place, text) of 3 to 8 ticks at multiples of 1, 2 or 5 times a power of ten, around both.

    Equal numbers get a tick below and one above.
    """
    if high <= low:
        reach = max(abs(low), 1.0) / 2
        low, high = low - reach, high + reach
    rough = (high - low) / NUM_TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    num_digits = max(0, -math.floor(math.log10(step) + 1e-9))
    large = max(abs(first), abs(last)) * step >= 1e6 or num_digits > 5
    ticks = []
    for k in range(first, last + 1):
        # Rounded, since 3 * 0.1 is not 0.3.
        place = round(k * step, num_digits) if num_digits < 300 else k * step
        ticks.append((place, f"{place:g}" if large else f"{place:,.{num_digits}f}"))
    return ticks


def log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """(place, text) of ticks at powers of ten around both, with their 2 and 5 over short spans."""
    first, last = math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9)
    last = max(last, first + 1)
    factors = (1, 2, 5) if last - first <= 2 else (1,)
    stride = max(1, math.ceil((last - first) / (NUM_TICKS + 2)))
    places = [f * 10.0**k for k in range(first, last, stride) for f in factors] + [10.0**last]
    return [(place, f"{place:,.0f}" if 1 <= place < 1e6 else f"{place:g}") for place in places]


class _Axis:
    """From numbers to places on the chart."""

    def __init__(self, ticks: Sequence[tuple[float, str]], is_log: bool) -> None:
        self.ticks = ticks
        self.is_log = is_log
        self.low, self.high = ticks[0][0], ticks[-1][0]

    def at(self, value: float, start: float, end: float) -> float:
        low, high, value = (
            (math.log(self.low), math.log(self.high), math.log(value))
            if self.is_log
            else (self.low, self.high, value)
        )
        return start + (value - low) / (high - low) * (end - start)


def _unbroken(points: Sequence[Point], *, log_x: bool) -> list[list[Point]]:
    """The points in stretches that can be drawn without lifting the pen."""
    parts: list[list[Point]] = [[]]
    for x, y in points:
        if math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x):
            parts[-1].append((x, y))
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _legend(names: Sequence[str]) -> tuple[str, float]:
    """The names with a piece of their line, in as many lines as they need, and their height."""
    x, y = float(MARGIN), MARGIN + 34.0
    pieces = []
    for k, name in enumerate(names):
        shown = _shortened(name)
        width = 36 + _width_of(shown) + 18
        if x > MARGIN and x + width > WIDTH - MARGIN:
            x, y = float(MARGIN), y + 20
        pieces += [_path(k, [(x, y - 4), (x + 28, y - 4)]), _text(x + 34, y, shown)]
        x += width
    return "".join(pieces), y - MARGIN - 34 + 28


def _path(k: int, spots: Sequence[Point]) -> str:
    colour = f"s{k % len(COLOURS)}"
    if len(spots) == 1:
        (x, y), *_ = spots
        return f'<circle class="{colour} spot" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    # Past the last colour the dashes move on, so that no two of 36 lines look alike.
    dash = DASHES[(k + k // len(COLOURS)) % len(DASHES)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
    return f'<polyline class="{colour}" stroke-dasharray="{dash}" points="{path}"/>'


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    turned_at: tuple[float, float] | None = None,
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}"'
    if turned_at is not None:
        place = f'transform="translate({turned_at[0]:.1f} {turned_at[1]:.1f}) rotate(-90)"'
    return f'<text {place} text-anchor="{anchor}">{_xml(text)}</text>'


def _shortened(text: str) -> str:
    half = MAX_LABEL_CHARACTERS // 2
    return text if len(text) <= MAX_LABEL_CHARACTERS else f"{text[: half - 1]}…{text[-half:]}"


def _width_of(text: str) -> float:
    # Chinese, Japanese and Korean characters are as wide as high.
    return sum(TEXT_SIZE if ord(c) > 0x2E80 else CHARACTER_WIDTH for c in text)


def _xml(text: str) -> str:
    """Escaped, with a space for each character that no XML may hold."""
    held = "".join(
        " " if c < " " or "\ud800" <= c <= "\udfff" or c in "\ufffe\uffff" else c for c in text
    )
    return escape(held)


def _document(title: str, said: str, height: float, body: Sequence[str]) -> str:
    light = "".join(f".s{k}{{stroke:{on_white}}}" for k, (on_white, _) in enumerate(COLOURS))
    dark = "".join(f".s{k}{{stroke:{on_black}}}" for k, (_, on_black) in enumerate(COLOURS))
    style = (
        f"text{{font:{TEXT_SIZE}px system-ui,sans-serif;fill:#222}}"
        ".title{font-size:16px;font-weight:600}.ground{fill:#fff}"
        ".grid{stroke:#ddd}.reference{stroke:#666;stroke-dasharray:4 4}"
        "polyline{fill:none;stroke-width:2;stroke-linejoin:round}.spot{stroke-width:2;fill:none}"
        f".whisker{{stroke:{COLOURS[0][0]};stroke-width:2}}.dot{{fill:{COLOURS[0][0]}}}{light}"
        "@media (prefers-color-scheme:dark){text{fill:#e6e6e6}.ground{fill:#161616}"
        ".grid{stroke:#3a3a3a}.reference{stroke:#aaa}"
        f".whisker{{stroke:{COLOURS[0][1]}}}.dot{{fill:{COLOURS[0][1]}}}{dark}}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img" aria-labelledby="title desc">'
        f'<title id="title">{_xml(title)}</title><desc id="desc">{_xml(said)}</desc>'
        f"<style>{style}</style>"
        f'<rect class="ground" width="{WIDTH}" height="{height:.0f}"/>'
        f'<text class="title" x="{MARGIN}" y="{MARGIN + 12}">{_xml(title)}</text>'
        + "".join(body)
        + "</svg>\n"
    )
