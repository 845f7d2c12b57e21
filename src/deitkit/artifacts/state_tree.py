"""Nested training state as tensors plus JSON, and back, without pickle and without loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def pack_tree(value: Any, prefix: str) -> tuple[dict[str, Tensor], Any]:
    """Split `value` into named tensors and a JSON description that says where each goes.

    Takes dicts (keys: text, whole numbers), lists, tuples, tensors, text, numbers, booleans,
    None. A TypeError names anything else: it would need pickle.
    """
    tensors: dict[str, Tensor] = {}

    def describe(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            tensors[path] = node
            return {"tensor": path}
        if isinstance(node, Mapping):
            entries = [[_key(k, path), describe(v, f"{path}/{k}")] for k, v in node.items()]
            return {"dict": entries}
        if isinstance(node, (list, tuple)):
            items = [describe(item, f"{path}/{i}") for i, item in enumerate(node)]
            return items if type(node) is list else {"tuple": items}
        if isinstance(node, float) and not math.isfinite(node):
            return {"float": repr(node)}
        if node is None or isinstance(node, (bool, int, float, str)):
            return node
        raise TypeError(f"{path} is a {type(node).__name__}, which a checkpoint cannot hold")

    return tensors, describe(value, prefix)


def unpack_tree(tensors: Mapping[str, Tensor], description: Any) -> Any:
    """The value that `pack_tree` took apart; equal in every bit and type."""
    if isinstance(description, list):
        return [unpack_tree(tensors, item) for item in description]
    if not isinstance(description, dict):
        return description
    ((kind, content),) = description.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack_tree(tensors, item) for item in content)
    if kind == "float":
        return float(content)
    return {key: unpack_tree(tensors, item) for key, item in content}


def first_non_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor holding NaN or infinity, or None."""
    for name, tensor in tensors.items():
        floating = tensor.is_floating_point() or tensor.is_complex()
        if floating and not bool(torch.isfinite(tensor).all()):
            return name
    return None


def to_saved_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense CPU tensors that share no memory, as the safetensors writer needs them."""
    saved: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        plain = tensor.detach().to("cpu").contiguous()
        address = plain.untyped_storage().data_ptr()
        if address in seen or plain.untyped_storage().nbytes() != plain.numel() * plain.itemsize:
            plain = plain.clone()
        seen.add(plain.untyped_storage().data_ptr())
        saved[name] = plain
    return saved


def _key(key: object, path: str) -> str | int:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise TypeError(f"{path} has a key of kind {type(key).__name__}")
    return key
