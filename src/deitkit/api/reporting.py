"""report.html of a run: gathered from its folder, and from what its best weights say."""

# Shapes: N images, K classes, H height, W width, C channels.

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.report_pictures import Answers, picture_groups
from deitkit.api.request import (
    BEST_FOLDER,
    CONFIG_FILE,
    DATA_REPORT_FILE,
    FORECAST_FILE,
    METRICS_FILE,
    PYTHON_SEQUENCE,
    RACE_FILE,
    RESULT_FILE,
    TEACHER_FACTS_FILE,
)
from deitkit.config import AUTO, build_config, read_config_file
from deitkit.errors import ConfigError, DeitkitError
from deitkit.runtime.durable import write_file
from deitkit.runtime.strict_json import load_json

if TYPE_CHECKING:
    from deitkit.api.calibrating import Calibrated
    from deitkit.data import ImageSet
    from deitkit.evaluation.metrics import Metrics

REPORT_FILE = "report.html"


def write_report(
    folder: Path,
    *,
    answers: Answers | None,
    result: Mapping[str, Any] | None,
    out: Path | None = None,
) -> Path:
    """Write the page from the files of the run; without `answers` it shows no image and no class.

    Raises:
        DataError: an image cannot be read any more.
        ResourceError: the disk refused.
    """
    import deitkit
    from deitkit.reporting.forecast_table import forecast_rows
    from deitkit.reporting.pages import render_page
    from deitkit.reporting.race_table import race_facts
    from deitkit.reporting.report_facts import class_tables, costs, curves, data_facts

    log = read_log(folder / METRICS_FILE)
    config_text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    data = read_json(folder / DATA_REPORT_FILE)
    teacher = read_json(folder / TEACHER_FACTS_FILE)
    beside = read_json(folder / FORECAST_FILE)
    data_rows, data_warnings = ([], []) if data is None else data_facts(data)
    num_train = 0 if data is None else data["num_images"].get("train", 0)
    metrics = None if answers is None else _metrics(answers)
    headline, notes = _headline(folder, log, result, metrics)
    facts: dict[str, Any] = {
        "run": folder.name,
        "headline": headline,
        "subline": _subline(result),
        "notes": notes,
        "summary": _summary(folder, data, teacher),
        "charts": curves(log),
        "classes": [],
        "hidden_classes": 0,
        "matrix": None,
        "confusions": [],
        "calibration": None,
        "pictures": [],
        "teacher": teacher,
        "comparison": None if result is None else result.get("teacher"),
        "agreement": _agreement(result),
        "race": race_facts(read_json(folder / RACE_FILE)),
        "costs": [*costs(result, log, num_train), *forecast_rows(beside)],
        "data": data_rows,
        "data_warnings": data_warnings,
        "command": shlex.join(
            ["deitkit", "train", f"config={folder / CONFIG_FILE}", f"out={folder}-again"]
        ),
        "config": config_text.splitlines(),
        "version": deitkit.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
    }
    if answers is not None and metrics is not None:
        facts |= class_tables(metrics)
        facts["calibration"] = _calibration(answers)
        facts["pictures"] = picture_groups(answers)
    target = folder / REPORT_FILE if out is None else out
    write_file(target, render_page("report.html", facts))
    return target


def write_unfinished_report(folder: Path) -> None:
    """The page of a run that was interrupted; whatever hinders it hides no other error."""
    with contextlib.suppress(OSError, ValueError, DeitkitError):
        write_report(folder, answers=None, result=None)


def report_run(
    folder: str | Path, *, out: str | Path | None = None, progress: Progress = no_progress
) -> Path:
    """Write the page of a run again, with its best weights asked about its validation images.

    A run that was killed before its first evaluation has none yet: its page shows no answers.

    Raises:
        ConfigError: NO_RUN, this is no run folder; NO_DATA, it does not say its images.
        DataError: the images cannot be read.
        ModelFileError: its best bundle is damaged.
        ResourceError: the disk refused.
    """
    from deitkit.artifacts.bundle import has_bundle, load_bundle
    from deitkit.runtime.device import pick_device
    from deitkit.runtime.world import World
    from deitkit.training.scoring import ask_together

    path = Path(folder).expanduser().resolve()
    if not (path / CONFIG_FILE).is_file():
        raise ConfigError("NO_RUN", path, "is no run folder", "name one, such as runs/flowers")
    config = build_config(read_config_file(path / CONFIG_FILE)[0])
    target = None if out is None else Path(out).expanduser()
    if not has_bundle(path / BEST_FOLDER):
        return write_report(path, answers=None, result=None, out=target)
    source = config.data.path
    if source is None or source == PYTHON_SEQUENCE:
        raise ConfigError(
            "NO_DATA", path, "does not say where its images are", "see its report.html as it is"
        )
    bundle = load_bundle(path / BEST_FOLDER)
    dataset, world = scan(config, source, progress), World(device=pick_device("auto"))
    if dataset.trains_on_val:
        from deitkit.api.folds_judged import judge_folds

        val = dataset.train
        logits = judge_folds(path, config, dataset, world, progress).logits
    else:
        val = dataset.val
        own = ask_together(
            bundle.build_model().to(world.device),
            val,
            bundle.preprocessing,
            world,
            progress=lambda done, total: progress("evaluating", done, total),
        )
        assert own is not None, "nothing asked it to stop"
        logits = own
    answers = Answers(
        bundle=bundle,
        logits=logits,
        images=val,
        calibration=bundle.provenance.get("calibration"),
    )
    return write_report(path, answers=answers, result=read_json(path / RESULT_FILE), out=target)


def report_calibrated(
    folder: Path, calibrated: Calibrated, images: ImageSet, result: Mapping[str, Any]
) -> None:
    """Write the page of a run that has ended: what its calibrated bundle says of `images`."""
    answers = Answers(
        bundle=calibrated.bundle,
        logits=calibrated.logits,
        images=images,
        calibration=calibrated.to_dict(),
    )
    write_report(folder, answers=answers, result=result)


def read_json(path: Path) -> Any:
    """What a JSON file holds; None where it is not there."""
    return load_json(path.read_bytes(), path) if path.is_file() else None


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; none where it is not there."""
    if not path.is_file():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        with contextlib.suppress(ValueError):  # a kill may have cut the last one short
            lines.append(json.loads(line))
    return lines


def _metrics(answers: Answers) -> Metrics:
    from deitkit.evaluation.metrics import summarise

    return summarise(answers.fused(), answers.images.labels, answers.bundle.class_names)


def _headline(
    folder: Path, log: Sequence[Mapping[str, Any]], result: Mapping[str, Any] | None, metrics: Any
) -> tuple[str, list[str]]:
    """The result in a sentence, and what to know before it is believed."""
    from deitkit.reporting.pages import percent

    notes = []
    if result is None:
        step = max((line["step"] for line in log), default=0)
        notes.append(
            f"This run is not finished: it stands after step {step:,}. "
            f"deitkit train out={folder} goes on."
        )
    evaluated = [line["best"] for line in log if line["event"] == "evaluated"]
    if metrics is not None:
        low, high = metrics.top1_interval
        is_folded = result is not None and "folds" in result
        kind = "images" if is_folded else "validation images"
        each = " (each by a fold that did not train on it)" if is_folded else ""
        said = (
            f"{percent(metrics.top1)} of {metrics.num_images:,} {kind} are recognised{each}"
            f", 95 % interval {percent(low)} to {percent(high)}."
        )
        if metrics.num_images < 100:
            notes.append("So few validation images say little: the interval is wide.")
        return said, notes
    if evaluated:
        best = evaluated[-1]
        return (
            f"{percent(best['top1'])} of {best['num_images']:,} validation images were recognised "
            f"at step {best['step']:,}.",
            notes,
        )
    return "Nothing was evaluated yet.", notes


def _subline(result: Mapping[str, Any] | None) -> str:
    if result is None:
        return ""
    from deitkit.reporting.folds_table import folds_line
    from deitkit.reporting.pages import duration

    said = (
        f"{result['model']}, {result['parameters']:,} parameters, trained in "
        f"{duration(result['seconds'])} on {result['num_train']:,} images. "
    )
    if "folds" in result:
        return said + folds_line(result["folds"])
    return (
        f"{said}The weights were chosen by these validation images; images kept aside and deitkit "
        "evaluate give the honest figure."
    )


def _sizes_said(size: str, sides: Sequence[int]) -> str:
    if not sides:
        return f"{size} pixels, the same in every step"
    return f"{size} pixels; in training {', '.join(map(str, sides))}, each for an equal part"


def _strengths_said(strengths: Sequence[float]) -> list[tuple[str, str]]:
    if not strengths:
        return []
    shown = ", ".join(f"{strength:g}" for strength in strengths)
    return [("strength of views", f"{shown} of the full one, each for an equal part")]


def _summary(folder: Path, data: Any, teacher: Any) -> list[tuple[str, str]]:
    config = build_config(read_config_file(folder / CONFIG_FILE)[0])
    size = config.data.image_size
    shown = " x ".join(map(str, size)) if isinstance(size, list | tuple) else str(size)
    rows = [
        ("model", config.model.name),
        ("image size", _sizes_said(shown, config.schedule.sizes)),
        *_strengths_said(() if config.schedule.strengths == AUTO else config.schedule.strengths),
        ("start", "from scratch" if config.model.init == "scratch" else str(config.model.init)),
    ]
    if data is not None:
        counts: Mapping[str, int] = next(iter(data["class_counts"].values()), {})
        names = list(counts)
        listed = ", ".join(names[:12]) + (f" and {len(names) - 12:,} more" if names[12:] else "")
        rows.append((f"{len(names):,} classes", listed))
    if teacher is not None:
        cost = teacher["cost"]
        views = cost["num_view_epochs"]
        once = "about the views of one epoch"
        several = once if views == 1 else f"about the views of {views} epochs"
        asked = "about every view" if views is None else several
        rows.append(("teacher", f"{teacher['name']}, asked {asked}"))
    rows.append(
        (
            "length",
            "nothing was trained but a linear head"
            if config.schedule.steps == AUTO
            else f"{config.schedule.steps} steps of {config.optim.batch_size} images",
        )
    )
    return rows


def _agreement(result: Mapping[str, Any] | None) -> str:
    """A.25 and A.26: who hears the teacher, and how alike the tokens are."""
    best = {} if result is None else result["best"]
    if "agree_dist" not in best:
        return ""
    from deitkit.reporting.pages import percent

    said = (
        f"The distillation head decides as the teacher does on {percent(best['agree_dist'])} of "
        f"the validation images, the class head on {percent(best['agree_cls'])}."
    )
    if best.get("token_cos_in") is None:
        return said
    return (
        f"{said} The two tokens enter the network with a cosine of {best['token_cos_in']:z.2f} and "
        f"leave it with {best['token_cos_out']:z.2f}."
    )


def _calibration(answers: Answers) -> Any:
    if answers.calibration is None:
        return None
    from deitkit.reporting.report_facts import calibration_facts

    bundle = answers.bundle
    plain_NK = answers.logits.fused(bundle.fusion, 1.0, bundle.fusion_weight)
    labels_N = answers.images.labels
    return calibration_facts(plain_NK, answers.fused(), labels_N, answers.calibration)
