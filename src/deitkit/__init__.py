"""A folder of images becomes a small, strong vision transformer that learns from a teacher.

    run = deitkit.train(data="photos", out="runs/photos")
    print(run.evaluate("photos/test").accuracy)

Names are loaded when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "train": "deitkit.api",
    "plan": "deitkit.api",
    "fit": "deitkit.api",
    "Run": "deitkit.api",
    "open_run": "deitkit.api",
    "ablate": "deitkit.api",
    "draw_sheet": "deitkit.api",
    "import_weights": "deitkit.api",
    "teach": "deitkit.api",
    "verify_resume": "deitkit.api",
    "create_model": "deitkit.models",
    "list_models": "deitkit.models",
    "load_weights": "deitkit.models",
    "start_from": "deitkit.models",
    "Classifier": "deitkit.teachers",
    "DeitkitError": "deitkit.errors",
}
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("deitkit")
    if name not in _HOMES:
        raise AttributeError(f"module 'deitkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
