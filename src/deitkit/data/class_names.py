"""Labels -> class indices, and class names that two people cannot confuse."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deitkit.data.display import name_list, printable
from deitkit.errors import DataError


def read_class_names(listed: Path) -> tuple[str, ...] | None:
    """One class name a line, in the order of the labels; None where there is no such file."""
    if not listed.is_file():
        return None
    names = listed.read_text(encoding="utf-8-sig").splitlines()
    return tuple(name.strip() for name in names if name.strip()) or None


def index_labels(
    labels: Sequence[Any], class_names: Sequence[str] | None, place_of: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """int64 class indices and class names of str or int labels; `place_of` names one for errors.

    Nothing is coerced: a float, None or bool is an error, and so is a negative int. Without
    `class_names` the classes are the labels present, sorted (ints by value). Raises DataError
    BAD_LABEL with the first ten cases.
    """
    # The first label that can be one says which kind all must be.
    as_int = next((_is_int(label) for label in labels if _is_int(label) or _is_name(label)), False)
    is_usable = _is_int if as_int else _is_name
    if class_names is None:
        known: Sequence[Any] = sorted({label for label in labels if is_usable(label)})
        names = tuple(str(label) for label in known)
    else:
        names = tuple(class_names)
        known = range(len(names)) if as_int else names
    index_of = {label: index for index, label in enumerate(known) if not as_int or label >= 0}
    # 1.0 == 1 in a dict: the type is asked first.
    wrong = [i for i, label in enumerate(labels) if not (is_usable(label) and label in index_of)]
    if wrong:
        shown = [f"{place_of(i)}: {printable(repr(labels[i])[:60])}" for i in wrong[:10]]
        raise DataError(
            "BAD_LABEL",
            place_of(wrong[0]),
            f"{len(wrong)} labels cannot be used; the first: {'; '.join(shown)}",
            "give every image a class name, or all of them a class number from 0",
        )
    return np.fromiter((index_of[label] for label in labels), np.int64, len(labels)), names


def _is_int(label: Any) -> bool:
    return isinstance(label, (int, np.integer)) and not isinstance(label, bool)


def _is_name(label: Any) -> bool:
    return isinstance(label, str) and bool(label.strip())


def check_class_names(names: Sequence[str], subject: str) -> None:
    """Raise DataError CLASS_COLLISION for names equal after Unicode NFC or without case."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if folded in seen:
            first = seen[folded]
            raise DataError(
                "CLASS_COLLISION",
                printable(subject),
                f"the classes {_code_points(first)} and {_code_points(name)} "
                "differ only in case or in how accents are written",
                "rename or merge them",
            )
        seen[folded] = name


def _code_points(name: str) -> str:
    return f"{printable(name)} ({' '.join(f'U+{ord(character):04X}' for character in name)})"


def match_classes(
    labels: np.ndarray, own: Sequence[str], wanted: Sequence[str], subject: str
) -> tuple[np.ndarray, list[str]]:
    """Labels by the index of their *name* in `wanted`, and the wanted classes without an image.

    Classes in `own` that no label uses are left aside. Raises DataError CLASS_MISMATCH, which
    lists both differences, for a class with images that is not wanted.
    """
    used = np.unique(labels)
    index_of = {name: index for index, name in enumerate(wanted)}
    present = {own[label] for label in used.tolist()}
    missing = [name for name in wanted if name not in present]
    unknown = sorted(present - set(index_of))
    if unknown:
        check_class_names([*wanted, *unknown], subject)
        raise DataError(
            "CLASS_MISMATCH",
            printable(subject),
            f"has classes that are not known: {name_list(unknown)}; "
            f"known and without images here: {name_list(missing) or 'none'}",
            "rename or remove the first ones",
        )
    lookup = np.array([index_of.get(name, -1) for name in own], np.int64)
    return lookup[labels], missing
