"""One stored answer: its bytes by hand, its error bound, and every flipped bit found."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.special import log_softmax, logsumexp, softmax

from deitkit.errors import ConfigError, ModelFileError
from deitkit.teachers.cache_records import RecordFormat, cache_bytes, empty_rows

WORD = np.array([0x0123456789ABCDEF], dtype=np.uint64)


def logits_of(*rows) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def read_back(records: RecordFormat, logits: np.ndarray) -> np.ndarray:
    words = np.arange(len(logits), dtype=np.uint64)
    found = records.decode(records.encode(words, logits))
    assert found.valid_B.all() and found.words_B.tolist() == words.tolist()
    return found.logits_BK


def test_a_float16_record_by_hand():
    """Word, exponent 0, three halves, CRC-32: 20 bytes, without padding."""
    row = RecordFormat(num_classes=3).encode(WORD, logits_of([1.0, -2.5, 0.0]))
    content = struct.pack("<Qh3e", 0x0123456789ABCDEF, 0, 1.0, -2.5, 0.0)
    assert row.tobytes() == content + struct.pack("<I", zlib.crc32(content))


def test_a_float32_record_by_hand():
    row = RecordFormat(num_classes=2, dtype="float32").encode(WORD, logits_of([0.1, -1e30]))
    content = struct.pack("<Q2f", 0x0123456789ABCDEF, 0.1, -1e30)
    assert row.tobytes() == content + struct.pack("<I", zlib.crc32(content))


def test_a_top_k_record_by_hand():
    """The two highest of four, and the log of the sum of exp of the others: ln(e^0 + e^0)."""
    records = RecordFormat(num_classes=4, top_k=2)
    row = records.encode(WORD, logits_of([0.0, 3.0, 0.0, 5.0]))
    content = struct.pack("<Qhf2H2e", 0x0123456789ABCDEF, 0, np.log(2.0), 3, 1, 5.0, 3.0)
    assert row.tobytes() == content + struct.pack("<I", zlib.crc32(content))


@pytest.mark.parametrize(
    ("num_classes", "dtype", "top_k", "expected"),
    [
        (10, "float16", None, 8 + 2 + 20 + 4),
        (1000, "float16", None, 2014),
        (1000, "float32", None, 4012),
        (1000, "float16", 10, 8 + 2 + 4 + 20 + 20 + 4),
        (70_000, "float16", 10, 8 + 2 + 4 + 40 + 20 + 4),
    ],
)
def test_bytes_of_a_record_and_of_a_cache(num_classes, dtype, top_k, expected):
    """A.18: CIFAR-10's 50,000 images take 1.7 MB for each view epoch."""
    records = RecordFormat(num_classes=num_classes, dtype=dtype, top_k=top_k)
    assert records.num_bytes == expected
    assert cache_bytes(records, 50_000, 30) == 30 * 50_000 * expected


def test_copies_of_an_epoch_are_counted_once():
    """Three copies of a third of the images each: no more than one of each image."""
    assert cache_bytes(RecordFormat(num_classes=10), 60, 6, num_repeats=3) == 6 * 60 * 34


FINITE = st.floats(-(2.0**127), 2.0**127, width=32, allow_subnormal=True)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(0, 6), st.integers(1, 7)), elements=FINITE)


@given(ROWS)
@settings(max_examples=200, deadline=None)
def test_k12_error_bound_of_float16(logits):
    """K12: max(2^-11 |x|, 2^(e - 25)), e the least with all of the image within 65,504 * 2^e."""
    records = RecordFormat(num_classes=logits.shape[1])
    records.check(logits, "t")
    found = read_back(records, logits).astype(np.float64)
    exact = logits.astype(np.float64)
    largest = np.abs(exact).max(axis=1, initial=0.0, keepdims=True)
    exponent = np.zeros_like(largest)
    while (over := largest > 65_504 * 2.0**exponent).any():
        exponent += over
    bound = np.maximum(2.0**-11 * np.abs(exact), 2.0 ** (exponent - 25))
    assert (np.abs(found - exact) <= bound).all()
    np.testing.assert_array_equal(records.stored(logits), found)


@given(ROWS)
@settings(max_examples=100, deadline=None)
def test_k14_float32_keeps_every_bit(logits):
    """K14: also of minus zero and of subnormal numbers."""
    records = RecordFormat(num_classes=logits.shape[1], dtype="float32")
    assert read_back(records, logits).tobytes() == logits.tobytes()


def test_k12_within_float16s_range_a_record_is_numpys_own_float16():
    """K12: nothing is scaled up to 65,504; beyond it, exact powers of two stay exact."""
    records = RecordFormat(num_classes=3)
    usual = np.random.default_rng(0).normal(scale=20, size=(100, 3)).astype(np.float32)
    usual[0] = 65_504.0, -65_504.0, 2.0**-24
    np.testing.assert_array_equal(read_back(records, usual), usual.astype("f2").astype("f4"))
    large = logits_of([2.0**16, -(2.0**100), 2.0**127], [65_505.0, 1.0, 0.0])
    expected = logits_of([0.0, -(2.0**100), 2.0**127], [65_504.0, 1.0, 0.0])
    np.testing.assert_array_equal(read_back(records, large), expected)


@pytest.mark.parametrize("num_classes", [40_000, 70_000])
def test_k12_class_numbers_beyond_int16(num_classes):
    """K12: the highest of 40,000 and of 70,000 classes is its very last one."""
    logits = np.zeros((2, num_classes), dtype=np.float32)
    logits[0, -1], logits[1, 32_768] = 9.0, 7.0
    found = read_back(RecordFormat(num_classes=num_classes, top_k=1), logits)
    assert found.argmax(axis=1).tolist() == [num_classes - 1, 32_768]
    for_each = (softmax(x, axis=1).max(axis=1) for x in (found, logits))
    np.testing.assert_allclose(*for_each, rtol=1e-5)


def test_top_k_keeps_probabilities_at_temperature_one():
    """Of the k classes, and of all the others together, against scipy's softmax."""
    logits = np.random.default_rng(0).normal(scale=3, size=(50, 100)).astype(np.float32)
    found = read_back(RecordFormat(num_classes=100, dtype="float32", top_k=5), logits)
    highest = np.argsort(-logits, axis=1)[:, :5]
    exact, kept = (np.take_along_axis(log_softmax(x, axis=1), highest, 1) for x in (logits, found))
    np.testing.assert_allclose(kept, exact, atol=1e-5)
    np.testing.assert_allclose(logsumexp(found, axis=1), logsumexp(logits, axis=1), atol=1e-5)
    others = found.copy()
    np.put_along_axis(others, highest, np.nan, axis=1)
    assert (np.nanmax(others, axis=1) == np.nanmin(others, axis=1)).all()


def test_top_k_takes_the_lower_class_first_among_equals():
    row = RecordFormat(num_classes=4, top_k=2).encode(WORD, logits_of([1.0, 1.0, 1.0, 1.0]))
    assert row[0, 14:18].tobytes() == struct.pack("<2H", 0, 1)


def test_the_description_is_numpys_own():
    """What the header says opens a record elsewhere."""
    for records in (
        RecordFormat(num_classes=3),
        RecordFormat(num_classes=1, dtype="float32"),
        RecordFormat(num_classes=70_000, top_k=1),
    ):
        read = np.dtype([tuple(part) for part in records.describe()])
        assert read == records.fields and read.itemsize == records.num_bytes


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_k02_every_flipped_bit_is_found(dtype, top_k):
    """K02: 10,000 flips in records of two formats and two kinds, 10,000 detected."""
    records = RecordFormat(num_classes=10, dtype=dtype, top_k=top_k)
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(100, 10)).astype(np.float32)
    rows = records.encode(rng.integers(0, 2**64, 100, dtype=np.uint64), logits)
    num_detected = 0
    for _ in range(25):
        flipped = rows.copy()
        places = rng.integers(0, records.num_bytes, 100)
        flipped[np.arange(100), places] ^= np.uint8(1) << rng.integers(0, 8, 100).astype(np.uint8)
        num_detected += int((~records.decode(flipped).valid_B).sum())
    assert num_detected == 2_500
    assert records.decode(rows).valid_B.all()


def test_what_was_never_written_is_no_record():
    """All zeros have a checksum that is not zero."""
    records = RecordFormat(num_classes=3)
    rows = np.zeros((2, records.num_bytes), dtype=np.uint8)
    rows[1, 3] = 1
    assert not records.decode(rows).valid_B.any()
    assert empty_rows(rows).tolist() == [True, False]


@pytest.mark.parametrize(
    ("logits", "why"),
    [
        (logits_of([1.0, 2.0, 3.0], [0.0, np.nan, 0.0]), "not finite"),
        (logits_of([1.0, np.inf, 3.0]), "not finite"),
        (logits_of([1.0, -np.inf, 3.0]), "not finite"),
        (logits_of([1.0, 3e38, 3.0]), "not finite"),
        (logits_of([1.0, 2.0]), r"\[1, 2\] numbers for 3 classes"),
        (logits_of([1.0, 2.0, 3.0, 4.0]), r"\[1, 4\] numbers for 3 classes"),
        (logits_of(1.0, 2.0, 3.0), r"\[3\] numbers for 3 classes"),
    ],
    ids=["nan", "inf", "minus inf", "beyond 2^127", "narrow", "wide", "flat"],
)
def test_k11_what_is_no_answer_is_refused(logits, why):
    """K11: ERR 5 TEACHER_OUTPUT, naming the teacher."""
    with pytest.raises(ModelFileError, match=why) as caught:
        RecordFormat(num_classes=3).check(logits, "resnet56")
    assert (caught.value.code, caught.value.subject) == ("TEACHER_OUTPUT", "resnet56")
    assert caught.value.exit_code == 5


@pytest.mark.parametrize("wrong", [{"dtype": "int8"}, {"top_k": 0}, {"top_k": 3}, {"top_k": -1}])
def test_formats_that_cannot_be(wrong):
    with pytest.raises(ConfigError, match="CACHE_FORMAT"):
        RecordFormat(num_classes=3, **wrong)
