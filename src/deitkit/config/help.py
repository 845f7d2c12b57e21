"""The settings explained, read from the docstrings of the schema."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from typing import Any, NamedTuple

from deitkit.config import schema
from deitkit.config.loading import flatten
from deitkit.config.names import SHORT_NAMES
from deitkit.config.schema import RunConfig


class SettingHelp(NamedTuple):
    name: str
    """section.field"""
    short: str | None
    default: Any
    text: str


@cache
def settings_help() -> dict[str, SettingHelp]:
    """Every setting by its dotted name, in the order of the schema."""
    tree = ast.parse(inspect.getsource(schema))
    texts = {node.name: _field_texts(node) for node in tree.body if isinstance(node, ast.ClassDef)}
    shorts = {full: short for short, full in SHORT_NAMES.items()}
    found = {}
    defaults = RunConfig()
    for full, default in flatten(defaults).items():
        section, _, name = full.partition(".")
        text = texts[type(getattr(defaults, section)).__name__][name]
        found[full] = SettingHelp(full, shorts.get(full), default, text)
    return found


def section_help(section: str) -> str:
    """What a section of the config is about."""
    return inspect.getdoc(type(getattr(RunConfig(), section))) or ""


def _field_texts(class_node: ast.ClassDef) -> dict[str, str]:
    """The string after each annotated field."""
    texts = {}
    for field, after in zip(class_node.body, class_node.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            texts[field.target.id] = " ".join(str(after.value.value).split())
    return texts
