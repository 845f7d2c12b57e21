"""What names a teacher whatever its file is called: a digest of all that decides its logits."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

SCHEMA = 1
"""Of the code between an image and stored logits. Raise it when the same teacher would answer
otherwise; all stored logits are then of another teacher."""

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def teacher_digest(
    kind: str,
    settings: Mapping[str, Any],
    *,
    module: nn.Module | None = None,
    tensors: Mapping[str, Tensor] | None = None,
) -> str:
    """32 hex digits of `settings` (JSON values), of a module's layers and weights, of tensors.

    The layers go in as torch prints them, so that a stride or a padding counts, which no tensor
    tells; the addresses of objects, new in each process, do not.
    """
    said = {"schema": SCHEMA, "kind": kind, "settings": dict(settings)}
    whole = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    if module is not None:
        whole.update(_ADDRESS.sub("", repr(module)).encode())
        tensors = {**module.state_dict(), **(tensors or {})}
    for name, tensor in (tensors or {}).items():
        whole.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        whole.update(flat.view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()[:32]
