"""Damaged bundles, and those of strangers: refused, with nothing run and little allocated."""

from __future__ import annotations

import dataclasses
import json
import pickle
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from deitkit.artifacts.bundle import load_bundle, save_bundle
from deitkit.errors import ModelFileError
from deitkit.runtime.sealed_folder import replace_folder


def rewrite(
    folder: Path,
    change: Callable[[dict[str, Any]], None] = lambda config: None,
    *,
    weights: bytes | None = None,
    text: bytes | None = None,
) -> None:
    """A bundle by a stranger who seals it well: all digests are right."""
    config = json.loads((folder / "config.json").read_bytes())
    change(config)
    replace_folder(
        folder,
        {
            "config.json": json.dumps(config).encode() if text is None else text,
            "model.safetensors": (folder / "model.safetensors").read_bytes()
            if weights is None
            else weights,
        },
        {"kind": "bundle", "schema": 1},
    )


def refused(path: Path, code: str, said: str = "") -> None:
    with pytest.raises(ModelFileError) as caught:
        load_bundle(path)
    assert caught.value.code == code, str(caught.value)
    assert caught.value.exit_code == 5
    assert said in str(caught.value)


def test_newer_bundle(folder):
    rewrite(folder, lambda config: config.update(schema=2))
    refused(folder, "NEWER", "format 2, this deitkit reads up to 1")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load((folder / "model.safetensors").read_bytes())


def test_wrong_tensors_are_listed_up_to_ten(folder):
    """M05."""
    tensors = tensors_of(folder)
    tensors = {f"module.{name}": tensor for name, tensor in tensors.items()}
    rewrite(folder, weights=safetensors.torch.save(tensors))
    refused(folder, "MISMATCH", "module.blocks.0.attn.proj.bias")
    with pytest.raises(ModelFileError, match=f"and {len(tensors) - 10} more"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "name, tensor, said",
    [
        ("norm.weight", torch.zeros(9), "norm.weight ([9], needed [8])"),
        ("norm.weight", torch.zeros(8, dtype=torch.float64), "norm.weight (torch.float64"),
        ("extra", torch.zeros(1), "extra"),
        ("norm.weight", None, "norm.weight"),
    ],
)
def test_wrong_shape_dtype_extra_or_missing(folder, name, tensor, said):
    """M05."""
    tensors = {**tensors_of(folder), name: tensor}
    tensors = {key: value for key, value in tensors.items() if value is not None}
    rewrite(folder, weights=safetensors.torch.save(tensors))
    refused(folder, "MISMATCH", said)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights_are_not_loaded(folder, value):
    """M06."""
    tensors = tensors_of(folder)
    tensors["norm.bias"][3] = value
    rewrite(folder, weights=safetensors.torch.save(tensors))
    refused(folder, "NOT_FINITE", "norm.bias")


def set_model(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config["model"].update(values)


def put(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda config: config.update(values)


@pytest.mark.parametrize(
    "change, said",
    [
        (set_model(num_classes=10), "the config says 10 classes, head.weight has 3"),
        (put(class_names=["a", "b"]), "the model has 3 classes, 2 have names"),
        (put(class_names=["a", "b", "a"]), "the class 'a' stands 2 times among 3 names"),
        (set_model(depth=900), "depth 900"),
        (
            lambda c: c["preprocessing"].update(channels=1, mean=[0.5], std=[0.5]),
            "reads 3 channels, preprocessing gives 1",
        ),
    ],
)
def test_config_and_weights_that_disagree(folder, change, said):
    """M08."""
    rewrite(folder, change)
    refused(folder, "CONFIG_LIES", said)


@pytest.mark.parametrize(
    "change",
    [
        put(strict=False),
        lambda c: c.pop("fusion"),
        put(fusion="best"),
        put(fusion=["mean"]),
        put(fusion="fitted"),
        put(fusion_weight=0.5),
        put(fusion="fitted", fusion_weight=None),
        put(fusion="fitted", fusion_weight=True),
        put(fusion="fitted", fusion_weight=1.001),
        put(fusion="fitted", fusion_weight=-0.001),
        put(fusion="fitted", fusion_weight="0.5"),
        put(temperature=0),
        put(temperature=-1.0),
        put(temperature=True),
        put(temperature="1"),
        put(class_names=[]),
        put(class_names="cat"),
        put(class_names=["a", "b", 3]),
        put(model=None),
        put(model={}),
        put(provenance=[]),
        put(metrics=3),
        put(schema="1"),
        put(schema=True),
        set_model(unknown_option=1),
        set_model(embed_dim=10**9),
        set_model(embed_dim=-8),
        set_model(num_heads=3),
        set_model(depth=-1),
        set_model(patch_size=64),
        set_model(image_size=[10**9, 10**9]),
        set_model(num_classes=10**12),
        set_model(mlp_ratio=1e30),
        set_model(drop_path=-1.0),
        set_model(image_size="32"),
        set_model(name=["deit"]),
    ],
)
def test_impossible_configs_are_refused(folder, change):
    """M09."""
    rewrite(folder, change)
    tracemalloc.start()
    refused(folder, "BAD_CONFIG", "config.json")
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "values", [{"std": [0.5, 0.0, 0.5]}, {"mean": [1.0]}, {"extra": 1}, {"image_size": [-1, 1]}]
)
def test_impossible_preprocessing_is_refused(folder, values):
    """M09."""
    rewrite(folder, lambda config: config["preprocessing"].update(values))
    refused(folder, "PREPROCESSING")


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "deitkit.models.create_model",
        "https://example.org/m",
        "../../m.py",
        "__import__",
    ],
)
def test_nothing_a_config_names_is_imported_or_fetched(folder, name):
    """M10."""
    seen: list[str] = []
    watching = True

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event in (
            "import",
            "socket.connect",
            "subprocess.Popen",
            "exec",
            "compile",
        ):
            seen.append(f"{event} {arguments[:1]}")

    rewrite(folder, set_model(name=name))
    refused(folder, "BAD_CONFIG")
    sys.addaudithook(watch)
    refused(folder, "BAD_CONFIG")
    watching = False
    assert seen == []


@pytest.mark.parametrize(
    "text, said",
    [
        (b'{"a":' * 100_000, "nested deeper than 32"),
        (b'{"schema": 1, "schema": 1}', "stands twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b"[1, 2]", "not a table"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_json_bombs(folder, text, said):
    """M11."""
    rewrite(folder, text=text)
    with pytest.raises(ModelFileError, match=r"config\.json") as caught:
        load_bundle(folder)
    assert said in caught.value.why


def test_config_of_100_mb_is_not_read(folder):
    """M11."""
    rewrite(folder, text=b" " * (2 << 20))
    refused(folder, "DIGEST", "larger than 1,048,576 bytes")


def test_config_that_could_not_be_read_again_is_not_written(tmp_path, bundle):
    """M11."""
    with pytest.raises(ModelFileError, match="more than 1,048,576"):
        save_bundle(
            tmp_path / "b", dataclasses.replace(bundle, provenance={"log": "x" * (1 << 20)})
        )
    assert not (tmp_path / "b").exists()


class Canary:
    """Would create a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("form", ["pickle", "torch zip"])
def test_pickle_under_the_weights_name_is_never_opened(folder, tmp_path, form):
    """M01, M02."""
    canary = tmp_path / "canary"
    file = tmp_path / "evil"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Canary(canary)))
    else:
        torch.save(Canary(canary), file)
    rewrite(folder, weights=file.read_bytes())
    refused(folder, "UNSAFE")
    assert not canary.exists()


def test_lfs_pointer_says_so(folder):
    """M15."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 4\n"
    rewrite(folder, weights=pointer)
    refused(folder, "LFS_POINTER", "this is a Git LFS pointer")


def test_overlapping_tensors(folder):
    """M03."""
    whole = (folder / "model.safetensors").read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    header["head.bias"]["data_offsets"] = header["head_dist.bias"]["data_offsets"]
    text = json.dumps(header).encode()
    rewrite(folder, weights=struct.pack("<Q", len(text)) + text + whole[8 + length :])
    refused(folder, "CORRUPT", "starts at byte")
