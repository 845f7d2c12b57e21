"""The end of a race: the run that won becomes the run of the race's own folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import write_config
from deitkit.api.race_arms import TAUGHT, TEACHER
from deitkit.api.race_record import ArmRecord, RaceRecord
from deitkit.api.race_rule import winner_of
from deitkit.api.reporting import read_json, report_calibrated
from deitkit.api.request import (
    BEST_FOLDER,
    CONFIG_FILE,
    FORECAST_FILE,
    METRICS_FILE,
    RESULT_FILE,
    START_REPORT_FILE,
    TEACHER_FILES,
    Request,
)
from deitkit.config import build_config, read_config_file, with_values
from deitkit.data import Dataset
from deitkit.runtime.durable import write_file, write_json

if TYPE_CHECKING:
    from deitkit.runtime.world import World


def say_arm(arm: ArmRecord) -> str:
    """One line on what became of an arm."""
    if arm.score is None:
        return f"{arm.title}: {arm.state}, {arm.why}"
    low, high = (100 * bound for bound in arm.score.interval)
    return (
        f"{arm.title}: {100 * arm.score.accuracy:.1f} % of {arm.num_images:,} validation images "
        f"(95 % interval {low:.1f} to {high:.1f}), {arm.model}, {arm.seconds:.0f} s"
    )


def keep_best(request: Request, record: RaceRecord, arm: ArmRecord) -> None:
    """Give the race's folder the bundle of `arm`, where it is the best there is so far."""
    from deitkit.artifacts.bundle import load_bundle, save_bundle

    if winner_of(record.scores()) != arm.name or arm.folder is None:
        return
    bundle = load_bundle(request.folder / arm.folder)
    raced = replace(bundle, provenance={**bundle.provenance, "race": arm.title})
    save_bundle(request.folder / BEST_FOLDER, raced)


def latency_of(folder: Path, dataset: Dataset) -> float:
    """Median milliseconds of one decoded picture at a time, with the bundle of a run."""
    from deitkit.api.exporting import image_ms
    from deitkit.evaluation.opening import open_predictor

    return image_ms(open_predictor(folder).probabilities, dataset.val)


def adopt(request: Request, dataset: Dataset, world: World, record: RaceRecord) -> dict[str, Any]:
    """Make the winner's run that of the race's folder; result.json, which is returned, comes last.

    Whatever ends this, the same again does all of it.
    """
    assert record.winner is not None
    arm = record.arms[record.winner]
    assert arm.folder is not None, "who wins has a bundle"
    won = request.folder / arm.folder
    keep_best(request, record, arm)
    for name in (METRICS_FILE, FORECAST_FILE, START_REPORT_FILE):
        _copy(won / name, request.folder / name)
    if arm.name in TAUGHT and arm.name != TEACHER:
        for name in TEACHER_FILES:
            _copy(won / name, request.folder / name)
    result: dict[str, Any] = read_json(won / RESULT_FILE)
    result |= {
        "command_seconds": round(record.spent_s, 2),
        "race": {"winner": arm.name, "title": arm.title, "folder": arm.folder},
    }
    _write_config(request, won)
    if request.config.run.report:
        _report(request, dataset, world, result)
    write_json(request.folder / RESULT_FILE, result)
    return result


def _write_config(request: Request, won: Path) -> None:
    """The winner's settings and reasons: one run, that can be repeated; that a race was asked for
    stands beside them."""
    values, information = read_config_file(won / CONFIG_FILE)
    config = build_config(values)
    own: dict[str, Any] = {
        "run.out": str(request.folder),
        "run.report": request.config.run.report,
    }
    if config.distill.teacher is not None:
        own["distill.teacher"] = request.config.distill.teacher
    request.config = with_values(config, own)
    request.reasons = {**information["reasons"], **request.reasons}
    request.identity = information["identity"]
    write_config(request)


def _report(request: Request, dataset: Dataset, world: World, result: dict[str, Any]) -> None:
    from deitkit.api.calibrating import calibrate_bundle

    fits = request.config.distill.fusion == "fitted"
    calibrated = calibrate_bundle(
        request.folder / BEST_FOLDER, dataset.val, world=world, fits_fusion=fits
    )
    report_calibrated(request.folder, calibrated, dataset.val, result)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        write_file(target, source.read_bytes())
