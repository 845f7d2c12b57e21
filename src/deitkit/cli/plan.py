"""deitkit plan"""

from __future__ import annotations

import json as json_module
import os
from typing import Any

from deitkit.cli.ranks import run_on_ranks
from deitkit.cli.tokens import read_pairs


def plan(*settings: str, ranks: str | None = None, json: bool = False) -> int:
    """What train would choose, and the time and memory it would take, in seconds instead of hours.

    deitkit plan data=photos/ budget=30m
    deitkit plan data=photos/ teacher=auto epochs=100
    deitkit plan data=photos/ --json

    The images are read and a few steps are timed; nothing is trained, and no run folder is made.
    Each choice stands beside its reason, then time by part and memory, then the command to type.

    Parameters
    ----------
    settings
        Those of `deitkit train`, as name=value.
    ranks
        Processes that compute, as for train.
    json
        Print the plan as JSON.
    """
    values: dict[str, Any] = {} if ranks is None else {"ranks": ranks}
    values |= read_pairs(settings)
    code = run_on_ranks(values)
    if code is not None:
        return code

    from deitkit.api import plan as make_plan
    from deitkit.api.choosing_ranks import RankNotNeeded
    from deitkit.reporting.console import TrainingConsole, make_console
    from deitkit.reporting.forecast_table import print_plan

    is_main = os.environ.get("RANK", "0") == "0"
    shown = TrainingConsole(enabled=is_main)
    try:
        made = make_plan(progress=shown.progress, **values)
    except RankNotNeeded:
        return 0
    finally:
        shown.close()
    if not is_main:
        return 0
    if json:
        print(json_module.dumps(made.to_dict(), indent=1))
    else:
        print_plan(make_console(), made.to_dict())
    return 0
