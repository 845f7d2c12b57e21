"""Recipes: settings under a name, as files whose header says what they reproduce."""

from __future__ import annotations

import difflib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from deitkit.config.loading import read_settings, read_text
from deitkit.errors import ConfigError

_FOLDER = files("deitkit") / "recipes"


@cache
def list_recipes() -> list[str]:
    """Names that `recipe=` takes."""
    return _names_in(_FOLDER)


@cache
def list_rungs() -> list[str]:
    """Names that a step of `deitkit ablate` takes after its plus sign."""
    return _names_in(_FOLDER / "ladder")


def recipe_text(name: str) -> str:
    """The file of a recipe, header included. Raises ConfigError RECIPE for an unknown name."""
    _check_name(name, list_recipes(), "recipe")
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def read_recipe(name_or_path: str, *, extended_by: tuple[str, ...] = ()) -> dict[str, Any]:
    """Settings by dotted name, of a recipe and of those it extends.

    Raises:
        ConfigError: RECIPE for an unknown name, or one that extends itself; CONFIG_FILE for a file
            that cannot be read.
    """
    if name_or_path in extended_by:
        chain = " extends ".join((*extended_by, name_or_path))
        raise ConfigError("RECIPE", name_or_path, f"never ends: {chain}", "mend one `extends:`")
    path = Path(name_or_path).expanduser()
    is_file = path.suffix in (".yaml", ".yml")
    text = read_text(path) if is_file else recipe_text(name_or_path)
    settings, information = read_settings(text, name_or_path, information=("extends",))
    base = information["extends"]
    if not base:
        return settings
    return {**read_recipe(str(base), extended_by=(*extended_by, name_or_path)), **settings}


def read_rung(name: str) -> dict[str, Any]:
    """Settings that one rung of the ladder adds. Raises ConfigError RECIPE."""
    _check_name(name, list_rungs(), "step")
    text = (_FOLDER / "ladder" / f"{name}.yaml").read_text(encoding="utf-8")
    return read_settings(text, name)[0]


def _names_in(folder: Any) -> list[str]:
    names = (entry.name for entry in folder.iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _check_name(name: str, known: list[str], kind: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2, cutoff=0.4) or known
        raise ConfigError("RECIPE", name, f"no such {kind}", f"use {' or '.join(close)}")
