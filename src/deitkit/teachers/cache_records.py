"""One stored answer of a teacher as bytes: the view's word, its logits, a checksum.

Plain little-endian numbers without padding, in this order:

    word      uint64      what was shown (`augmentation.view_words`)
    exponent  int16       only float16: logits are stored divided by 2 ** exponent, mostly 0
    rest      float32     only top-k: log of the sum of exp of the logits that are left out
    index     uint16 [k]  only top-k: the classes of the logits; uint32 above 65,536 classes
    logits    float16 or float32 [K], in the user's class order, or [k], the highest first
    crc       uint32      CRC-32 of all bytes before it

A record that was never written is all zeros, whose checksum is not zero.
"""

# Shapes: B records, R bytes of a record, K classes, k of them stored.

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deitkit.errors import ConfigError, ModelFileError

Floats = NDArray[np.float32]
Rows = NDArray[np.uint8]

DTYPES = {"float16": "<f2", "float32": "<f4"}
LARGEST_FLOAT16 = 65_504.0
LARGEST_LOGIT = 2.0**127
"""Above it, rounding to float16's 11 bits could leave the range of float32."""
_CRC_BYTES = 4


class Decoded(NamedTuple):
    """What B records hold."""

    words_B: NDArray[np.uint64]
    logits_BK: Floats
    """Zeros where a record is not valid."""
    valid_B: NDArray[np.bool_]
    """Whether the checksum holds."""


@dataclass(frozen=True, kw_only=True)
class RecordFormat:
    """How logits are stored. Raises ConfigError CACHE_FORMAT for what cannot be.

    float32 keeps every bit. float16 keeps |error| <= max(2^-11 |logit|, 2^-25) while no logit of
    the image exceeds 65,504. Where one does, all logits of that image are divided by the smallest
    power of two, 2^e, that makes them fit, and the bound is max(2^-11 |logit|, 2^(e - 25)): the
    range of float32 with the precision of float16, decided image by image, so that what is read
    never depends on what else was stored, or when.

    `top_k` keeps only the k highest logits (the lower class first among equals) and the
    log-sum-exp of the others, which are read back as equal to each other. Probabilities at
    temperature 1 keep the k classes and the sum of the rest; other temperatures, z-scores and
    binary cross entropy are not what the teacher said, so it is for soft targets of very many
    classes only.
    """

    num_classes: int
    dtype: str = "float16"
    top_k: int | None = None

    def __post_init__(self) -> None:
        wrong = ""
        if self.dtype not in DTYPES:
            wrong = f"dtype is {self.dtype!r}, not {' or '.join(DTYPES)}"
        elif self.top_k is not None and not 1 <= self.top_k < self.num_classes:
            wrong = f"top_k is {self.top_k} of {self.num_classes} classes"
        if wrong:
            raise ConfigError("CACHE_FORMAT", "teacher cache", wrong, "choose another value")

    @cached_property
    def fields(self) -> np.dtype[Any]:
        """numpy's description of a record, checksum included."""
        num_stored = self.top_k or self.num_classes
        parts: list[Any] = [("word", "<u8")]
        if self.dtype == "float16":
            parts.append(("exponent", "<i2"))
        if self.top_k is not None:
            # An int16 index would stop at 32,767 classes.
            index = "<u2" if self.num_classes <= 1 << 16 else "<u4"
            parts += [("rest", "<f4"), ("index", index, (num_stored,))]
        return np.dtype([*parts, ("logits", DTYPES[self.dtype], (num_stored,)), ("crc", "<u4")])

    @property
    def num_bytes(self) -> int:
        """R: what one record takes."""
        return self.fields.itemsize

    def describe(self) -> list[list[str]]:
        """Name and numpy format of each field: `np.dtype([tuple(f) for f in described])`."""
        described = []
        for name in self.fields.names or ():
            dtype = self.fields[name]
            shape = f"({dtype.shape[0]},)" if dtype.shape else ""
            described.append([name, shape + dtype.base.str])
        return described

    def encode(self, words_B: NDArray[np.uint64], logits_BK: Floats) -> Rows:
        """Records of checked logits, as bytes: uint8 [B, R]."""
        records_B = np.zeros(len(words_B), dtype=self.fields)
        records_B["word"] = words_B
        if self.top_k is not None:
            order_BK = np.argsort(-logits_BK, axis=1, kind="stable")
            index_Bk, left_out = np.split(order_BK, [self.top_k], axis=1)
            records_B["index"] = index_Bk
            records_B["rest"] = _log_sum_exp(np.take_along_axis(logits_BK, left_out, axis=1))
            logits_BK = np.take_along_axis(logits_BK, index_Bk, axis=1)
        if self.dtype == "float16":
            largest_B = np.abs(logits_BK).max(axis=1, initial=0.0).astype(np.float64)
            exponent_B = np.ceil(np.log2(np.maximum(largest_B / LARGEST_FLOAT16, 1.0)))
            records_B["exponent"] = exponent_B
            scale_B1 = np.exp2(-exponent_B)[:, None]
            logits_BK = logits_BK * scale_B1
        records_B["logits"] = logits_BK
        rows_BR = records_B.view(np.uint8).reshape(len(words_B), self.num_bytes)
        records_B["crc"] = _checksums(rows_BR)
        return rows_BR

    def decode(self, rows_BR: Rows) -> Decoded:
        """What the records say; one with a wrong checksum says nothing."""
        valid_B = self.valid(rows_BR)
        records_B = self._records(rows_BR)[valid_B]
        stored = records_B["logits"].astype(np.float64)
        if self.dtype == "float16":
            stored = stored * np.exp2(records_B["exponent"].astype(np.float64))[:, None]
        logits_BK = np.zeros((len(rows_BR), self.num_classes), dtype=np.float32)
        if self.top_k is None:
            logits_BK[valid_B] = stored
        else:
            num_left_out = self.num_classes - self.top_k
            whole_BK = np.empty((len(records_B), self.num_classes))
            whole_BK[:] = (records_B["rest"].astype(np.float64) - np.log(num_left_out))[:, None]
            np.put_along_axis(whole_BK, records_B["index"].astype(np.int64), stored, axis=1)
            logits_BK[valid_B] = whole_BK
        words_B = np.zeros(len(rows_BR), dtype=np.uint64)
        words_B[valid_B] = records_B["word"]
        return Decoded(words_B, logits_BK, valid_B)

    def valid(self, rows_BR: Rows) -> NDArray[np.bool_]:
        """Which checksums hold: [B]."""
        return np.asarray(self._records(rows_BR)["crc"] == _checksums(rows_BR))

    def _records(self, rows_BR: Rows) -> NDArray[Any]:
        return np.ascontiguousarray(rows_BR).view(self.fields).reshape(-1)

    def stored(self, logits_BK: Floats) -> Floats:
        """These logits as they are read back: fresh and replayed answers are then the same."""
        return self.decode(self.encode(np.zeros(len(logits_BK), np.uint64), logits_BK)).logits_BK

    def check(self, logits_BK: Floats, teacher_name: str) -> None:
        """Raise ModelFileError TEACHER_OUTPUT for logits that are no answer."""
        why = ""
        if logits_BK.ndim != 2 or logits_BK.shape[1] != self.num_classes:
            why = f"gives {list(logits_BK.shape)} numbers for {self.num_classes} classes"
        # Not a number compares as False.
        elif not (np.abs(logits_BK) <= LARGEST_LOGIT).all():
            why = "gives logits that are not finite numbers"
        if why:
            raise ModelFileError(
                "TEACHER_OUTPUT",
                teacher_name,
                f"the teacher {why}, so nothing was stored",
                "check its weights and its preprocessing, or choose another teacher",
            )


def cache_bytes(
    records: RecordFormat, num_samples: int, num_view_epochs: int, *, num_repeats: int = 1
) -> int:
    """Bytes of all files of a cache, before anything is made.

    With `num_repeats` above 1 so many view epochs share a file, see `TeacherCache`.
    """
    num_files = -(-num_view_epochs // num_repeats)
    return num_files * num_samples * num_repeats * records.num_bytes


def empty_rows(rows_BR: Rows) -> NDArray[np.bool_]:
    """Which records were never written: [B]."""
    return np.asarray(~rows_BR.any(axis=1))


def _checksums(rows_BR: Rows) -> NDArray[np.uint32]:
    content = np.ascontiguousarray(rows_BR[:, :-_CRC_BYTES])
    return np.array([zlib.crc32(row) for row in content], dtype=np.uint32)


def _log_sum_exp(logits_BK: Floats) -> NDArray[np.float64]:
    wide_BK = logits_BK.astype(np.float64)
    highest_B1 = wide_BK.max(axis=1, keepdims=True)
    return np.asarray(np.log(np.exp(wide_BK - highest_B1).sum(axis=1)) + highest_B1[:, 0])
