"""How many processes a command is to start, before any of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deitkit.api.request import CONFIG_FILE, read_request
from deitkit.config import AUTO, build_config, read_config_file, settled


def ranks_wanted(settings: Mapping[str, Any]) -> tuple[int, bool]:
    """Ranks to start, and whether they find out for themselves how many are best.

    A run that goes on keeps the number that ranks=auto became when it began.

    Raises:
        ConfigError: as the command itself would, before anything is started.
    """
    ranks = str(settings["ranks"])
    if AUTO in (settings.get("strategy"), settings.get("schedule.strategy")):
        read_request(settings)
    if ranks != AUTO:
        return (int(ranks) if ranks.isdecimal() else 1), False
    request = read_request(settings)
    frozen = request.folder / CONFIG_FILE
    if frozen.is_file() and not request.config.run.overwrite:
        values, _ = read_config_file(frozen)
        return settled(build_config(values).run.ranks), False
    from deitkit.runtime.launch import ranks_to_try

    return ranks_to_try(request.config.run.device), True
