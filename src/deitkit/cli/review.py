"""deitkit review"""

from __future__ import annotations

import json as json_module


def review(
    run: str,
    *,
    num: int = 200,
    port: int = 8001,
    out: str | None = None,
    data: str | None = None,
    json: bool = False,
) -> int:
    """Look at the most doubtful labels of a run's images on a page, and correct them.

    deitkit review runs/flowers
    deitkit train data=photos/ labels=runs/flowers/labels.csv out=runs/better

    The page shows picture after picture, where student and teacher say another class than the
    label: K keeps, 1 to 9 change, D drops, U takes back. Each answer is saved at once into a file
    beside the run; your folders are never changed. A second call goes on.

    Parameters
    ----------
    run
        A run folder.
    num
        Images to show.
    port
        Where the page is, on this machine only; 0 takes a free port.
    out
        The file of corrections; labels.csv in the run where left out.
    data
        Where the run's images are now, if they were moved.
    json
        Print the ranking as JSON and serve no page.
    """
    from deitkit.api.reviewing import find_doubtful, review_run
    from deitkit.data import printable
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole()
    try:
        if json:
            doubtful = find_doubtful(run, data=data, progress=console.progress)
            shown = {"images": doubtful.rows(num), "notes": list(doubtful.notes)}
            console.close()
            print(json_module.dumps(shown, indent=1))
            return 0
        path = review_run(
            run,
            num=num,
            port=port,
            out=out,
            data=data,
            on_listening=lambda address, path: print(
                f"look at {address} (Ctrl-C stops); answers go into {printable(path)}", flush=True
            ),
            progress=console.progress,
        )
    finally:
        console.close()
    if path.exists():
        print(f"train with them: deitkit train data=... labels={printable(path)}")
    return 0
