"""A run's best weights as a folder that another library opens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deitkit.api.request import BEST_FOLDER, CONFIG_FILE, RESULT_FILE
from deitkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RunExport:
    """What was exported, from where in the training, and how to open it."""

    folder: Path
    code: str
    """Python lines that open it."""
    notes: tuple[str, ...]
    """What the other library does differently from deitkit."""
    step: int | None
    """The training step of the weights; None where their bundle does not say."""
    is_finished: bool
    """False while the run they come from goes on."""


def export_run(
    folder: str | Path, to: str, *, out: str | Path | None = None, overwrite: bool = False
) -> RunExport:
    """Write the best bundle of a run, or a bundle, for another library: timm or Transformers (hf).

    `out` is `export-{to}` in the run by default, beside a bundle that is in no run. An earlier
    export there is replaced. A run that is not finished gives its best weights so far.

    Raises:
        ConfigError: FORMAT; NOT_OURS where `out` holds something else.
        ModelFileError: what `load_bundle` raises; EXPORT, the library has no such network.
        ResourceError: the disk refused; nothing is left half written.
    """
    from deitkit.artifacts.bundle import load_bundle
    from deitkit.exporters.exported import EXPORT_FILES, KIND
    from deitkit.exporters.registry import FORMATS
    from deitkit.exporters.target import check_target

    if to not in FORMATS:
        raise ConfigError("FORMAT", f"to={to}", "no such format", f"use {' or '.join(FORMATS)}")
    source = Path(folder).expanduser().resolve()
    target = _default_target(source, to) if out is None else Path(out).expanduser().resolve()
    check_target(target, kind=KIND, file_names=EXPORT_FILES, replaces_own=True, overwrite=overwrite)
    bundle = load_bundle(source)
    exported = FORMATS[to](bundle, target)
    return RunExport(
        folder=exported.folder,
        code=exported.code,
        notes=exported.notes,
        step=_step(bundle.provenance),
        is_finished=not (source / CONFIG_FILE).is_file() or (source / RESULT_FILE).is_file(),
    )


def _default_target(source: Path, to: str) -> Path:
    if (source / BEST_FOLDER).exists() or (source / CONFIG_FILE).is_file():
        return source / f"export-{to}"
    # A bundle is replaced as one, and would take what lies in it along.
    return source.with_name(f"{source.name}-export-{to}")


def _step(provenance: Mapping[str, Any]) -> int | None:
    validation = provenance.get("validation")
    step = validation.get("step") if isinstance(validation, Mapping) else None
    return step if isinstance(step, int) else None
