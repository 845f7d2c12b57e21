"""Read the tensors of a weights file. Nothing in a file is ever run (FAULTS M01 to M04, M15)."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deitkit.errors import ModelFileError
from deitkit.runtime.strict_json import load_json

MAX_HEADER_BYTES = 1 << 20
MAX_TENSORS = 10_000

SUFFIXES: dict[str, tuple[str, ...]] = {
    "safetensors": (".safetensors",),
    "torch": (".pth", ".pt", ".th", ".bin", ".ckpt"),
}
"""What a file of each format may be called."""

WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts keep the weights."""

FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")
"""What the weights in a folder of the hub are called; the first there is taken."""

MAX_CONFIG_BYTES = 8 << 20
"""Room for the names of 21,841 classes, twice."""


def weights_in_folder(folder: Path) -> Path:
    """The weights file of a folder in the form of Hugging Face or of timm's hub.

    Raises:
        ModelFileError: NOT_FOUND; SHARDED for weights in several files.
    """
    for name in FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    if any((folder / f"{name}.index.json").is_file() for name in FOLDER_FILES):
        raise ModelFileError(
            "SHARDED",
            folder,
            "its weights are in several files, as only models of many gigabytes have them",
            "save it in one file (max_shard_size in save_pretrained)",
        )
    raise ModelFileError(
        "NOT_FOUND", folder, f"neither {' nor '.join(FOLDER_FILES)} is in it", "check the path"
    )


def read_folder_json(path: Path) -> dict[str, Any]:
    """The JSON object in the file `path`, empty where there is no such file.

    Raises:
        ModelFileError: JSON, for text that is no JSON object, or a very large or deep one.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as stream:
        content = stream.read(MAX_CONFIG_BYTES + 1)
    loaded = load_json(content, path, max_bytes=MAX_CONFIG_BYTES)
    if not isinstance(loaded, dict):
        raise ModelFileError("JSON", path, "it holds no object", "fetch or write it again")
    return loaded


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Parameter name -> CPU tensor, from .safetensors or a file of `torch.save`.

    A torch file holds the state dict bare or under "model" or "state_dict". It is read with
    `weights_only=True`, which builds tensors and plain containers and calls nothing else; the
    settings that facebookresearch/deit and timm keep beside the weights (`argparse.Namespace`) are
    such a container.

    Raises:
        ModelFileError: NOT_FOUND; FORMAT for another kind of file or a wrong extension; LFS_POINTER
            and WEB_PAGE for what a failed download leaves; UNSAFE for a pickle that wants to run
            code; CORRUPT for a damaged file; NOT_WEIGHTS when tensors are not what it holds.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ModelFileError("NOT_FOUND", path, "there is no such file", "check the path")
    kind = _kind_of(path)
    if path.suffix.lower() not in SUFFIXES[kind]:
        raise ModelFileError(
            "FORMAT",
            path,
            f"its content is {kind}, its name says otherwise",
            f"find out where it comes from, then name it {' or '.join(SUFFIXES[kind])}",
        )
    loaded = _read_safetensors(path) if kind == "safetensors" else _read_torch(path)
    return _unwrap(loaded, path)


def _kind_of(path: Path) -> str:
    """The format by content."""
    with path.open("rb") as stream:
        start = stream.read(512)
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise ModelFileError(
            "LFS_POINTER",
            path,
            "this is a Git LFS pointer, not the weights",
            "run `git lfs pull` where it comes from",
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise ModelFileError(
            "WEB_PAGE", path, "this is a web page, not the weights", "download the file itself"
        )
    if start[8:9] == b"{":
        return "safetensors"
    # A zip of torch.save, or the bare pickle (protocol 2 to 5) that it wrote before torch 1.6.
    is_pickle = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if start.startswith(b"PK\x03\x04") or is_pickle:
        return "torch"
    if start[257:262] == b"ustar" or start[:2] in (b"(d", b"(l", b"cp", b"co", b"cb"):
        raise ModelFileError(
            "UNSAFE",
            path,
            "this form of pickle cannot be read without running it",
            "ask its author for .safetensors",
        )
    raise ModelFileError(
        "FORMAT",
        path,
        "its content is neither safetensors nor a file of torch.save",
        "give .safetensors or .pth",
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    size_bytes = path.stat().st_size
    with path.open("rb") as stream:
        (header_bytes,) = struct.unpack("<Q", stream.read(8))
        if header_bytes > min(MAX_HEADER_BYTES, size_bytes - 8):
            raise _corrupt(path, f"its header claims {header_bytes:,} bytes")
        header_text = stream.read(header_bytes)
    try:
        header = json.loads(header_text)
        num_tensors = len(header)
        if num_tensors > MAX_TENSORS:
            raise _corrupt(path, f"its header lists {num_tensors:,} tensors")
        return load_file(path, device="cpu")
    except (SafetensorError, ValueError, RecursionError) as error:
        raise _corrupt(path, _first_line(error)) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelFileError(
            "UNSAFE",
            path,
            "its pickle asks for more than tensors and plain containers",
            "ask its author for .safetensors, or save its state_dict alone where you trust it",
        ) from error
    except (RuntimeError, ValueError, EOFError, LookupError, zipfile.BadZipFile, OSError) as error:
        raise _corrupt(path, _first_line(error)) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _corrupt(path: Path, why: str) -> ModelFileError:
    return ModelFileError("CORRUPT", path, f"the file is damaged: {why}", "fetch it again")


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
            break
    if not isinstance(loaded, Mapping) or not loaded:
        raise ModelFileError(
            "NOT_WEIGHTS", path, "it holds no state dict", f"save one, bare or under {WRAPPERS}"
        )
    strangers = [str(key) for key, value in loaded.items() if not isinstance(value, Tensor)]
    if strangers:
        raise ModelFileError(
            "NOT_WEIGHTS",
            path,
            f"{', '.join(strangers[:10])} are not tensors",
            f"save the state dict alone, or under {' or '.join(WRAPPERS)}",
        )
    return {str(key): value for key, value in loaded.items()}
