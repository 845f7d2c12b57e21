"""JSON and safetensors headers from strangers, held to json and to the safetensors library."""

from __future__ import annotations

import json
import random
import struct
import tracemalloc
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deitkit.errors import ModelFileError
from deitkit.runtime.safetensors_header import TensorEntry, read_safetensors_header
from deitkit.runtime.strict_json import load_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(JSON, st.booleans())
def test_ordinary_json_reads_as_pythons_own(value, ascii_only):
    try:
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    assert load_json(data, "x", max_depth=100) == value


@pytest.mark.parametrize(
    "data, said",
    [
        (b'{"a": 1, "a": 2}', "'a' stands twice"),
        (b'{"b": {"a": 1, "a": 1}}', "'a' stands twice"),
        (b"[" * 33 + b"]" * 33, "nested deeper than 32"),
        (b"[" * 100_000, "nested deeper than 32"),
        (b'{"a":' * 100_000, "nested deeper than 32"),
        (b'"' + b"x" * (1 << 20) + b'"', "1,048,578 bytes, more than 1,048,576"),
        (b"NaN", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not"),
        (b"1e999", "too large"),
        (b"9" * 10_000, "cannot be read"),
        (b"\xff", "cannot be read"),
        (b'"\xed\xa0\x80"', "cannot be read"),
        (b"", "cannot be read"),
        (b"{} {}", "cannot be read"),
    ],
)
def test_json_bombs_and_double_meanings_are_refused(data, said):
    """M11."""
    with pytest.raises(ModelFileError, match="the file") as caught:
        load_json(data, "the file")
    assert said in caught.value.why
    assert caught.value.code == "JSON" and caught.value.exit_code == 5


def test_depth_32_is_allowed_and_brackets_in_texts_do_not_count():
    """M11."""
    load_json(b"[" * 32 + b"]" * 32, "x")
    text = '\\"[{' * 1000
    assert load_json(f'["{text}"]'.encode(), "x") == ['"[{' * 1000]


TENSORS = {
    "a": torch.zeros(2, 3),
    "b": torch.zeros((), dtype=torch.int64),
    "c": torch.zeros(0, 4, dtype=torch.bfloat16),
    "d": torch.zeros(5, dtype=torch.bool),
    "e": torch.zeros(3, dtype=torch.complex64),
}


def weights(tmp_path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def test_header_reads_as_the_library_does(tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.torch.save_file(TENSORS, path, metadata={"format": "pt"})
    with safetensors.safe_open(path, "pt") as oracle:
        expected = {
            name: TensorEntry(
                oracle.get_slice(name).get_dtype(), tuple(oracle.get_slice(name).get_shape())
            )
            for name in oracle.keys()  # noqa: SIM118 - not a mapping
        }
    assert read_safetensors_header(path) == expected
    assert expected["a"] == TensorEntry("F32", (2, 3))


def entry(shape: object, begin: object, end: object, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry([1], 0, 4), "b": entry([1], 2, 6)},  # overlap
        {"a": entry([1], 0, 4), "b": entry([1], 0, 4)},  # the same bytes twice
        {"a": entry([1], 4, 8)},  # gap in front
        {"a": entry([1], 0, 4)},  # 4 bytes left over
        {"a": entry([3], 0, 12)},  # past the end
        {"a": entry([2], -8, 0)},  # negative
        {"a": entry([-2], 0, 8)},
        {"a": entry([2.0], 0, 8)},
        {"a": entry([True, 2], 0, 8)},
        {"a": entry([2**62, 2**62, 4], 0, 8)},  # product overflows 64 bits to 0
        {"a": entry([2**63 + 2], 0, 8)},
        {"a": entry([1] * 9 + [2], 0, 8)},
        {"a": entry([2], 0, 8, "F128")},
        {"a": entry([2], 0, 8, ["F32"])},
        {"a": {**entry([2], 0, 8), "more": 1}},
        {"a": [1, 2]},
        {"__metadata__": {"a": 1}, "b": entry([2], 0, 8)},
        [],
        b'{"a": %s, "a": %s}' % ((json.dumps(entry([2], 0, 8)).encode(),) * 2),
        b"{" * 1000,
        b"not json",
    ],
)
def test_lying_headers_are_refused(tmp_path, header):
    """M03."""
    with pytest.raises(ModelFileError) as caught:
        read_safetensors_header(weights(tmp_path, header, b"\0" * 8))
    assert caught.value.code in ("CORRUPT", "JSON")


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 100 << 20, 1 << 20 | 1, 10**9])
def test_header_lengths_cost_nothing(tmp_path, length):
    """M03, M04."""
    path = weights(tmp_path, {}, length=length)
    with path.open("r+b") as stream:
        stream.truncate(200 << 20)  # sparse, so that the length itself is possible
    tracemalloc.start()
    with pytest.raises(ModelFileError, match=r"header of|cut short"):
        read_safetensors_header(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_more_than_ten_thousand_tensors(tmp_path):
    """M04."""
    header = {f"{i}": entry([0], 0, 0) for i in range(10_001)}
    with pytest.raises(ModelFileError, match="10,001 tensors, more than 10,000"):
        read_safetensors_header(weights(tmp_path, header))
    header.popitem()
    assert len(read_safetensors_header(weights(tmp_path, header))) == 10_000


@pytest.mark.parametrize(
    "data, code",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n", "LFS_POINTER"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "WEB_PAGE"),
        (b"\n <html>", "WEB_PAGE"),
        (b"PK\x03\x04" + b"\0" * 100, "UNSAFE"),
        (b"\x80\x02}q\x00." + b"\0" * 100, "UNSAFE"),
        (b"\x80\x05\x95" + b"\0" * 100, "UNSAFE"),
        (b"", "CORRUPT"),
        (b"\0" * 7, "CORRUPT"),
        (b"\x09" + b"\0" * 7 + b"{}", "CORRUPT"),
    ],
)
def test_other_files_are_told_for_what_they_are(tmp_path, data, code):
    """M02, M15."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(data)
    with pytest.raises(ModelFileError) as caught:
        read_safetensors_header(path)
    assert caught.value.code == code


def test_header_of_128_bytes_is_no_pickle(tmp_path):
    """Its length begins with the byte 0x80, as a pickle does."""
    text = json.dumps({"a": entry([2], 0, 8)}).encode().ljust(128)
    assert list(read_safetensors_header(weights(tmp_path, text, b"\0" * 8))) == ["a"]


def test_what_a_flipped_header_still_passes_the_library_passes_too(tmp_path):
    """M03."""
    whole = safetensors.torch.save(TENSORS)
    header_end = 8 + int.from_bytes(whole[:8], "little")
    chance = random.Random(0)
    path = tmp_path / "w.safetensors"
    num_passed = 0
    for _ in range(400):
        torn = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 8))):
            torn[chance.randrange(header_end)] ^= 1 << chance.randrange(8)
        path.write_bytes(torn)
        try:
            ours = read_safetensors_header(path)
        except ModelFileError:
            continue
        num_passed += 1
        theirs = safetensors.torch.load(bytes(torn))
        assert {name: e.shape for name, e in ours.items()} == {
            name: tuple(tensor.shape) for name, tensor in theirs.items()
        }
    assert num_passed > 0
