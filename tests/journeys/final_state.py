"""What two runs are compared by: every bit that must be the same, whatever interrupted them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from deitkit.api.verify import state_digest
from deitkit.artifacts.checkpoint import load_newest


def final_state(run: Path) -> dict[str, Any]:
    """The last checkpoint, the best bundle and the log, without the seconds it took."""
    checkpoint = load_newest(run / "last", rename_rejected=False)
    assert checkpoint is not None, f"{run} has no checkpoint"
    best = {path.name: _sha256(path) for path in sorted((run / "best").iterdir())}
    result = json.loads((run / "result.json").read_text(encoding="utf-8"))
    if "teacher" in result:
        # How long they take is of the machine, who is right of the run.
        result["teacher"] = result["teacher"]["gain"]
    return {
        "step": checkpoint.step,
        "state": state_digest(checkpoint.tensors, checkpoint.state),
        "best": best,
        "log": (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines(),
        "result": {name: result[name] for name in result if "seconds" not in name},
    }


def files_of(folder: Path) -> dict[str, tuple[int, str]]:
    """Time of change and content of every file in it but the lock."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, _sha256(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
