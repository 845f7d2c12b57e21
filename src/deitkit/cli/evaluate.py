"""deitkit evaluate"""

from __future__ import annotations

import json as json_module


def evaluate(
    run: str, *, data: str | None = None, split: str | None = None, json: bool = False
) -> int:
    """Measure a run on labelled images: accuracy with its interval, each class, each head.

    deitkit evaluate runs/flowers data=photos/test
    deitkit evaluate runs/flowers --json

    Parameters
    ----------
    run
        A run folder, or the bundle in it.
    data
        Images with labels: folder of class folders, CSV or Parquet. Classes are matched by name.
        Left out: the test split of the run's own data, else the validation images.
    split
        Which split of the data: train, val or test.
    json
        Print everything as JSON.
    """
    from deitkit.api import open_run
    from deitkit.reporting.console import TrainingConsole, make_console
    from deitkit.reporting.tables import print_evaluation

    console = TrainingConsole()
    try:
        opened = open_run(run)
        evaluation = opened.evaluate(data, split=split, progress=console.progress)
    finally:
        console.close()
    if json:
        print(json_module.dumps(evaluation.to_dict(), indent=1))
    else:
        print_evaluation(make_console(), evaluation.to_dict(), opened.class_names)
    return 0
