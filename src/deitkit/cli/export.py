"""deitkit export"""

from __future__ import annotations

import json as json_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deitkit.api.exporting import RunExport
    from deitkit.exporters.gate import Checked


def export(
    run: str,
    *,
    to: str,
    out: str | None = None,
    int8: bool | None = None,
    tolerance: float = 0.005,
    data: str | None = None,
    runtime: str | None = None,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Write a run's best weights as an ONNX file, a web page, or for timm or Transformers (hf).

    deitkit export runs/flowers to=onnx int8=true
    deitkit export runs/flowers to=web
    deitkit export runs/flowers to=timm
    deitkit export runs/flowers to=hf out=flowers-vit

    An ONNX file reads decoded pixels of any size and gives probabilities: resizing, normalisation,
    both heads and the temperature are in it. Before it gets its name, all validation images go
    through it, and it must answer as the run does. The web page classifies pictures in the browser:
    static files for any host, which also work offline. timm and Transformers have no models with
    convolutions (_quick, _hybrid or _conv in the name).

    Parameters
    ----------
    run
        A run folder, or the bundle in it.
    to
        onnx, web, timm or hf.
    out
        Folder to write; export-onnx, export-web, ... in the run where left out.
    int8
        Weights of 8 bits, a quarter of the size: with to=onnx a second file, with to=web the one
        unless int8=false.
    tolerance
        Accuracy that int8 may cost, as a share of the images.
    data
        Labelled images to measure an ONNX file on, instead of those the run validated on.
    runtime
        With to=web: the archive of onnxruntime-web, where it cannot be fetched from npm's registry.
    overwrite
        Replace files of the same names that are no earlier export. An earlier one always is.
    json
        Print folder, code, notes and measurements as JSON.
    """
    from deitkit.api.exporting import export_run
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole()
    try:
        exported = export_run(
            run,
            to,
            out=out,
            overwrite=overwrite,
            int8=int8,
            tolerance=tolerance,
            data=data,
            runtime=runtime,
            progress=console.progress,
        )
    finally:
        console.close()
    if json:
        print(json_module.dumps(_as_json(exported), indent=1))
    else:
        _print(exported)
    return 0


def _as_json(exported: RunExport) -> dict[str, Any]:
    return {
        "folder": str(exported.folder),
        "code": exported.code,
        "notes": list(exported.notes),
        "step": exported.step,
        "finished": exported.is_finished,
        "measured_on": exported.checked_on,
        "files": [
            {
                "file": one.file,
                "bytes": one.num_bytes,
                "accuracy": one.gain.share.value,
                "interval": list(one.gain.share.interval or ()),
                "run_accuracy": one.gain.other.value,
                "difference": one.gain.difference,
                "difference_interval": list(one.gain.interval),
                "largest_drift": one.drift,
                "image_ms": round(one.image_ms, 3),
                "run_image_ms": round(one.bundle_image_ms, 3),
            }
            for one in exported.checked
        ],
    }


def _print(exported: RunExport) -> None:
    from deitkit.data import printable

    step = "" if exported.step is None else f", best at step {exported.step:,}"
    so_far = "" if exported.is_finished else " so far: the run is not finished"
    print(f"exported to {printable(exported.folder)}{step}{so_far}")
    for note in exported.notes:
        print(f"note: {note}")
    if exported.checked:
        num_images = exported.checked[0].gain.share.num_images
        print(f"\nmeasured on {num_images:,} images, {printable(exported.checked_on)}")
        head = ("accuracy", "less than the run, points", "drift", "ms a picture")
        print(f"{'':17}{'MB':>7}  {head[0]:24}{head[1]:27}{head[2]:>9}{head[3]:>14}")
        for one in exported.checked:
            print(_row(one))
        print(f"{'the run itself':84}{exported.checked[0].bundle_image_ms:14.1f}")
    print(f"\nopen it with\n\n{exported.code}")


def _row(one: Checked) -> str:
    share = one.gain.share
    low, high = (100 * bound for bound in share.interval)
    assert share.value is not None and one.gain.difference is not None, "there are images"
    accuracy = f"{100 * share.value:.2f} % ({low:.1f} to {high:.1f})"
    less = [-100 * x + 0.0 for x in (one.gain.difference, *reversed(one.gain.interval))]
    points = f"{less[0]:.2f} ({less[1]:.2f} to {less[2]:.2f})"
    measured = f"{points:27}{one.drift:9.1e}{one.image_ms:14.1f}"
    return f"{one.file:17}{one.num_bytes / 1e6:7.2f}  {accuracy:24}{measured}"
