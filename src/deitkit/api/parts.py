"""Runs that are a part of one command, such as a fold or a step of a ladder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deitkit.errors import StoppedError


@contextmanager
def told_as_part(whole: Path, title: str | None = None, *, goes_on: str) -> Iterator[None]:
    """Where a part is stopped by a signal, say which of them (by default the one in whose folder
    that was), and what goes on with the whole."""
    try:
        yield
    except StoppedError as stopped:
        where = title or Path(stopped.subject).name
        raise StoppedError(
            stopped.exit_code - 128, whole, f"stopped in {where}: {stopped.why}", goes_on
        ) from stopped
