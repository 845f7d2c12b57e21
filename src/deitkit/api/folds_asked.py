"""What a run with folds was asked for, kept until its last run begins and has its own config."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.config import build_config, with_values
from deitkit.config.changes import find_changes
from deitkit.errors import CheckpointError
from deitkit.runtime.durable import make_folder, write_json
from deitkit.runtime.strict_json import load_json

if TYPE_CHECKING:
    from deitkit.api.request import Request

FOLDS_FOLDER = "folds"
"""Holds a run for each fold, in 1, 2 and so on, and what they were asked for."""
FOLDS_FILE = "folds.json"
"""What the folds found together."""
ASKED_FILE = "asked.json"


def read_folds_asked(folder: Path) -> dict[str, Any] | None:
    """By dotted name; None where no folds were begun."""
    path = folder / FOLDS_FOLDER / ASKED_FILE
    return load_json(path.read_bytes(), path)["asked"] if path.is_file() else None


def write_folds_asked(request: Request) -> None:
    """From then on the folder holds folds, and the command goes on with them."""
    path = request.folder / FOLDS_FOLDER / ASKED_FILE
    if not path.is_file():
        make_folder(path.parent)
        write_json(path, {"asked": request.asked})


def recall_folds(request: Request) -> None:
    """Take what the folds of this folder were asked for, where this command leaves it out."""
    before = read_folds_asked(request.folder)
    if before is not None:
        request.asked = {**before, **request.asked}
        config = build_config(request.asked)
        request.config = with_values(config, {"run.out": str(request.folder)})
        if isinstance(request.source, str | None):
            request.source = request.config.data.path


def check_folds_asked(request: Request) -> None:
    """Raise CheckpointError CONFIG_MISMATCH where this command asks for other folds than it began.

    None may be trained otherwise than the rest.
    """
    before = read_folds_asked(request.folder)
    if before is None:
        return
    changes = find_changes(build_config(before), before, request.asked)
    refused = [c for c in changes if c.kind != "free" or c.name == "schedule.epochs"]
    if refused:
        raise CheckpointError(
            "CONFIG_MISMATCH",
            request.folder,
            "its folds were begun with other settings: " + "; ".join(map(str, refused)),
            "choose another out= or overwrite=true to start anew",
        )
