"""deitkit export"""

from __future__ import annotations

import json as json_module


def export(
    run: str, *, to: str, out: str | None = None, overwrite: bool = False, json: bool = False
) -> int:
    """Write a run's best weights for another library: timm, or Hugging Face Transformers (hf).

    deitkit export runs/flowers to=timm
    deitkit export runs/flowers to=hf out=flowers-vit

    Models with convolutions (_conv in the name) have no counterpart there and are refused.

    Parameters
    ----------
    run
        A run folder, or the bundle in it.
    to
        timm or hf.
    out
        Folder to write; export-timm or export-hf in the run where left out.
    overwrite
        Replace files of the same names that are no earlier export. An earlier one always is.
    json
        Print folder, code and notes as JSON.
    """
    from deitkit.api.exporting import export_run
    from deitkit.data import printable

    exported = export_run(run, to, out=out, overwrite=overwrite)
    if json:
        shown = {
            "folder": str(exported.folder),
            "code": exported.code,
            "notes": list(exported.notes),
            "step": exported.step,
            "finished": exported.is_finished,
        }
        print(json_module.dumps(shown, indent=1))
        return 0
    step = "" if exported.step is None else f", best at step {exported.step:,}"
    so_far = "" if exported.is_finished else " so far: the run is not finished"
    print(f"exported to {printable(exported.folder)}{step}{so_far}")
    for note in exported.notes:
        print(f"note: {note}")
    print(f"\nopen it with\n\n{exported.code}")
    return 0
