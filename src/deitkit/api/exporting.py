"""A run's best weights as a file or folder that others open, checked where we can run it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress, scan
from deitkit.api.model_card import model_card
from deitkit.api.request import BEST_FOLDER, CONFIG_FILE, PYTHON_SEQUENCE, RESULT_FILE
from deitkit.config import build_config, read_config_file
from deitkit.data import DecodePolicy, ImageSet, open_split
from deitkit.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from deitkit.artifacts.bundle import Bundle
    from deitkit.evaluation.predictor import Predictor
    from deitkit.exporters.exported import Exported
    from deitkit.exporters.gate import Checked

ONNX, WEB = "onnx", "web"
TOLERANCE = 0.005
"""Accuracy, 0 to 1, that int8 may cost."""
NUM_TIMED = 20
"""Pictures whose answer is timed one at a time."""


@dataclass(frozen=True, kw_only=True)
class RunExport:
    """What was exported, from where in the training, and how to open it."""

    folder: Path
    code: str
    """Python lines that open it."""
    notes: tuple[str, ...]
    """What the other library does differently from deitkit."""
    step: int | None
    """The training step of the weights; None where their bundle does not say."""
    is_finished: bool
    """False while the run they come from goes on."""
    checked: tuple[Checked, ...] = ()
    """Each file, measured against the bundle; empty for folders of other libraries."""
    checked_on: str = ""
    """Which images."""


def formats() -> tuple[str, ...]:
    """What `to=` may say."""
    from deitkit.exporters.registry import FORMATS

    return (ONNX, WEB, *FORMATS)


def export_run(
    folder: str | Path,
    to: str,
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    int8: bool | None = None,
    tolerance: float = TOLERANCE,
    data: Any = None,
    runtime: str | Path | None = None,
    progress: Progress = no_progress,
) -> RunExport:
    """Write the best bundle of a run, or a bundle: as ONNX, web page, or for timm or Transformers.

    `out` is `export-{to}` in the run by default, beside a bundle that is in no run. An earlier
    export there is replaced. A run that is not finished gives its best weights so far.

    An ONNX file is measured before it gets its name: all validation images of the run (`data` names
    others) go through file and bundle, and their answers must be the same (`exporters.gate`).
    `int8` adds a smaller file whose accuracy may be `tolerance` (0 to 1) lower. The page of
    "web" holds that one, unless `int8` is False; `runtime` is the archive of onnxruntime-web where
    it is neither in the cache nor to be had from npm's registry.

    Raises:
        ConfigError: FORMAT; NOT_OURS where `out` holds something else; NO_DATA, a bundle alone does
            not say what to measure on; MISSING_PACKAGE; SETTING for a tolerance that is no share,
            or a setting of another format; NOT_FOUND for `runtime`.
        DataError: the images cannot be read.
        ModelFileError: what `load_bundle` raises; EXPORT, the library has no such network;
            EXPORT_DRIFT and EXPORT_INT8, the file does not answer as the bundle does; OFFLINE and
            CHECKSUM, of onnxruntime-web.
        ResourceError: the disk refused; nothing is left half written.
    """
    from deitkit.artifacts.bundle import load_bundle
    from deitkit.exporters.exported import EXPORT_FILES, KIND
    from deitkit.exporters.registry import FORMATS
    from deitkit.exporters.target import check_target

    _check_settings(to, int8=int8, tolerance=tolerance, runtime=runtime)
    source = Path(folder).expanduser().resolve()
    target = _default_target(source, to) if out is None else Path(out).expanduser().resolve()
    check_target(target, kind=KIND, file_names=EXPORT_FILES, replaces_own=True, overwrite=overwrite)
    bundle = load_bundle(source)
    checked: Sequence[Checked] = ()
    checked_on = ""
    if to in (ONNX, WEB):
        images, checked_on = _validation_images(source, bundle, data, progress)
        exported, checked = _export_checked(
            *(bundle, to, target, images),
            int8=int8,
            tolerance=tolerance,
            runtime=runtime,
            progress=progress,
        )
    else:
        exported = FORMATS[to](bundle, target)
    return RunExport(
        folder=exported.folder,
        code=exported.code,
        notes=exported.notes,
        step=_step(bundle.provenance),
        is_finished=not (source / CONFIG_FILE).is_file() or (source / RESULT_FILE).is_file(),
        checked=tuple(checked),
        checked_on=checked_on,
    )


def _check_settings(
    to: str, *, int8: bool | None, tolerance: float, runtime: str | Path | None
) -> None:
    if to not in formats():
        raise ConfigError("FORMAT", f"to={to}", "no such format", f"use {' or '.join(formats())}")
    if int8 is not None and to not in (ONNX, WEB):
        raise ConfigError("SETTING", f"to={to}", "has no int8", f"use it with to={ONNX}")
    if runtime is not None and to != WEB:
        raise ConfigError("SETTING", f"to={to}", "has no runtime", f"use it with to={WEB}")
    if not 0 <= tolerance <= 1:
        raise ConfigError(
            "SETTING", f"tolerance={tolerance:g}", "is no share of images", "use 0 to 1, as 0.005"
        )


def _export_checked(
    bundle: Bundle,
    to: str,
    target: Path,
    images: ImageSet,
    *,
    int8: bool | None,
    tolerance: float,
    runtime: str | Path | None,
    progress: Progress,
) -> tuple[Exported, list[Checked]]:
    """The formats that hold an ONNX file."""
    import torch

    from deitkit.evaluation.predictor import Predictor
    from deitkit.exporters.onnx_format import export_onnx
    from deitkit.exporters.web_format import export_web
    from deitkit.exporters.web_runtime import web_runtime

    own = Predictor(bundle, device=torch.device("cpu"))
    if to == ONNX:
        gate = _gate(own, images, tolerance, target, progress)
        return export_onnx(bundle, target, int8=bool(int8), gate=gate)
    archive = None if runtime is None else Path(runtime).expanduser()
    files = web_runtime(
        archive, progress=lambda done, total: progress("fetching onnxruntime-web", done, total)
    )
    return export_web(
        bundle,
        target,
        int8=int8 is not False,
        gate=_gate(own, images, tolerance, target, progress),
        card=model_card(own, explains=False),
        runtime=files,
    )


def _validation_images(
    source: Path, bundle: Bundle, data: Any, progress: Progress
) -> tuple[ImageSet, str]:
    """What the gate measures on: `data`, or the images that the run validated on."""
    spec = bundle.preprocessing
    decode = DecodePolicy(channels=spec.channels, background=spec.background)
    names = tuple(bundle.class_names)
    if data is not None:
        images = open_split(
            data,
            split=None,
            class_names=names,
            decode=decode,
            progress=lambda done, total: progress("reading images", done, total),
        )
        return images, f"{data} ({images.name})"
    config_file = source / CONFIG_FILE
    path = None
    if config_file.is_file():
        config = build_config(read_config_file(config_file)[0])
        path = config.data.path
    if path in (None, PYTHON_SEQUENCE):
        raise ConfigError(
            "NO_DATA",
            source,
            "does not say which images it was validated on, and no file is written unmeasured",
            "give labelled images, as in data=photos/val",
        )
    dataset = scan(config, path, progress)
    if tuple(dataset.val.class_names) != names:
        raise ConfigError(
            "NO_DATA",
            source,
            f"{path} now has the classes {', '.join(dataset.val.class_names[:10])}, not the run's",
            "give labelled images of its classes, as in data=photos/val",
        )
    return dataset.val, f"{path} ({dataset.val.name})"


def _gate(
    own: Predictor, images: ImageSet, tolerance: float, target: Path, progress: Progress
) -> Callable[[Path], Checked]:
    """Measures a file against the bundle on `images`; the bundle answers once."""
    from deitkit.evaluation.onnx_predictor import OnnxPredictor
    from deitkit.evaluation.paired import paired_gain
    from deitkit.exporters.exported import INT8_FILE
    from deitkit.exporters.gate import Checked, check_full_precision, check_int8

    own_NK = own.fused_logits(
        images, progress=lambda done, total: progress("asking the run", done, total)
    )
    own_ms = image_ms(own.probabilities, images)

    def gate(path: Path) -> Checked:
        file = OnnxPredictor(path)
        file_NK = file.fused_logits(
            images, progress=lambda done, total: progress(f"asking {path.name}", done, total)
        )
        final, labels_N = target / path.name, images.labels
        if path.name == INT8_FILE:
            gain, drift = check_int8(
                *(own_NK, file_NK, labels_N),
                tolerance=tolerance,
                describe=images.describe,
                subject=final,
            )
        else:
            drift = check_full_precision(own_NK, file_NK, describe=images.describe, subject=final)
            right_N, own_right_N = (z.argmax(axis=1) == labels_N for z in (file_NK, own_NK))
            gain = paired_gain(right_N, own_right_N)
        return Checked(
            file=path.name,
            num_bytes=path.stat().st_size,
            gain=gain,
            drift=drift,
            image_ms=image_ms(file.probabilities, images),
            bundle_image_ms=own_ms,
        )

    return gate


def image_ms(ask: Callable[[Sequence[np.ndarray]], object], images: ImageSet) -> float:
    """Median milliseconds of one picture, decoded, at a time."""
    import numpy as np

    pictures = [images.image(i) for i in range(min(NUM_TIMED, len(images)))]
    seconds = []
    for picture in [pictures[0], *pictures]:
        start = time.perf_counter()
        ask([picture])
        seconds.append(time.perf_counter() - start)
    return float(1e3 * np.median(seconds[1:]))


def _default_target(source: Path, to: str) -> Path:
    if (source / BEST_FOLDER).exists() or (source / CONFIG_FILE).is_file():
        return source / f"export-{to}"
    # A bundle is replaced as one, and would take what lies in it along.
    return source.with_name(f"{source.name}-export-{to}")


def _step(provenance: Mapping[str, Any]) -> int | None:
    validation = provenance.get("validation")
    step = validation.get("step") if isinstance(validation, Mapping) else None
    return step if isinstance(step, int) else None
