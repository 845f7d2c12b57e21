"""Put weights into a model: all of them or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deitkit.errors import ModelFileError
from deitkit.models.weight_files import read_state_dict

NUM_LISTED = 10
"""Keys named in a message; the rest are counted."""


@dataclass(frozen=True, slots=True)
class WeightReport:
    """What was loaded."""

    source: str
    """The file, or "state dict"."""
    num_tensors: int
    num_params: int
    """Numbers in all tensors, buffers included."""


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor]) -> WeightReport:
    """Copy `source`, a file or a state dict, into `model`, where every name, shape and type agrees.

    Raises:
        ModelFileError: what `read_state_dict` raises; MISMATCH for missing, extra, misshapen or
            mistyped tensors; NOT_FINITE for NaN or infinity. The model is then unchanged.
    """
    if isinstance(source, Mapping):
        subject, tensors = "state dict", dict(source)
    else:
        subject, tensors = str(source), read_state_dict(source)
    check_state_dict(model, tensors, subject)
    model.load_state_dict(tensors, strict=True)
    return WeightReport(
        source=subject,
        num_tensors=len(tensors),
        num_params=sum(tensor.numel() for tensor in tensors.values()),
    )


def check_state_dict(model: nn.Module, tensors: Mapping[str, Tensor], subject: str) -> None:
    """`tensors` fit `model` exactly and are finite (FAULTS M05, M06).

    Raises:
        ModelFileError: MISMATCH or NOT_FINITE, naming up to ten keys of each kind.
    """
    wanted = model.state_dict()
    common = [key for key in wanted if key in tensors]
    faults = {
        "missing": [key for key in wanted if key not in tensors],
        "not in the model": [key for key in tensors if key not in wanted],
        "of another shape": [
            f"{key} ({list(tensors[key].shape)}, needed {list(wanted[key].shape)})"
            for key in common
            if tensors[key].shape != wanted[key].shape
        ],
        "of another type": [
            f"{key} ({tensors[key].dtype}, needed {wanted[key].dtype})"
            for key in common
            if tensors[key].dtype != wanted[key].dtype
        ],
    }
    found = [f"{len(keys)} {kind}: {_listed(keys)}" for kind, keys in faults.items() if keys]
    if found:
        raise ModelFileError(
            "MISMATCH",
            subject,
            f"its tensors are not those of the model; {'; '.join(found)}",
            "create the model they were saved from (name, num_classes, image_size)",
        )
    not_finite = [
        key
        for key, tensor in tensors.items()
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]
    if not_finite:
        raise ModelFileError(
            "NOT_FINITE",
            subject,
            f"NaN or infinity in {_listed(not_finite)}",
            "take weights from before the training diverged",
        )


def _listed(keys: list[str]) -> str:
    rest = len(keys) - NUM_LISTED
    return ", ".join(keys[:NUM_LISTED]) + (f" and {rest} more" if rest > 0 else "")
