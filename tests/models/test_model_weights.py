"""Weights from files: all or nothing, and never a line of code (FAULTS M01 to M06, M15)."""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import struct
import tarfile

import pytest
import torch
from safetensors.torch import save_file

from deitkit.errors import ModelFileError
from deitkit.models import create_model, load_weights


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("small_cnn", num_classes=3, image_size=8, in_channels=1)


@pytest.fixture
def other_state():
    torch.manual_seed(1)
    other = create_model("small_cnn", num_classes=3, image_size=8, in_channels=1)
    return {key: value.clone() for key, value in other.state_dict().items()}


@pytest.mark.parametrize(
    ("file_name", "wrap"),
    [
        ("w.safetensors", None),
        ("w.pth", None),
        ("w.pth", "model"),
        ("w.pt", "state_dict"),
        ("legacy.th", "state_dict"),
    ],
)
def test_every_form_loads_all_tensors(tmp_path, model, other_state, file_name, wrap):
    path = tmp_path / file_name
    if wrap is None and path.suffix == ".safetensors":
        save_file(other_state, path)
    else:
        content = other_state if wrap is None else {wrap: other_state, "epoch": 3}
        zipped = not file_name.startswith("legacy")
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    report = load_weights(model, path)
    assert report.num_tensors == len(other_state)
    assert report.num_params == sum(value.numel() for value in other_state.values())
    for key, value in model.state_dict().items():
        assert torch.equal(value, other_state[key]), key


def test_a_state_dict_in_memory_loads_too(model, other_state):
    assert load_weights(model, other_state).source == "state dict"
    assert torch.equal(model.head.weight, other_state["head.weight"])


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_halves_are_widened_and_said(model, other_state, half):
    """1/3 is 0.333251953125 in float16 and 0.333984375 in bfloat16, to the last bit."""
    other_state["head.bias"] = torch.full((3,), 1 / 3).to(half)
    report = load_weights(model, other_state)
    expected = {torch.float16: 0.333251953125, torch.bfloat16: 0.333984375}[half]
    assert model.head.bias.dtype == torch.float32
    assert model.head.bias.tolist() == [expected] * 3
    assert report.notes == (f"1 tensors widened from {str(half).removeprefix('torch.')}",)


def test_doubles_are_not_narrowed(model, other_state):
    other_state["head.bias"] = other_state["head.bias"].double()
    with pytest.raises(ModelFileError, match=r"torch\.float64, needed torch\.float32"):
        load_weights(model, other_state)


def test_the_settings_beside_the_weights_of_a_training_script_do_no_harm(
    tmp_path, model, other_state
):
    """facebookresearch/deit and timm save an argparse.Namespace in their checkpoints."""
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": other_state, "epoch": 9, "args": argparse.Namespace(lr=0.1)}, path)
    load_weights(model, path)
    assert torch.equal(model.head.weight, other_state["head.weight"])


def test_m01_the_settings_cannot_carry_code_in(tmp_path, model, other_state):
    canary, path = tmp_path / "canary", tmp_path / "checkpoint.pth"
    torch.save({"model": other_state, "args": argparse.Namespace(lr=Evil(canary))}, path)
    with pytest.raises(ModelFileError, match=r"\[UNSAFE\]"):
        load_weights(model, path)
    assert not canary.exists()


def test_the_report_names_every_key_once(model, other_state):
    report = load_weights(model, other_state)
    assert report.used == tuple(other_state)
    lines = report.lines()
    assert lines[0] == report.summary()
    assert f"{len(other_state)} tensors, {report.num_params:,} numbers" in lines[0]
    # Blocks of other shape have other keys: blocks 1 and 2 have a shortcut, block 0 has none.
    assert "blocks.{1-2}.shortcut.0.weight" in lines[1]
    assert "blocks.{0-2}.conv1.0.weight" in lines[1] and "head.bias" in lines[1]


class Evil:
    """Writes a file when unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle", "protocol 0", "tar"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_m01_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, model, form, suffix):
    canary, path = tmp_path / "canary", tmp_path / f"evil{suffix}"
    content = {"head.weight": Evil(canary)}
    if form in ("zip", "legacy"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    elif form == "tar":
        with tarfile.open(path, "w") as archive:
            data = pickle.dumps(content)
            member = tarfile.TarInfo("pickle")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    else:
        path.write_bytes(pickle.dumps(content, protocol=0 if form == "protocol 0" else 2))
    with pytest.raises(ModelFileError) as caught:
        load_weights(model, path)
    assert caught.value.code == "UNSAFE" and caught.value.exit_code == 5
    assert not canary.exists()


def test_m02_content_and_extension_must_agree(tmp_path, model, other_state):
    torch.save(other_state, tmp_path / "w.safetensors")
    save_file(other_state, tmp_path / "w.pth")
    save_file(other_state, tmp_path / "w.onnx")
    for name in ("w.safetensors", "w.pth", "w.onnx"):
        with pytest.raises(ModelFileError, match=r"\[FORMAT\].*its name says otherwise"):
            load_weights(model, tmp_path / name)


def safetensors_bytes(header, num_data_bytes=64, header_bytes=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", header_bytes or len(text)) + text + bytes(num_data_bytes)


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    "content",
    [
        safetensors_bytes({"a": entry([4], 0, 16)}, header_bytes=2**63),
        safetensors_bytes({"a": entry([4], 0, 16)}, header_bytes=100 << 20),
        safetensors_bytes({"a": entry([4], -16, 0)}),
        safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 8, 24)}, 24),
        safetensors_bytes({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, 16),
        safetensors_bytes({"a": entry([2**40, 2**40], 0, 16)}, 16),
        safetensors_bytes({"a": entry([4], 0, 16)}, 8),
        safetensors_bytes(b'{"a": ' * 20_000),
        safetensors_bytes(b'{"a": nonsense}'),
        safetensors_bytes({f"t{i}": entry([0], 0, 0) for i in range(10_001)}, 0),
        safetensors_bytes({"a": entry([4], 0, 16), "__metadata__": {"x": "y" * (1 << 20)}}, 16),
    ],
    ids=[
        "header-2^63",
        "header-100MB",
        "negative-offset",
        "overlap",
        "same-offsets",
        "shape-overflow",
        "truncated",
        "deep-json",
        "bad-json",
        "m04-10001-tensors",
        "m04-header-over-1MB",
    ],
)
def test_m03_m04_damaged_safetensors_are_refused(tmp_path, model, content):
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"\[CORRUPT\]"):
        load_weights(model, path)


def test_m03_a_truncated_torch_file_is_refused(tmp_path, model, other_state):
    path = tmp_path / "w.pth"
    torch.save(other_state, path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ModelFileError, match=r"\[CORRUPT\]"):
        load_weights(model, path)


def test_m05_missing_extra_misshapen_and_mistyped_are_listed_and_nothing_is_loaded(
    model, other_state
):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    del other_state["stem.1.bias"]
    other_state["head.weight"] = torch.zeros(7, 64)
    other_state["head.bias"] = other_state["head.bias"].long()
    other_state |= {f"extra.{i}": torch.zeros(1) for i in range(13)}
    with pytest.raises(ModelFileError) as caught:
        load_weights(model, other_state)
    text = str(caught.value)
    assert "1 missing: stem.1.bias" in text
    assert "13 not in the model: extra.0, extra.1" in text and "extra.9 and 3 more" in text
    assert "extra.10" not in text
    assert "1 of another shape: head.weight ([7, 64], needed [3, 64])" in text
    assert "1 of another type: head.bias (torch.int64, needed torch.float32)" in text
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_m06_weights_that_are_not_finite_are_refused(model, other_state, poison):
    other_state["head.weight"][1, 2] = poison
    with pytest.raises(ModelFileError, match=r"\[NOT_FINITE\].*head\.weight"):
        load_weights(model, other_state)
    assert model.head.weight.isfinite().all()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n", "LFS_POINTER"),
        (b"\n<!DOCTYPE html><html>404</html>", "WEB_PAGE"),
        (b"<html>rate limit</html>", "WEB_PAGE"),
        (b"", "FORMAT"),
        (b"hello", "FORMAT"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "FORMAT"),
    ],
)
def test_m15_what_a_failed_download_leaves_is_named(tmp_path, model, content, code):
    for name in ("w.pth", "w.safetensors"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(ModelFileError) as caught:
            load_weights(model, path)
        assert caught.value.code == code


@pytest.mark.parametrize("content", [{"model": {"a": 1}}, {}, [torch.zeros(1)], {"lr": 0.1}])
def test_a_file_without_weights_says_so(tmp_path, model, content):
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=r"\[NOT_WEIGHTS\]"):
        load_weights(model, path)


def test_a_missing_file_is_named(tmp_path, model):
    with pytest.raises(ModelFileError, match=r"\[NOT_FOUND\].*nowhere\.pth"):
        load_weights(model, tmp_path / "nowhere.pth")
    with pytest.raises(ModelFileError, match=r"\[NOT_FOUND\]"):
        load_weights(model, tmp_path)
