"""For the machine: everything that changes in training, to go on bit for bit after any end.

`<folder>/step-00000123/` holds `state.safetensors` (tensors), `state.json` (numbers) and
`manifest.json`, without which it does not exist. There is no pointer to the newest one to lose:
it is the highest step whose manifest verifies. Times of files are never read.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from deitkit.artifacts.state_tree import (
    first_non_finite,
    pack_tree,
    to_saved_tensors,
    unpack_tree,
)
from deitkit.errors import CheckpointError, DivergedError
from deitkit.runtime.durable import remove_durably, rename_durably
from deitkit.runtime.sealed_folder import (
    BrokenFolderError,
    read_manifest,
    read_sealed_file,
    replace_folder,
    verify_folder,
)
from deitkit.runtime.temporary_names import remove_leftovers

SCHEMA = 1
TENSORS_FILE = "state.safetensors"
STATE_FILE = "state.json"
_NAME = re.compile(r"^step-(\d+)(\.previous)?$")
_BAD_NAME = re.compile(r"^step-\d+.*\.bad$")


class Rejected(NamedTuple):
    """A checkpoint that was passed over."""

    path: Path
    """Where it is now; ends in .bad if it was renamed."""
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One verified checkpoint, in memory."""

    step: int
    tensors: dict[str, Tensor]
    """On the CPU."""
    state: dict[str, Any]
    lineage: str
    """Names the run and its data; another run's checkpoint is never taken over."""
    machine: dict[str, Any]
    path: Path
    rejected: list[Rejected] = field(default_factory=list)
    """Newer ones that could not be used."""


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    lineage: str,
    machine: Mapping[str, Any],
) -> Path:
    """Write one checkpoint; when this returns, a power cut cannot take it. Returns its folder.

    `state` and `machine` are JSON: text keys, finite numbers. A second save of one step replaces
    the first.

    Raises:
        DivergedError: NON_FINITE; a checkpoint never holds NaN or infinity.
        ResourceError: the disk refused; what was there before is intact.
    """
    bad = first_non_finite(tensors)
    if bad is not None:
        raise DivergedError(
            "NON_FINITE",
            f"step {step}",
            f"{bad} holds NaN or infinity, so nothing was saved",
            "the last checkpoint is intact; lower lr or clip gradients, and go on from it",
        )
    files = {
        TENSORS_FILE: safetensors.torch.save(to_saved_tensors(tensors)),
        STATE_FILE: json.dumps(state, allow_nan=False).encode("ascii"),
    }
    extras = {
        "kind": "checkpoint",
        "schema": SCHEMA,
        "step": step,
        "lineage": lineage,
        "machine": dict(machine),
    }
    path = Path(folder) / f"step-{step:08d}"
    replace_folder(path, files, extras)
    return path


def load_newest(
    folder: Path, *, lineage: str | None = None, rename_rejected: bool = True
) -> Checkpoint | None:
    """The checkpoint of the highest step that verifies, or None where there never was one.

    Newer ones that are damaged are named in `rejected` and, with `rename_rejected` (for the one
    that holds the run's lock), renamed to `*.bad`; none is deleted. What dead writers left
    unfinished is then removed.

    Raises:
        CheckpointError: CORRUPT, where there were some and none verifies (a run is never silently
            begun anew; nothing is renamed then); LINEAGE, from another run or data; NEWER, from
            a later deitkit. The folder stays as it is.
        ResourceError: the disk forbids reading.
    """
    folder = Path(folder)
    if rename_rejected:
        remove_leftovers(folder)
    rejected: list[Rejected] = []
    for path, step in _candidates(folder):
        try:
            checkpoint = _load(path, step)
        except BrokenFolderError as error:
            rejected.append(Rejected(path, str(error)))
            continue
        if lineage is not None and checkpoint.lineage != lineage:
            raise CheckpointError(
                "LINEAGE",
                path,
                f"it belongs to run {checkpoint.lineage}, not to {lineage}",
                "choose another out=, or set overwrite=true to begin anew",
            )
        if rename_rejected:
            rejected = [Rejected(_quarantine(old), why) for old, why in rejected]
        checkpoint.rejected.extend(rejected)
        return checkpoint
    if rejected or _has_bad(folder):
        what = (
            "; ".join(f"{old.name}: {why}" for old, why in rejected[:10]) or "all renamed to .bad"
        )
        raise CheckpointError(
            "CORRUPT",
            folder,
            f"no checkpoint is whole ({what})",
            "restore one from a backup, or set overwrite=true to begin anew",
        )
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether `folder` holds something that was saved as a checkpoint, whole or not."""
    return bool(_candidates(folder))


def rotate(folder: Path, keep: int = 2) -> list[Path]:
    """Remove all but the `keep` newest checkpoints, once the newest one verifies on disk.

    Returns the folders removed: none while the newest does not verify. `*.bad` ones stay.
    """
    assert keep >= 1, "a run without a checkpoint cannot go on"
    candidates = _candidates(Path(folder))
    steps = sorted({step for _, step in candidates}, reverse=True)
    if len(steps) <= keep or verify_folder(candidates[0][0]):
        return []
    doomed = [path for path, step in candidates if step not in steps[:keep]]
    for path in doomed:
        remove_durably(path)
    return doomed


def pack_optimizer(state_dict: Mapping[str, Any]) -> tuple[dict[str, Tensor], Any]:
    """Tensors and JSON of `optimizer.state_dict()`, for `save_checkpoint`."""
    return pack_tree(state_dict, "state_dict")


def unpack_optimizer(tensors: Mapping[str, Tensor], description: Any) -> dict[str, Any]:
    """What `optimizer.load_state_dict` takes, equal to what was packed in every bit."""
    state_dict: dict[str, Any] = unpack_tree(tensors, description)
    return state_dict


def _candidates(folder: Path) -> list[tuple[Path, int]]:
    """(path, step) of all that bear a checkpoint's name, newest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _NAME.match(path.name)
        if match:
            found.append((int(match[1]), match[2] is None, path))
    return [(path, step) for step, _, path in sorted(found, reverse=True)]


def _load(path: Path, step: int) -> Checkpoint:
    manifest = read_manifest(path)
    if manifest.get("kind") != "checkpoint" or type(manifest.get("schema")) is not int:
        raise BrokenFolderError("its manifest is not that of a checkpoint")
    if manifest["schema"] > SCHEMA:
        raise CheckpointError(
            "NEWER",
            path,
            f"written in checkpoint format {manifest['schema']}, this deitkit reads up to {SCHEMA}",
            "update deitkit, or go on with the version that began this run",
        )
    if manifest.get("step") != step:
        raise BrokenFolderError(f"its manifest is of step {manifest.get('step')}")
    state = read_sealed_file(path, manifest, STATE_FILE)
    data = read_sealed_file(path, manifest, TENSORS_FILE)
    try:
        return Checkpoint(
            step=step,
            tensors=dict(sorted(safetensors.torch.load(data).items())),
            state=json.loads(state),
            lineage=manifest["lineage"],
            machine=manifest["machine"],
            path=path,
        )
    except (SafetensorError, ValueError, KeyError) as error:
        raise BrokenFolderError(f"its content cannot be read ({error})") from error


def _quarantine(path: Path) -> Path:
    bad = path.with_name(f"{path.name}.bad")
    number = 2
    while os.path.lexists(bad):
        bad = path.with_name(f"{path.name}.{number}.bad")
        number += 1
    rename_durably(path, bad)
    return bad


def _has_bad(folder: Path) -> bool:
    return folder.is_dir() and any(_BAD_NAME.match(path.name) for path in folder.iterdir())
