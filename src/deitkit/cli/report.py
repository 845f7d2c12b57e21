"""deitkit report"""

from __future__ import annotations


def report(run: str, *, out: str | None = None) -> int:
    """Write a run's report.html again: result, curves, classes, mistakes, teacher, data, cost.

    deitkit report runs/flowers
    deitkit report runs/flowers out=flowers.html

    Every training writes it into its folder when it ends, also when it is interrupted; this asks
    the best weights about the validation images once more.

    Parameters
    ----------
    run
        A run folder.
    out
        The file; report.html in the run where left out.
    """
    from deitkit.api.reporting import report_run
    from deitkit.data import printable
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole()
    try:
        path = report_run(run, out=out, progress=console.progress)
    finally:
        console.close()
    print(f"report in {printable(path)}")
    return 0
