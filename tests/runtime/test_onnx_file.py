"""An export holds the digest of itself. What else `read_onnx` refuses: tests/teachers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deitkit.errors import ModelFileError
from deitkit.runtime.onnx_file import digests, read_onnx
from tests.teachers.onnx_bytes import counted, node, tensor, whole

GRAPH = counted(1, node("Identity", ["x"], "y")) + counted(5, tensor("w", np.ones(8, np.float32)))
OTHER = counted(14, counted(1, "deitkit.schema") + counted(2, "1"))


def digest_of(version: int) -> str:
    """By hand: each field's number, wire type and length, then its content."""
    parts = [(1, 0, bytes([version])), (7, 2, GRAPH), (14, 2, OTHER[2:])]
    texts = [b"%d %d %d " % (number, wire, len(part)) + part for number, wire, part in parts]
    return hashlib.sha256(b"".join(texts)).hexdigest()


def entry(digest: str) -> bytes:
    return counted(14, counted(1, "deitkit.sha256") + counted(2, f'"{digest}"'))


PLAIN = whole(1, 10) + counted(7, GRAPH) + OTHER
SEALED = PLAIN + entry(digest_of(10))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_the_digest_by_hand(tmp_path):
    assert digests(SEALED) == (digest_of(10), digest_of(10))
    assert digests(PLAIN) == (None, digest_of(10))
    assert read_onnx(written(tmp_path / "a.onnx", SEALED)) == (SEALED, 8)


def test_the_place_of_the_entry_does_not_matter(tmp_path):
    """Protobuf's writers may put it among the others."""
    moved = entry(digest_of(10)) + PLAIN
    assert read_onnx(written(tmp_path / "a.onnx", moved)) == (moved, 8)


@pytest.mark.parametrize("content", [PLAIN, counted(7, GRAPH)])
def test_other_peoples_files_need_none(tmp_path, content):
    assert read_onnx(written(tmp_path / "a.onnx", content)) == (content, 8)


@pytest.mark.parametrize(
    "content",
    [
        whole(1, 9) + counted(7, GRAPH) + OTHER + entry(digest_of(10)),
        PLAIN + entry("0" * 64),
        PLAIN + entry(""),
        PLAIN + counted(14, counted(1, "deitkit.sha256")),
        SEALED + counted(14, counted(1, "deitkit.threshold") + counted(2, "0.9")),
        SEALED + counted(7, counted(5, tensor("v", np.ones(1, np.float32)))),
    ],
    ids=["changed", "another", "empty", "no value", "one more fact", "one more graph"],
)
def test_what_does_not_fit_its_digest_is_refused(tmp_path, content):
    """M07."""
    with pytest.raises(ModelFileError) as caught:
        read_onnx(written(tmp_path / "a.onnx", content))
    assert (caught.value.code, caught.value.exit_code) == ("DIGEST", 5)
    assert "its digest differs" in str(caught.value)


@given(bit=st.integers(0, 8 * len(SEALED) - 1))
def test_no_flipped_bit_is_read(tmp_path_factory, bit):
    """M07: DIGEST, or no whole file at all; a file without a digest is no export (NOT_OURS)."""
    content = bytearray(SEALED)
    content[bit // 8] ^= 1 << bit % 8
    path = written(tmp_path_factory.getbasetemp() / "flipped.onnx", bytes(content))
    try:
        read_onnx(path)
    except ModelFileError as error:
        assert error.code in ("DIGEST", "FORMAT", "EXTERNAL_DATA")
    else:
        assert digests(bytes(content))[0] is None, "only its name can have been hit"
        assert bit // 8 >= len(PLAIN)
