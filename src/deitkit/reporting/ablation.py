"""What each rung of a ladder brings: means and differences over seeds, as numbers, table, chart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deitkit.data import printable
from deitkit.evaluation.metrics import wilson_interval
from deitkit.reporting.charts import interval_chart
from deitkit.reporting.console import percent
from deitkit.reporting.durations import duration

Interval = tuple[float, float]

_NUM_HALVINGS = 200


@dataclass(frozen=True, kw_only=True)
class RungSummary:
    """One rung over all seeds. Shares are 0 to 1."""

    name: str
    accuracies: tuple[float, ...]
    """By seed."""
    mean: float
    interval: Interval
    """95 %: over seeds, or, with one seed, Wilson's over the images."""
    difference: float | None
    """To the rung before; None for the first."""
    difference_interval: Interval | None
    """95 %, of the differences seed by seed; None for the first rung, or with one seed."""
    verdict: str | None
    """helps, hurts, cannot tell."""
    seconds: float
    """Of one run, mean over seeds."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def summarise_rungs(
    rungs: Mapping[str, Sequence[tuple[float, float]]], *, num_images: int
) -> list[RungSummary]:
    """Each rung's mean and interval, and its paired difference to the one before.

    `rungs` holds (accuracy, seconds) of each run, the same seeds in the same order for all.
    Accuracies are shares of `num_images`. A rung helps or hurts where the 95 % interval of its
    differences leaves out 0; with one seed nobody can tell.

    An accuracy is a whole number of images, so its standard deviation is taken as that of the
    rounding at least, 1 / (num_images sqrt 12): a few seeds that happen to agree prove nothing.
    """
    rounding = 1 / (num_images * math.sqrt(12))
    found: list[RungSummary] = []
    for name, runs in rungs.items():
        accuracies = tuple(accuracy for accuracy, _ in runs)
        mean = fmean(accuracies)
        if len(runs) == 1:
            interval = wilson_interval(round(mean * num_images), num_images)
        else:
            low, high = t_interval(accuracies, least_deviation=rounding)
            interval = (max(low, 0.0), min(high, 1.0))
        difference, difference_interval, verdict = None, None, None
        if found:
            gains = [now - then for now, then in zip(accuracies, found[-1].accuracies, strict=True)]
            difference, verdict = fmean(gains), "cannot tell"
            if len(gains) > 1:
                low, high = t_interval(gains, least_deviation=math.sqrt(2) * rounding)
                difference_interval = (max(low, -1.0), min(high, 1.0))
                verdict = "helps" if low > 0 else "hurts" if high < 0 else "cannot tell"
        found.append(
            RungSummary(
                name=name,
                accuracies=accuracies,
                mean=mean,
                interval=interval,
                difference=difference,
                difference_interval=difference_interval,
                verdict=verdict,
                seconds=fmean(seconds for _, seconds in runs),
            )
        )
    return found


def t_interval(values: Sequence[float], *, least_deviation: float = 0.0) -> Interval:
    """95 % interval of the mean of two or more normal values: mean +- t s / sqrt n.

    s is the sample's standard deviation, `least_deviation` at least. Student 1908, "The probable
    error of a mean".
    """
    n = len(values)
    reach = t_quantile(0.975, n - 1) * max(stdev(values), least_deviation) / math.sqrt(n)
    return fmean(values) - reach, fmean(values) + reach


def t_quantile(probability: float, degrees: int) -> float:
    """The value that Student's t stays below with this probability, 0.5 to 1.

    P(|T| <= sqrt(n) tan a) is a finite sum in sin a and cos a, Abramowitz and Stegun 1964, 26.7.3
    and 26.7.4; the angle is found by halving.
    """
    assert degrees >= 1 and 0.5 <= probability < 1, "an upper quantile of a t distribution"
    wanted = 2 * probability - 1
    low, high = 0.0, math.pi / 2
    for _ in range(_NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < wanted else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """P(|T| <= sqrt(degrees) tan angle)."""
    sine, cosine = math.sin(angle), math.cos(angle)
    is_odd = degrees % 2
    term, total = (cosine if is_odd else 1.0), 0.0
    for k in range(1 + is_odd, degrees, 2):
        total += term
        term *= k / (k + 1) * cosine * cosine
    return 2 / math.pi * (angle + sine * total) if is_odd else sine * total


def draw_ablation(ablation: Mapping[str, Any]) -> str:
    """`Ablation.to_dict()` as an SVG chart: each rung's accuracy in percent, the first's marked."""
    rungs = ablation["rungs"]
    rows = [
        (rung["name"], *(100 * share for share in (rung["mean"], *rung["interval"])))
        for rung in rungs
    ]
    over = "over seeds" if len(ablation["seeds"]) > 1 else "of one seed, over images"
    return interval_chart(
        rows,
        title="What each step brings",
        x_label=f"accuracy in percent, with its 95 % interval {over}",
        reference=100 * rungs[0]["mean"],
    )


def print_ablation(console: Console, ablation: Mapping[str, Any]) -> None:
    """`Ablation.to_dict()` as a table, and what its intervals mean."""
    num_seeds = len(ablation["seeds"])
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    table = Table(
        title=f"{ablation['num_images']:,} images of {printable(ablation['measured_on'])}"
    )
    for column in ("step", "accuracy", "95 % interval", "to the step before", "", "seconds"):
        table.add_column(
            column, justify="left" if column in ("step", "") else "right", overflow="fold"
        )
    for rung in ablation["rungs"]:
        table.add_row(
            Text(printable(rung["name"])),
            percent(rung["mean"]),
            "{:.1f} to {:.1f}".format(*(100 * bound for bound in rung["interval"])),
            _difference(rung),
            rung["verdict"] or "",
            f"{rung['seconds']:.0f}",
        )
    console.print(table)
    if num_seeds == 1:
        console.print(
            "One seed: the intervals are over the images alone, and no difference can be judged; "
            "seeds=3 or more can."
        )
    else:
        console.print(
            f"Intervals and differences are over {seeds}, paired by seed, and no narrower than "
            f"the rounding to whole images of {ablation['num_images']:,} allows."
            + (" Two seeds can tell little; seeds=3 or more can." if num_seeds == 2 else "")
        )
    teacher = ablation["teacher"]
    if teacher is not None:
        spent = ablation["teacher_seconds"]
        trained = (
            "" if spent is None else f", trained for it in {duration(spent)}, not counted above"
        )
        console.print(Text(f"teacher: {printable(teacher)}{trained}"))


def _difference(rung: Mapping[str, Any]) -> str:
    if rung["difference"] is None:
        return ""
    said = f"{100 * rung['difference']:+.1f}"
    bounds = rung["difference_interval"]
    return said if bounds is None else f"{said} ({100 * bounds[0]:+.1f} to {100 * bounds[1]:+.1f})"
