"""deitkit compare"""

from __future__ import annotations

import json as json_module
from pathlib import Path


def compare(
    *runs: str,
    data: str | None = None,
    split: str | None = None,
    out: str | None = None,
    json: bool = False,
) -> int:
    """Measure runs on the same images: intervals, paired tests, what differs in settings and data.

    deitkit compare runs/a runs/b
    deitkit compare runs/a runs/b runs/b/export-onnx/model.int8.onnx data=photos/test out=ab.html

    Parameters
    ----------
    runs
        Run folders, bundles or exported ONNX files; differences are against the first.
    data
        Labelled images; what the first run is evaluated on where left out.
    split
        The split of the data to use.
    out
        Also a page with their curves over each other, an HTML file.
    json
        Print everything as JSON.
    """
    import deitkit
    from deitkit.api.comparing import compare as compare_runs
    from deitkit.data import printable
    from deitkit.reporting.comparison import comparison_page, print_comparison_table
    from deitkit.reporting.console import TrainingConsole, make_console
    from deitkit.runtime.durable import write_file

    console = TrainingConsole()
    try:
        found = compare_runs(list(runs), data=data, split=split, progress=console.progress)
    finally:
        console.close()
    facts = found.to_dict()
    if out is not None:
        logs = {run.name: run.log for run in found.runs}
        page = comparison_page(facts, logs, version=deitkit.__version__)
        write_file(Path(out).expanduser(), page)
    if json:
        print(json_module.dumps(facts, indent=1))
        return 0
    print_comparison_table(make_console(stderr=False), facts)
    if out is not None:
        print(f"page in {printable(out)}")
    return 0
