"""Commands that start further processes of themselves."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any


def run_on_ranks(settings: Mapping[str, Any]) -> int | None:
    """The exit code of this command, run on the ranks that are asked for; None where this process
    is one of them, or the only one."""
    if "ranks" not in settings or "WORLD_SIZE" in os.environ:
        return None
    from deitkit.api.launching import ranks_wanted
    from deitkit.runtime.launch import launch_ranks

    wanted, is_open = ranks_wanted(settings)
    return launch_ranks(wanted, sys.argv[1:], open_choice=is_open) if wanted > 1 else None
