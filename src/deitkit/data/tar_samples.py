"""The samples of one tar shard in the WebDataset layout: which picture, which label.

Members whose names agree up to the first dot of the base name form a sample, wherever they stand
in the shard: 000123.jpg, 000123.cls. The picture is the member with the first of these endings:
jpg, jpeg, jpe, jfif, png, webp, gif, bmp, dib, tif, tiff, heic, heif; members such as
000123.left.png come after all of them. The label is the content of .cls, else the field label,
class or cls of .json, else the content of .txt.
"""

# Shapes: N samples of a shard, M members.

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

import numpy as np

from deitkit.data.containers import EXTENSIONS
from deitkit.data.faults import Skips
from deitkit.data.table import why_bad_label
from deitkit.data.tar_members import Member, walk_members
from deitkit.data.walking import is_hidden

LABEL_FIELDS = ("label", "class", "cls")
_LABEL_ENDINGS = (b"cls", b"json", b"txt")
_IMAGE_RANKS = {extension[1:].encode(): rank for rank, extension in enumerate(EXTENSIONS)}
_MAX_LABEL_BYTES = {b"cls": 1_000, b"json": 1 << 20, b"txt": 1_000}

NO_LABEL = -1


class LabelText(NamedTuple):
    """What a sample says of its class, as text; `why` not, where that is no label."""

    text: str
    why: str = ""


@dataclass
class LabelCodes:
    """Numbers for the labels of many shards, so that a sample costs four bytes."""

    code_of: dict[LabelText, int] = field(default_factory=dict)

    def code(self, label: LabelText) -> int:
        return self.code_of.setdefault(label, len(self.code_of))


@dataclass(frozen=True)
class ShardSamples:
    """The samples of one shard, by the place of their pictures."""

    names: list[bytes]
    """Of the pictures' members, as they stand in the archive."""
    offsets_N: np.ndarray
    sizes_N: np.ndarray
    codes_N: np.ndarray
    """int32 [N], of `LabelCodes`; NO_LABEL without one."""
    ignored: int
    skipped: Skips
    num_more_images: int
    """Pictures that are not the first of their sample."""


class _Found:
    """Members of one kind as columns, each under the hash of its sample's key."""

    def __init__(self) -> None:
        self.keys = array("Q")
        self.ranks = array("q")
        self.names: list[bytes] = []

    def add(self, key: int, rank: int, name: bytes) -> None:
        self.keys.append(key)
        self.ranks.append(rank)
        self.names.append(name)

    def by_sample(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Keys and ranks as arrays, and the members sample by sample, the first to be taken
        first."""
        keys_M, ranks_M = np.array(self.keys, np.uint64), np.array(self.ranks, np.int64)
        return keys_M, ranks_M, np.lexsort((ranks_M, keys_M))


def read_samples(
    file: BinaryIO,
    num_bytes: int,
    shown: str,
    codes: LabelCodes,
    *,
    note: Callable[[str], None],
) -> ShardSamples:
    """Walk over one shard, which people call `shown`, and read its labels.

    Raises DamagedArchive; OSError as the file does.
    """
    images, labels = _Found(), _Found()
    places, label_codes = array("q"), array("i")
    skipped, ignored = Skips(), 0
    strange_keys: set[int] = set()
    for member in walk_members(file, num_bytes, note=note):
        key, ending = split_name(member.name)
        rank = _image_rank(ending)
        is_other = rank is None and ending not in _LABEL_ENDINGS
        if is_other or any(is_hidden(part) for part in key.split(b"/") if part.strip(b".")):
            ignored += 1
            continue
        number = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
        if rank is None:
            if not member.unusual:
                label = _read_label(file, member, ending)
                labels.add(number, _label_rank(ending, label), member.name)
                label_codes.append(codes.code(label))
        elif member.unusual:
            strange_keys.add(number)
            place = f"{shown}:{os.fsdecode(member.name)}"
            skipped.add("not_a_regular_file", place, f"{member.unusual} in an archive")
        else:
            images.add(number, rank, member.name)
            places.extend((member.offset, member.size))
    chosen, num_more = _choose_images(images, shown, skipped)
    keys_N = np.array(images.keys, np.uint64)[chosen]
    places_N2 = np.array(places, np.int64).reshape(-1, 2)[chosen]
    codes_N = _labels_of(labels, np.array(label_codes, np.int32), keys_N, codes)
    _skip_without_image(labels, keys_N, strange_keys, shown, skipped)
    return ShardSamples(
        [images.names[member] for member in chosen.tolist()],
        places_N2[:, 0],
        places_N2[:, 1],
        codes_N,
        ignored,
        skipped,
        num_more,
    )


def split_name(name: bytes) -> tuple[bytes, bytes]:
    """A sample's key and what follows the first dot of the base name, in lower case.

    A base name that begins with a dot is a key as it is; without any dot the ending is empty.
    """
    folder, slash, base = name.rpartition(b"/")
    stem, _, ending = base.partition(b".")
    if not stem:
        return name, b""
    return folder + slash + stem, ending.lower()


def _image_rank(ending: bytes) -> int | None:
    """Which of a sample's pictures comes first; None for a member that is none."""
    rank = _IMAGE_RANKS.get(ending)
    if rank is not None:
        return rank
    last = _IMAGE_RANKS.get(ending.rpartition(b".")[2])
    return None if last is None else len(_IMAGE_RANKS) + last


def _label_rank(ending: bytes, label: LabelText) -> int:
    """Which of a sample's labels comes first. A .json or .txt without a label may be about
    something else; a .cls is not."""
    rank = _LABEL_ENDINGS.index(ending)
    return rank + len(_LABEL_ENDINGS) if label.why and ending != b"cls" else rank


def _read_label(file: BinaryIO, member: Member, ending: bytes) -> LabelText:
    if member.size > _MAX_LABEL_BYTES[ending]:
        return LabelText("", f"a .{ending.decode()} of {member.size} bytes is no label")
    file.seek(member.offset)
    try:
        text = file.read(member.size).decode("utf-8-sig")
    except UnicodeDecodeError:
        return LabelText("", f"the .{ending.decode()} is not UTF-8")
    if ending == b"json":
        return _label_in_json(text)
    text = text.strip()
    if "\n" in text:
        return LabelText("", f"a .{ending.decode()} of several lines is no label")
    return LabelText(text, why_bad_label(text) or "")


def _label_in_json(text: str) -> LabelText:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return LabelText("", "the .json cannot be read")
    fields = content if isinstance(content, dict) else {}
    value = next((fields[name] for name in LABEL_FIELDS if name in fields), None)
    if value is None:
        return LabelText("", f"the .json has no {', '.join(LABEL_FIELDS)}")
    if isinstance(value, bool) or not isinstance(value, int | str):
        return LabelText("", f"the label {str(value)[:60]} is neither a name nor a whole number")
    return LabelText(str(value).strip(), why_bad_label(str(value).strip()) or "")


def _choose_images(images: _Found, shown: str, skipped: Skips) -> tuple[np.ndarray, int]:
    """The first picture of each sample, by their places; how many others there are."""
    keys_M, _, order = images.by_sample()
    is_first = np.ones(len(order), bool)
    is_first[1:] = keys_M[order][1:] != keys_M[order][:-1]
    first = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
    num_more = 0
    for member, one in zip(order[~is_first].tolist(), first[~is_first].tolist(), strict=True):
        if images.names[member] == images.names[one]:
            skipped.add("repeated_name", f"{shown}:{os.fsdecode(images.names[member])}")
        else:
            num_more += 1
    return np.sort(order[is_first]), num_more


def _labels_of(
    labels: _Found, codes_M: np.ndarray, keys_N: np.ndarray, codes: LabelCodes
) -> np.ndarray:
    """The code of each picture's label, NO_LABEL without one."""
    keys_M, ranks_M, order = labels.by_sample()
    found_N = np.full(len(keys_N), NO_LABEL, np.int32)
    if len(order) == 0:
        return found_N
    keys_M, ranks_M, codes_M = keys_M[order], ranks_M[order], codes_M[order]
    first_N = np.minimum(np.searchsorted(keys_M, keys_N), len(order) - 1)
    found_N = np.where(keys_M[first_N] == keys_N, codes_M[first_N], found_N)
    # A member that stands there twice, with two labels, gives none.
    is_again = (keys_M[1:] == keys_M[:-1]) & (ranks_M[1:] == ranks_M[:-1])
    texts = list(codes.code_of)
    for place in np.flatnonzero(is_again & (codes_M[1:] != codes_M[:-1])).tolist():
        pair = " and ".join(repr(texts[codes_M[p]].text) for p in (place, place + 1))
        why = f"two labels, {pair}, under one name"
        found_N[keys_N == keys_M[place]] = codes.code(LabelText("", why))
    return found_N


def _skip_without_image(
    labels: _Found, keys_N: np.ndarray, strange_keys: set[int], shown: str, skipped: Skips
) -> None:
    """Count the samples that have a label and no picture, not even one that was left out."""
    keys_M = np.array(labels.keys, np.uint64)
    missing, first = np.unique(keys_M[~np.isin(keys_M, keys_N)], return_index=True)
    rows = np.flatnonzero(~np.isin(keys_M, keys_N))[first]
    for key, row in zip(missing.tolist(), rows.tolist(), strict=True):
        if key not in strange_keys:
            skipped.add("no_image", f"{shown}:{os.fsdecode(labels.names[row])}")
