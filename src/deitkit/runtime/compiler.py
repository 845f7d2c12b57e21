"""Whether torch.compile works on this machine."""

from __future__ import annotations

import os
import shutil
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

COMPILERS = {"cpu": ("CXX", ("g++", "clang++")), "cuda": ("CC", ("gcc", "clang", "cc"))}
"""By kind of device: the variable that names torch's compiler, and what it looks for without."""


def compiler_fault(device: torch.device) -> str | None:
    """Why nothing can be compiled for `device` here; None if something small just was."""
    return _missing(device.type) or _failure(device)


def _missing(kind: str) -> str | None:
    if kind not in COMPILERS:
        return f"torch compiles for CUDA and the CPU, not for {kind}"
    variable, names = COMPILERS[kind]
    if variable in os.environ:
        names = (os.environ[variable],)
    if not any(shutil.which(name) for name in names):
        return f"there is no compiler ({' or '.join(names)})"
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        return "Python's header files are not installed (python3-dev)"
    if kind == "cuda" and find_spec("triton") is None:
        return "the package triton is not installed"
    return None


def _failure(device: torch.device) -> str | None:
    values = torch.ones(64, device=device)
    try:
        torch.compile(_small)(values)
    except Exception as error:
        # Of torch, of triton, of the compiler's process: they have no class in common.
        lines = str(error).strip().splitlines()
        return f"torch.compile failed ({lines[0] if lines else type(error).__name__})"
    return None


def _small(values: torch.Tensor) -> torch.Tensor:
    return (values * 2).sin() + 1
