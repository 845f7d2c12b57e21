"""A folder of images becomes a small, strong vision transformer that learns from a teacher.

    run = deitkit.train(data="photos", out="runs/photos")
    print(run.evaluate("photos/test").accuracy)

Names are loaded when they are first used: importing the package costs nothing.
"""

from __future__ import annotations

from typing import Any

from deitkit.runtime.lazy_names import lazy_names

_HOMES = {
    "train": "api",
    "plan": "api",
    "fit": "api",
    "Run": "api",
    "open_run": "api",
    "ablate": "api",
    "draw_sheet": "api",
    "import_weights": "api",
    "teach": "api",
    "verify_resume": "api",
    "create_model": "models",
    "list_models": "models",
    "load_weights": "models",
    "start_from": "models",
    "Classifier": "teachers",
    "DeitkitError": "errors",
}
__all__ = [*_HOMES, "__version__"]
_find, _ = lazy_names(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("deitkit")
    return _find(name)


def __dir__() -> list[str]:
    return sorted(__all__)
