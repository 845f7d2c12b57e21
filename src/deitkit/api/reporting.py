"""report.html of a run: gathered from its folder, and from what its best weights say."""

# Shapes: N images, K classes, H height, W width, C channels.

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.request import (
    BEST_FOLDER,
    CONFIG_FILE,
    METRICS_FILE,
    PYTHON_SEQUENCE,
    RESULT_FILE,
    TEACHER_FACTS_FILE,
)
from deitkit.config import build_config, read_config_file
from deitkit.errors import ConfigError, DeitkitError
from deitkit.runtime.durable import write_file
from deitkit.runtime.strict_json import load_json

if TYPE_CHECKING:
    import numpy as np

    from deitkit.artifacts.bundle import Bundle
    from deitkit.data import ImageSet
    from deitkit.evaluation.logits import HeadLogits
    from deitkit.explanation.explainer import Explainer

REPORT_FILE = "report.html"
DATA_REPORT_FILE = "data_report.json"
NUM_SHOWN = 8
"""Pictures of each kind: the worst mistakes, the least sure."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What the best weights say of the validation images."""

    bundle: Bundle
    logits: HeadLogits
    images: ImageSet
    calibration: Mapping[str, Any] | None
    """As a bundle's provenance has it; None where the run has not ended."""


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
    from deitkit.reporting.pages import render_page
    from deitkit.reporting.report_facts import class_tables, costs, curves, data_facts

    log = read_log(folder / METRICS_FILE)
    config_text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
    data = read_json(folder / DATA_REPORT_FILE)
    teacher = read_json(folder / TEACHER_FACTS_FILE)
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
        "costs": costs(result, log, num_train),
        "data": data_rows,
        "data_warnings": data_warnings,
        "command": f"deitkit train config={folder / CONFIG_FILE} out={folder.name}-again",
        "config": config_text,
        "version": deitkit.__version__,
        "when": time.strftime("%Y-%m-%d %H:%M %Z"),
    }
    if answers is not None and metrics is not None:
        facts |= class_tables(metrics)
        facts["calibration"] = _calibration(answers)
        facts["pictures"] = _picture_groups(answers)
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

    Raises:
        ConfigError: NO_RUN, this is no run folder; NO_DATA, it does not say its images.
        DataError: the images cannot be read.
        ModelFileError: it has no best bundle yet, or a damaged one.
        ResourceError: the disk refused.
    """
    from deitkit.artifacts.bundle import load_bundle
    from deitkit.evaluation.logits import collect_logits
    from deitkit.runtime.device import pick_device

    path = Path(folder).expanduser().resolve()
    if not (path / CONFIG_FILE).is_file():
        raise ConfigError("NO_RUN", path, "is no run folder", "name one, such as runs/flowers")
    config = build_config(read_config_file(path / CONFIG_FILE)[0])
    source = config.data.path
    if source is None or source == PYTHON_SEQUENCE:
        raise ConfigError(
            "NO_DATA", path, "does not say where its images are", "see its report.html as it is"
        )
    bundle = load_bundle(path / BEST_FOLDER)
    val = scan(config, source, progress).val
    device = pick_device("auto")
    logits = collect_logits(
        bundle.build_model().to(device),
        val,
        bundle.preprocessing,
        device=device,
        progress=lambda done, total: progress("evaluating", done, total),
    )
    assert logits is not None, "nothing asked it to stop"
    answers = Answers(
        bundle=bundle,
        logits=logits,
        images=val,
        calibration=bundle.provenance.get("calibration"),
    )
    target = None if out is None else Path(out).expanduser()
    return write_report(path, answers=answers, result=read_json(path / RESULT_FILE), out=target)


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


def _fused(answers: Answers) -> np.ndarray:
    bundle = answers.bundle
    return answers.logits.fused(bundle.fusion, bundle.temperature, bundle.fusion_weight)


def _metrics(answers: Answers) -> Any:
    from deitkit.evaluation.metrics import summarise

    return summarise(_fused(answers), answers.images.labels, answers.bundle.class_names)


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
        said = (
            f"{percent(metrics.top1)} of {metrics.num_images:,} validation images are recognised"
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
    from deitkit.reporting.pages import duration

    return (
        f"{result['model']}, {result['parameters']:,} parameters, trained in "
        f"{duration(result['seconds'])} on {result['num_train']:,} images. The weights were chosen "
        "by these validation images; images kept aside and deitkit evaluate give the honest figure."
    )


def _summary(folder: Path, data: Any, teacher: Any) -> list[tuple[str, str]]:
    config = build_config(read_config_file(folder / CONFIG_FILE)[0])
    size = config.data.image_size
    shown = " x ".join(map(str, size)) if isinstance(size, list | tuple) else str(size)
    rows = [
        ("model", f"{config.model.name}, at {shown} pixels"),
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
        asked = "about every view" if views is None else f"about the views of {views:,} epochs"
        rows.append(("teacher", f"{teacher['name']}, asked {asked}"))
    rows.append(
        (
            "length",
            f"{config.schedule.steps} steps of {config.optim.batch_size} images",
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
        f"{said} The two tokens enter the network with a cosine of {best['token_cos_in']:.2f} and "
        f"leave it with {best['token_cos_out']:.2f}."
    )


def _calibration(answers: Answers) -> Any:
    if answers.calibration is None:
        return None
    from deitkit.reporting.report_facts import calibration_facts

    bundle = answers.bundle
    plain_NK = answers.logits.fused(bundle.fusion, 1.0, bundle.fusion_weight)
    labels_N = answers.images.labels
    return calibration_facts(plain_NK, _fused(answers), labels_N, answers.calibration)


def _picture_groups(answers: Answers) -> list[dict[str, Any]]:
    """The worst mistakes and the least sure images, with what each head looked at."""
    import numpy as np

    from deitkit.evaluation.metrics import softmax

    probabilities_NK = softmax(_fused(answers))
    labels_N = answers.images.labels
    said_N = probabilities_NK.argmax(axis=1)
    sure_N = probabilities_NK.max(axis=1)
    own_N = probabilities_NK[np.arange(len(labels_N)), labels_N]
    wrong = np.flatnonzero(said_N != labels_N)
    worst = wrong[np.argsort(own_N[wrong] - sure_N[wrong], kind="stable")][:NUM_SHOWN]
    unsure = np.argsort(sure_N, kind="stable")
    unsure = unsure[~np.isin(unsure, worst)][:NUM_SHOWN]
    explainer = _explainer(answers.bundle)
    groups = []
    for title, words, chosen in (
        (
            "The worst mistakes",
            "Sure, and wrong by the label. Some of these labels may be the mistake.",
            worst,
        ),
        ("The least sure", "Where its best class has the lowest probability.", unsure),
    ):
        items = [_picture_facts(answers, explainer, int(i), probabilities_NK[i]) for i in chosen]
        if items:
            maps = " Maps show what speaks for its answer in each head: lighter is more."
            shows_maps = len(items[0]["images"]) > 1
            groups.append(
                {"title": title, "words": words + (maps if shows_maps else ""), "shown": items}
            )
    return groups


def _picture_facts(
    answers: Answers, explainer: Explainer | None, index: int, probabilities_K: np.ndarray
) -> dict[str, Any]:
    from deitkit.reporting.pages import percent, picture

    images, names = answers.images, answers.bundle.class_names
    pixels_HWC = images.image(index)
    said, truth = int(probabilities_K.argmax()), int(images.labels[index])
    text = f"{names[said]} {percent(probabilities_K[said])}"
    if said != truth:
        text += f", labelled {names[truth]} ({percent(probabilities_K[truth])})"
    shown = [(picture(pixels_HWC), "the picture")]
    shown += [
        (picture(overlaid), f"what the {head} head looked at")
        for head, overlaid in _overlays(explainer, pixels_HWC)
    ]
    return {"images": shown, "text": text, "source": images.describe(index)}


def _explainer(bundle: Bundle) -> Explainer | None:
    """None for a network without tokens."""
    import torch

    from deitkit.evaluation.predictor import Predictor
    from deitkit.explanation.explainer import Explainer, can_explain

    predictor = Predictor(bundle, device=torch.device("cpu"))
    return Explainer(predictor) if can_explain(predictor.model) else None


def _overlays(explainer: Explainer | None, pixels_HWC: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Relevance of each head over the picture."""
    from deitkit.explanation.overlay import overlay

    if explainer is None:
        return []
    factor = max(1, 160 // max(pixels_HWC.shape[:2]))
    large_HWC: np.ndarray = pixels_HWC.repeat(factor, axis=0).repeat(factor, axis=1)
    explanation = explainer.explain(pixels_HWC)
    return [
        (one.head, overlay(large_HWC, one.grid_RC, box=explanation.box)) for one in explanation.maps
    ]
