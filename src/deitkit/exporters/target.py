"""Where a finished folder may be put: nothing that others wrote is ever lost."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from deitkit.data import printable
from deitkit.errors import ConfigError
from deitkit.runtime.sealed_folder import BrokenFolderError, read_manifest


def check_target(
    folder: Path, *, kind: str, file_names: Collection[str], replaces_own: bool, overwrite: bool
) -> None:
    """A folder of `kind`, made of `file_names`, may be written as `folder`; nothing is lost by it.

    It may not exist, be empty, be an earlier one of its kind (`replaces_own`) or, with `overwrite`,
    hold nothing but files of these names. Files of others are never removed.

    Raises:
        ConfigError: NOT_OURS.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(
            "NOT_OURS", printable(folder), "is a file", "choose another folder with out="
        )
    present = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    if not present:
        return
    strangers = [name for name in present if name not in file_names]
    if strangers:
        shown = ", ".join(map(printable, strangers[:5]))
        raise ConfigError(
            "NOT_OURS",
            printable(folder),
            f"holds other files ({shown}{', ...' if len(strangers) > 5 else ''})",
            "choose another out=, or move them away",
        )
    found = _kind_of(folder)
    if found == kind and replaces_own:
        return
    if found not in (kind, None):
        raise ConfigError(
            "NOT_OURS", printable(folder), f"holds a {found}", "choose another folder with out="
        )
    if not overwrite:
        what = (
            f"holds an earlier {kind}" if found == kind else f"is not empty, and no earlier {kind}"
        )
        raise ConfigError(
            "NOT_OURS", printable(folder), what, "choose another out=, or add overwrite=true"
        )


def _kind_of(folder: Path) -> str | None:
    """What its manifest says it is; None without a valid one."""
    try:
        return str(read_manifest(folder).get("kind"))
    except BrokenFolderError:
        return None
