"""Where things lie that can be made or fetched again, one place for all projects of a user."""

from __future__ import annotations

import os
from pathlib import Path


def user_cache(kind: str) -> Path:
    """The folder of one kind of cache, such as "teachers"; it need not exist."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "deitkit" / kind
