"""File names as text that any terminal, log or JSON file can hold."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable

_UNSAFE_CATEGORIES = {"Cc", "Cf", "Zl", "Zp"}
"""Control, formatting (right-to-left marks too), line and paragraph separators."""


def printable(path: str | bytes | os.PathLike[str]) -> str:
    r"""One line of valid Unicode: control and direction marks and stray bytes become escapes.

    A byte that is no UTF-8 appears as `\udcff`, the way Python keeps it in a file name.
    """
    text = os.fsdecode(path)
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    category = unicodedata.category(character)
    if category in _UNSAFE_CATEGORIES or category == "Cs":
        return character.encode("unicode_escape").decode("ascii")
    return character


def name_list(names: Iterable[str], *, limit: int = 10) -> str:
    """`cat, dog` or, past `limit`, the first ones and how many more there are."""
    listed = list(names)
    text = ", ".join(printable(name) for name in listed[:limit])
    return text + (f" and {len(listed) - limit} more" if len(listed) > limit else "")
