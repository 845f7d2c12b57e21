"""deitkit check"""

from __future__ import annotations

import json as json_module
from pathlib import Path


def check(
    *,
    data: str,
    run: str | None = None,
    out: str | None = None,
    json: bool = False,
) -> int:
    """Examine pictures and labels before any training: what is wrong, and what to do.

    deitkit check data=photos/
    deitkit check data=photos/ run=runs/flowers      (also labels that are likely wrong)

    Unreadable and odd files, copies, bursts of nearly the same picture within and across classes
    and splits, class balance, pictures that a crop cuts off, blank ones. The page shows them. For
    a folder without validation images split/split.csv is a split that keeps together what looks
    alike; the last line is the command that trains with it. Nothing in your folder is changed.

    Parameters
    ----------
    data
        What train would be given: a folder, a CSV, Parquet or tar shards.
    run
        A run that was trained on it.
    out
        Folder for report.html, report.json and split/; runs/check-NAME where left out.
    json
        Print the findings as JSON, and write nothing unless out= is given.
    """
    from deitkit.api.checking import check as check_data
    from deitkit.api.checking import write_check
    from deitkit.data import printable
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole()
    try:
        checked = check_data(data, run=run, progress=console.progress)
    finally:
        console.close()
    facts = checked.to_dict()
    folder = Path(out or f"runs/check-{Path(data).expanduser().resolve().stem}").expanduser()
    written = write_check(checked, folder) if out is not None or not json else None
    if json:
        print(json_module.dumps(facts, indent=1))
        return 0
    if checked.stops is not None:
        print(f"training would stop here: {checked.stops}")
    for one in facts["findings"]:
        print(f"{one['level']:13} {one['title']}. {one['do']}")
    if facts["doubtful_labels"]:
        print(f"{'doubtful':13} {len(facts['doubtful_labels'])} labels or more; deitkit review")
    if checked.stops is None and not facts["findings"]:
        print("nothing to complain about")
    assert written is not None
    print("\n" + "\n".join(printable(path) for path in written.files))
    if split := written.split_note or written.split_command:
        print(split)
    return 0
