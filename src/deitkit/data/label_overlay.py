"""Corrections of labels, kept in a file of their own: the user's folders are never changed.

A CSV with the columns id, path, action, label. The id is the digest of a picture's content, in
hex, so that a line goes with the picture whatever it is called; the path is for people. Actions:
`keep` (looked at, and right), `change` (to `label`), `drop` (of no use). A text that a spreadsheet
would take for a formula has an apostrophe before it, which is taken away again on reading.
"""

# Shapes: N images.

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from deitkit.data.dataset import Dataset
from deitkit.data.display import name_list, printable
from deitkit.data.image_set import ImageSet, fingerprint
from deitkit.errors import ConfigError, DataError
from deitkit.runtime.durable import write_file

COLUMNS = ("id", "path", "action", "label")
KEEP, CHANGE, DROP = "keep", "change", "drop"
ACTIONS = (KEEP, CHANGE, DROP)
_ID_CHARACTERS = 32
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet compute a cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelEdit:
    """What is to be done with every picture of one content."""

    image_id: str
    path: str
    action: str
    label: str = ""
    """The new class, where the action is change."""


def image_ids(images: ImageSet) -> list[str]:
    """The id of each image, as an overlay names it."""
    return [row.tobytes().hex() for row in images.digests]


def read_overlay(path: Path) -> dict[str, LabelEdit]:
    """The edits by id, in the order of the file.

    Raises:
        ConfigError: NO_LABELS, there is no such file.
        DataError: BAD_LABELS, with the line, for anything but what `write_overlay` writes.
    """
    if not path.is_file():
        raise ConfigError(
            "NO_LABELS", path, "there is no such file", "name one that deitkit review wrote"
        )
    try:
        text = path.read_bytes().decode("utf-8", "surrogatepass").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _bad(path, 0, f"byte {error.start} is not UTF-8") from error
    except OSError as error:
        raise _bad(path, 0, f"cannot be read ({error.strerror})") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    edits: dict[str, LabelEdit] = {}
    try:
        header = tuple(next(reader, ()))
        if header != COLUMNS:
            raise _bad(path, 1, f"has the columns {name_list(header) or 'of an empty file'}")
        line = reader.line_num + 1
        for row in reader:
            if row:
                edit = _edit(path, line, row)
                if edit.image_id in edits:
                    raise _bad(path, line, f"names the picture {edit.image_id} again")
                edits[edit.image_id] = edit
            line = reader.line_num + 1
    except csv.Error as error:
        raise _bad(path, line, f"is no CSV ({error})") from error
    return edits


def _edit(path: Path, line: int, row: Sequence[str]) -> LabelEdit:
    if len(row) != len(COLUMNS):
        raise _bad(path, line, f"has {len(row)} values, not {len(COLUMNS)}")
    image_id, shown, action, label = row[0], _plain(row[1]), row[2], _plain(row[3])
    if len(image_id) != _ID_CHARACTERS or set(image_id) - set("0123456789abcdef"):
        raise _bad(
            path, line, f"has the id {printable(image_id)!r}, not {_ID_CHARACTERS} hex digits"
        )
    if action not in ACTIONS:
        raise _bad(path, line, f"says {printable(action)!r}, not {', '.join(ACTIONS)}")
    if (action == CHANGE) != bool(label):
        raise _bad(path, line, f"says {action} with the label {printable(label)!r}")
    return LabelEdit(image_id=image_id, path=shown, action=action, label=label)


def write_overlay(path: Path, edits: Mapping[str, LabelEdit]) -> None:
    """Write all edits, whole or not at all.

    Raises:
        ResourceError: the disk refused; the file is then what it was.
    """
    lines = [_line(COLUMNS)]
    for edit in edits.values():
        shown, label = _harmless(printable(edit.path)), _harmless(edit.label)
        lines.append(_line([edit.image_id, shown, edit.action, label]))
    # A class may be a folder whose name is no UTF-8: its stray bytes have to come back.
    write_file(path, "".join(lines).encode("utf-8", "surrogatepass"))


def _line(cells: Sequence[str]) -> str:
    stream = io.StringIO(newline="")
    # The writer quotes what holds a character of its line end, which is how a lone carriage return
    # comes back.
    csv.writer(stream, lineterminator="\r\n").writerow(cells)
    return stream.getvalue()[:-2] + "\n"


def _harmless(text: str) -> str:
    """With one more apostrophe where the text, after those it has, begins as a formula does."""
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def _plain(text: str) -> str:
    """`_harmless` taken back."""
    is_marked = text.startswith("'") and text.lstrip("'").startswith(_FORMULA)
    return text[1:] if is_marked else text


def apply_overlay(dataset: Dataset, path: Path) -> Dataset:
    """The data set with the file's corrections in training and validation images.

    Images keep their split. The fingerprint is that of the corrected set; a warning says what was
    done, and another how many lines name pictures that are not there.

    Raises:
        ConfigError, DataError: as `read_overlay`; BAD_LABELS for a class that the data set does not
            have; EMPTY_CLASS, nothing is left of a class for training, or nothing to validate.
    """
    edits = read_overlay(path)
    names = dataset.class_names
    unknown = {e.label for e in edits.values() if e.action == CHANGE} - set(names)
    if unknown:
        raise DataError(
            "BAD_LABELS",
            path,
            f"names the class {printable(min(unknown))!r}, the data has {name_list(names)}",
            "correct the name",
        )
    train, train_counts = _edited(dataset.train, edits)
    val, val_counts = _edited(dataset.val, edits)
    present = np.bincount(train.labels, minlength=len(names))
    before = np.bincount(dataset.train.labels, minlength=len(names))
    gone = [name for name, now, was in zip(names, present, before, strict=True) if was and not now]
    if gone:
        raise DataError(
            "EMPTY_CLASS",
            path,
            f"leaves no training image of {name_list(gone)}",
            "keep some, or take the class out of the data",
        )
    if len(dataset.val) and not len(val):
        raise DataError(
            "EMPTY_CLASS", path, "leaves no validation image", "keep some, or add others"
        )
    report = dataset.report
    for split, images in (("train", train), ("val", val)):
        counts = np.bincount(images.labels, minlength=len(names))
        report.class_counts[split] = dict(zip(map(printable, names), counts.tolist(), strict=True))
    changed, dropped = (a + b for a, b in zip(train_counts, val_counts, strict=True))
    report.warnings.append(
        f"{printable(path.name)}: {changed:,} labels changed and {dropped:,} images dropped, of "
        f"them {val_counts[0]:,} and {val_counts[1]:,} in validation"
    )
    known = set(image_ids(dataset.train)) | set(image_ids(dataset.val))
    num_strange = len(set(edits) - known)
    if num_strange:
        report.warnings.append(
            f"{printable(path.name)}: {num_strange:,} lines name pictures that are not there"
        )
    return replace(dataset, train=train, val=val, fingerprint=fingerprint(train, val))


def _edited(images: ImageSet, edits: Mapping[str, LabelEdit]) -> tuple[ImageSet, tuple[int, int]]:
    """The set with its edits, and how many labels changed and images went."""
    labels_N = images.labels.copy()
    is_kept_N = np.ones(len(images), bool)
    place = {name: index for index, name in enumerate(images.class_names)}
    for index, image_id in enumerate(image_ids(images)):
        edit = edits.get(image_id)
        if edit is not None and edit.action == DROP:
            is_kept_N[index] = False
        elif edit is not None and edit.action == CHANGE:
            labels_N[index] = place[edit.label]
    num_changed = int((labels_N != images.labels)[is_kept_N].sum())
    num_dropped = int((~is_kept_N).sum())
    edited = images.relabelled(labels_N)
    if num_dropped:
        edited = edited.subset(np.flatnonzero(is_kept_N), images.name)
    return edited, (num_changed, num_dropped)


def _bad(path: Path, line: int, why: str) -> DataError:
    return DataError(
        "BAD_LABELS",
        path if line == 0 else f"{path}:{line}",
        why,
        f"give a CSV with the columns {', '.join(COLUMNS)}, as deitkit review writes",
    )
