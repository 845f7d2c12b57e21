"""The import rule: a room imports from lower floors only, and rooms on one floor are strangers."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import deitkit

PACKAGE = Path(deitkit.__file__).parent
FLOORS = {
    "cli": 9,
    "api": 8,
    "reporting": 7,
    "explanation": 6,
    "exporters": 6,
    "serving": 6,
    "training": 5,
    "evaluation": 4,
    "artifacts": 3,
    "data": 2,
    "augmentation": 2,
    "models": 2,
    "teachers": 2,
    "losses": 2,
    "optim": 2,
    "config": 1,
    "runtime": 1,
    "errors": 0,
    "flow": 0,
}
CONFIG_READERS = {
    "training/resolution.py",
    "training/resolve.py",
    "training/resolve_teacher.py",
    "training/assemble.py",
}


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """(module, only for types) of each import of deitkit or torch in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node in typing_only) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.append((node.module or "", node in typing_only))
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_from_lower_floors_only(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    for module, typing_only in imports_of(path):
        parts = module.split(".")
        if parts[0] != "deitkit" or len(parts) == 1:
            continue
        other = parts[1]
        # flow names the types that rooms hand each other; types cost nothing and import nothing.
        if other == room or (room == "flow" and typing_only):
            continue
        assert FLOORS[other] < FLOORS[room], f"{path}: {room} imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_house_rules_of_a_file(path):
    name = str(path.relative_to(PACKAGE))
    modules = {module for module, _ in imports_of(path)}
    assert not {m for m in modules if m.split(".")[0] in ("torchvision", "timm")}
    if not name.startswith("runtime/"):
        assert not {m for m in modules if m.startswith("torch.distributed")}
    if name.startswith("training/") and name not in CONFIG_READERS:
        assert not {m for m in modules if m.startswith("deitkit.config")}
    num_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert num_lines <= 400, f"{name} has {num_lines} lines: which two things is it about?"


@pytest.mark.parametrize(
    "module",
    ["deitkit", "deitkit.config", "deitkit.data", "deitkit.data.preprocess", "deitkit.api"],
)
def test_importing_brings_no_torch_and_nothing_optional(module):
    code = (
        f"import sys, {module}; "
        "print([m for m in ('torch', 'pyarrow', 'torchinfo', 'timm', 'pillow_heif') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
