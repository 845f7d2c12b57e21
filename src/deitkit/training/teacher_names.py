"""What may stand in teacher=, told from its text alone. No torch: it is read before all else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deitkit.errors import ConfigError

AUTO_TEACHER: Literal["auto"] = "auto"
"""Train one first, on the user's own images."""
_ALL = (
    "the folder of a run or bundle, timm:NAME, timm:NAME@weights.safetensors, hf:owner/name, "
    "hf:folder/, a file .onnx, or auto"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherName:
    """A teacher as it was asked for."""

    kind: str
    """auto, bundle, timm, hf or onnx."""
    name: str = ""
    """timm's or the hub's; empty where a path says it all."""
    path: Path | None = None

    def __str__(self) -> str:
        """The same request from whatever folder it is made: for a config that is kept."""
        path = "" if self.path is None else str(self.path.resolve())
        if self.kind == "timm":
            return f"timm:{self.name}@{path}" if path else f"timm:{self.name}"
        if self.kind == "hf":
            return f"hf:{path or self.name}"
        return path or self.kind


def parse_teacher(text: str) -> TeacherName:
    """`text` as kind, name and path; paths expand `~`, and none is looked for but hf:'s.

    Raises:
        ConfigError: TEACHER_NAME.
    """
    scheme, colon, rest = text.partition(":")
    if text == AUTO_TEACHER:
        return TeacherName(kind="auto")
    if colon and scheme == "timm":
        name, at, file = rest.partition("@")
        if not name or (at and not file):
            raise _bad_name(text, "it names no model" if not name else "no file stands after @")
        path = Path(file).expanduser() if at else None
        return TeacherName(kind="timm", name=name, path=path)
    if colon and scheme == "hf":
        path = Path(rest).expanduser()
        if rest and path.exists():
            return TeacherName(kind="hf", path=path)
        if rest.count("/") != 1 or rest.startswith((".", "/", "~")) or rest.endswith("/"):
            raise _bad_name(text, "there is no such folder, and it is no owner/name of the hub")
        return TeacherName(kind="hf", name=rest)
    path = Path(text).expanduser()
    if not text:
        raise _bad_name(text, "it is empty")
    return TeacherName(kind="onnx" if path.suffix.lower() == ".onnx" else "bundle", path=path)


def check_teacher_path(teacher: TeacherName) -> None:
    """What lies on this machine is there.

    Raises:
        ConfigError: NO_TEACHER.
    """
    if teacher.path is None or teacher.path.exists():
        return
    do = "check the path"
    if teacher.kind == "bundle":
        do = (
            "give the folder of an earlier run: `deitkit train data=... model=quick_cnn "
            "out=runs/teacher` makes one"
        )
    raise ConfigError("NO_TEACHER", str(teacher.path), "does not exist", do)


def _bad_name(text: str, why: str) -> ConfigError:
    return ConfigError("TEACHER_NAME", f"teacher={text}", why, f"give {_ALL}")
