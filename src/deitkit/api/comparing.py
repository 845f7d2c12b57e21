"""Runs side by side: on the same images, in their settings, in their data, over time."""

# Shapes: N images.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress
from deitkit.api.reporting import read_json, read_log
from deitkit.api.request import CONFIG_FILE, DATA_REPORT_FILE, METRICS_FILE
from deitkit.api.run import Run, open_run
from deitkit.config import build_config, flatten, read_config_file
from deitkit.errors import ConfigError

if TYPE_CHECKING:
    from deitkit.evaluation.metrics import Metrics
    from deitkit.evaluation.paired import Gain

OF_THE_FOLDER = ("run.out", "run.overwrite")
"""Settings that are never the same, and change nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """One of the runs."""

    name: str
    metrics: Metrics
    gain: Gain | None
    """Of this run over the first, on the same images; None for the first."""
    num_params: int | None
    seconds: float | None
    """Of training; None where it is not finished or not known."""
    epochs: float | None
    latency_ms: float
    """Median of one decoded picture at a time, here and now."""
    log: Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """What `compare` found."""

    measured_on: str
    runs: tuple[Compared, ...]
    settings: dict[str, tuple[str, ...]]
    """Of the settings that are not the same everywhere: the value of each run."""
    data: dict[str, tuple[str, ...]]
    """Likewise of what was found in the data."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "measured_on": self.measured_on,
            "runs": [
                {
                    "name": run.name,
                    "metrics": run.metrics.to_dict(),
                    "gain": None if run.gain is None else run.gain.to_dict(),
                    "parameters": run.num_params,
                    "seconds": run.seconds,
                    "epochs": run.epochs,
                    "latency_ms": run.latency_ms,
                }
                for run in self.runs
            ],
            "settings": {name: list(values) for name, values in self.settings.items()},
            "data": {name: list(values) for name, values in self.data.items()},
        }


def compare(
    runs: Sequence[Run | str | Path],
    *,
    data: Any = None,
    split: str | None = None,
    progress: Progress = no_progress,
) -> Comparison:
    """Measure runs, bundles or exported files on the same labelled images.

    The images are `data`, or those that the first run is evaluated on. Each run answers with its
    heads fused as it does; differences are paired by image, against the first.

    Raises:
        ConfigError: FEW_RUNS, fewer than two; OTHER_CLASSES, one does not know the first's classes.
        DataError, ModelFileError: as `Run.evaluate`.
    """
    from deitkit.evaluation.metrics import summarise
    from deitkit.evaluation.paired import paired_gain
    from deitkit.teachers.class_match import match_classes

    if len(runs) < 2:
        raise ConfigError(
            "FEW_RUNS", "compare", f"{len(runs)} run is named", "name two or more run folders"
        )
    opened = [run if isinstance(run, Run) else open_run(run) for run in runs]
    first = opened[0]
    images, measured_on = first.labelled_images(data, split, progress)
    names = first.class_names
    found: list[Compared] = []
    first_right_N = None
    for run, label in zip(opened, _labels(opened), strict=True):
        match = match_classes(run.class_names, names)
        if match.columns is None:
            raise ConfigError(
                "OTHER_CLASSES",
                run.folder,
                match.explain("it"),
                "compare runs that were trained on the same classes",
            )
        predictor = run.predictor
        policy = predictor.decode_policy
        fused_NK = predictor.fused_logits(
            images.decoded_as(channels=policy.channels, background=policy.background),
            progress=partial(progress, f"asking {label}"),
        )[:, list(match.columns)]
        right_N = fused_NK.argmax(axis=1) == images.labels
        log = read_log(run.folder / METRICS_FILE)
        found.append(
            Compared(
                name=label,
                metrics=summarise(fused_NK, images.labels, names),
                gain=None if first_right_N is None else paired_gain(right_N, first_right_N),
                num_params=predictor.num_params,
                seconds=None if (result := _result(run)) is None else result["seconds"],
                epochs=max((line["epoch"] for line in log), default=None),
                latency_ms=_latency_ms(predictor, images),
                log=log,
            )
        )
        first_right_N = right_N if first_right_N is None else first_right_N
    return Comparison(
        measured_on=measured_on,
        runs=tuple(found),
        settings=_differences([_settings(run.folder) for run in opened]),
        data=_differences([_data(run.folder) for run in opened]),
    )


def _result(run: Run) -> dict[str, Any] | None:
    return run.result if run.folder.is_dir() else None


def _labels(runs: Sequence[Run]) -> list[str]:
    """The folders' names, with as much of their paths as tells them apart."""
    for depth in range(1, 20):
        labels = ["/".join(run.folder.parts[-depth:]) for run in runs]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{run.folder.name} ({number})" for number, run in enumerate(runs, start=1)]


def _latency_ms(predictor: Any, images: Any) -> float:
    from deitkit.api.exporting import image_ms

    policy = predictor.decode_policy
    same = images.decoded_as(channels=policy.channels, background=policy.background)
    return image_ms(predictor.probabilities, same)


def _settings(folder: Path) -> dict[str, str]:
    """Of a run; of a bundle or file alone nothing is known."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        return {}
    return {k: str(v) for k, v in flatten(build_config(read_config_file(path)[0])).items()}


def _data(folder: Path) -> dict[str, str]:
    report = read_json(folder / DATA_REPORT_FILE)
    if report is None:
        return {}
    found = {f"{split} images": f"{count:,}" for split, count in report["num_images"].items()}
    found |= {side: "{} to {}".format(*report[side][::2]) for side in ("heights", "widths")}
    found["source"] = str(report["source"])
    _, information = read_config_file(folder / CONFIG_FILE)
    found["content, classes and split"] = information["identity"]["data"]
    return found


def _differences(tables: Sequence[dict[str, str]]) -> dict[str, tuple[str, ...]]:
    """The rows in which not all tables that say anything say the same; "" for the others."""
    names = dict.fromkeys(name for table in tables for name in table)
    found = {}
    for name in names:
        told = {table.get(name, "") for table in tables if table}
        if len(told) > 1 and name not in OF_THE_FOLDER:
            found[name] = tuple(table.get(name, "") for table in tables)
    return found
