"""deitkit teach"""

from __future__ import annotations

import json as json_module
import os
import sys
from typing import Any

from deitkit.cli.tokens import read_pairs


def teach(
    *settings: str,
    data: str | None = None,
    teacher: str | None = None,
    views: str | None = None,
    out: str | None = None,
    ranks: str | None = None,
    json: bool = False,
) -> int:
    """Ask a teacher about all views of a run ahead of its training; the same command goes on.

    deitkit teach data=photos/ teacher=timm:regnety_160 views=30 epochs=100 out=runs/student
    deitkit train out=runs/student          then finds every answer
    deitkit cache list                      shows what is kept, and where

    The answers also serve other students, seeds, batch sizes, temperatures and image sizes on the
    same views: the same data, seed, epochs and views. settings.

    Parameters
    ----------
    settings
        Those of `deitkit train`, as name=value.
    data
        The images, as for train.
    teacher
        A run folder, timm:NAME, timm:NAME@file, hf:NAME, a file .onnx, or auto.
    views
        Epochs of different views to ask about; training shows them again. Left out: as many as the
        budget has time for.
    out
        Folder of the run that is begun.
    ranks
        Processes that ask, each its own share.
    json
        Print what was done as JSON.
    """
    words = {"data": data, "teacher": teacher, "views": views, "out": out, "ranks": ranks}
    values: dict[str, Any] = {name: value for name, value in words.items() if value is not None}
    values |= read_pairs(settings)
    ranks_wanted = int(ranks) if ranks is not None and ranks.isdecimal() else 1
    if ranks_wanted > 1 and "WORLD_SIZE" not in os.environ:
        from deitkit.runtime.launch import launch_ranks

        return launch_ranks(ranks_wanted, sys.argv[1:])

    from deitkit.api import teach as teach_views
    from deitkit.reporting.console import TrainingConsole
    from deitkit.reporting.durations import duration
    from deitkit.training.events import Warned

    is_main = os.environ.get("RANK", "0") == "0"
    console = TrainingConsole(enabled=is_main)
    try:
        taught = teach_views(
            progress=console.progress, tell=lambda text: console.show(Warned(text)), **values
        )
    finally:
        console.close()
    if not is_main:
        return 0
    if json:
        print(json_module.dumps(taught.to_dict(), indent=1))
        return 0
    print(
        f"{taught.num_views:,} views of {taught.num_view_epochs:,} epochs: "
        f"{taught.num_asked:,} asked about now, the others were there; "
        f"{duration(taught.seconds)}\nkept in {taught.cache_folder}\n"
        f"train with: deitkit train out={taught.run_folder}"
    )
    return 0
