"""deitkit evaluate"""

from __future__ import annotations

import json as json_module


def evaluate(
    run: str,
    *,
    data: str | None = None,
    split: str | None = None,
    teacher: str | None = None,
    against: str | None = None,
    json: bool = False,
) -> int:
    """Measure a run on labelled images: accuracy with its interval, each class, each head.

    deitkit evaluate runs/flowers data=photos/test
    deitkit evaluate runs/student teacher=own against=runs/plain
    deitkit evaluate runs/flowers --json

    Parameters
    ----------
    run
        A run folder, or the bundle in it.
    data
        Images with labels: folder of class folders, CSV, Parquet or tar shards. Classes are matched
        by name.
        Left out: the test split of the run's own data, else the validation images.
    split
        Which split of the data: train, val or test.
    teacher
        Also show how often each head decides as this teacher does: own (the teacher of the run),
        or any teacher that train takes.
    against
        Also show what each class gained over this run, such as one without a teacher.
    json
        Print everything as JSON.
    """
    from deitkit.api import open_run
    from deitkit.reporting.console import TrainingConsole, make_console
    from deitkit.reporting.tables import print_evaluation
    from deitkit.reporting.teacher_table import print_diagnostics

    console = TrainingConsole()
    try:
        opened = open_run(run)
        evaluation = opened.evaluate(
            data, split=split, teacher=teacher, against=against, progress=console.progress
        )
    finally:
        console.close()
    if json:
        print(json_module.dumps(evaluation.to_dict(), indent=1))
        return 0
    shown = make_console()
    print_evaluation(shown, evaluation.to_dict(), opened.class_names)
    if evaluation.diagnostics is not None:
        print_diagnostics(shown, evaluation.diagnostics.to_dict(), asked=evaluation.asked)
    return 0
