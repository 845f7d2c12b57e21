"""Put weights into a model: all of them or none."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from deitkit.errors import ModelFileError
from deitkit.models.deit import DeiT
from deitkit.models.deit_names import TUTORIAL
from deitkit.models.inferred import said_num_heads
from deitkit.models.weight_formats import FORMATS, listed
from deitkit.models.weight_source import WeightSource, describe_source

HALF_TYPES = (torch.float16, torch.bfloat16)
WIDER_TYPES = (torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightReport:
    """What became of every key. Keys are timm's names, but for `unexpected`."""

    source: str
    """The file, folder or name asked for, or "state dict"."""
    format: str
    """A key of `weight_formats.FORMATS`."""
    licence: str | None = None
    used: tuple[str, ...]
    """Copied as they are."""
    resized: tuple[str, ...] = ()
    """Copied in another shape."""
    replaced: tuple[str, ...] = ()
    """In the source, but the model keeps its own fresh ones."""
    missing: tuple[str, ...] = ()
    """Not in the source: fresh, or made from other weights as `notes` say."""
    unexpected: tuple[str, ...] = ()
    """In the source, in its spelling, of layers that no classifier reads: set aside."""
    num_params: int
    """Numbers in the tensors used and resized, buffers included."""
    notes: tuple[str, ...] = ()
    """What was done to them, a sentence each."""

    @property
    def num_tensors(self) -> int:
        """How many tensors came from the source."""
        return len(self.used) + len(self.resized)

    def summary(self) -> str:
        """One line."""
        kinds = ("resized", "replaced", "missing", "unexpected")
        counts = [f"{len(getattr(self, kind))} {kind}" for kind in kinds if getattr(self, kind)]
        licence = f", licence {self.licence}" if self.licence else ""
        loaded = f"{self.num_tensors} tensors, {self.num_params:,} numbers"
        return f"{self.source} ({FORMATS[self.format]}{licence}): {'; '.join([loaded, *counts])}"

    def lines(self) -> list[str]:
        """The summary, the notes, and every key; those that differ in the block only are joined."""
        lines = [self.summary(), *(f"note: {note}" for note in self.notes)]
        for kind in ("used", "resized", "replaced", "missing", "unexpected"):
            keys = getattr(self, kind)
            if keys:
                lines.append(f"{kind} ({len(keys)}): {', '.join(_join_blocks(keys))}")
        return lines


def load_weights(
    model: nn.Module, source: str | Path | Mapping[str, Tensor] | WeightSource
) -> WeightReport:
    """Fill `model` from `source`, where every name, shape and type agrees.

    `source` is what `describe_source` reads, or gave: a file, a folder, a state dict, a name of the
    hub, in any public format. Halves (float16, bfloat16) are widened to the model's type.

    Raises:
        ModelFileError: what `describe_source` raises; MISMATCH for missing, extra, misshapen or
            mistyped tensors, and for another number of attention heads than the config.json beside
            them says; NOT_FINITE for NaN or infinity. The model is then unchanged.
    """
    found = open_source(model, source)
    notes = settings_notes(model, found)
    tensors, widened = widen(found.tensors, model.state_dict())
    check_state_dict(model, tensors, found.source)
    model.load_state_dict(tensors, strict=True)
    return WeightReport(
        source=found.source,
        format=found.format,
        licence=found.licence,
        used=tuple(tensors),
        unexpected=found.set_aside,
        num_params=sum(tensor.numel() for tensor in tensors.values()),
        notes=tuple(notes + widened),
    )


def open_source(
    model: nn.Module, source: str | Path | Mapping[str, Tensor] | WeightSource
) -> WeightSource:
    """`source` described, the names in `model` being known. Raises as `describe_source`."""
    if isinstance(source, WeightSource):
        return source
    return describe_source(source, model_keys=model.state_dict().keys())


def settings_notes(model: nn.Module, found: WeightSource) -> list[str]:
    """Compare what leaves no trace in tensors; differences that may be meant are returned.

    Raises:
        ModelFileError: MISMATCH, for another number of heads than the config.json says.
    """
    if not isinstance(model, DeiT):
        return []
    heads = model.blocks[0].attn.num_heads  # type: ignore[union-attr]
    said = said_num_heads(found.config)
    if said is not None and said != heads:
        raise ModelFileError(
            "MISMATCH",
            found.source,
            f"its config.json says {said} attention heads, the model has {heads}",
            f"create the model with num_heads={said}",
        )
    notes = []
    custom = TUTORIAL["num_heads"]
    if said is None and found.format == "tutorial" and heads != custom:
        notes.append(f"the file does not tell the heads: here {heads}, in the tutorial {custom}")
    eps, here = found.config.get("layer_norm_eps"), model.norm.eps
    if isinstance(eps, float) and eps != here:
        notes.append(f"LayerNorm adds {here:g} to the variance, where they were made with {eps:g}")
    return notes


def widen(
    tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Halves in the type of the model's tensor of that name where it is wider, and a note."""
    widened: dict[str, Tensor] = {}
    kinds: dict[torch.dtype, int] = {}
    for key, tensor in tensors.items():
        needed = wanted[key].dtype if key in wanted else tensor.dtype
        if tensor.dtype in HALF_TYPES and needed in WIDER_TYPES:
            kinds[tensor.dtype] = kinds.get(tensor.dtype, 0) + 1
            tensor = tensor.to(needed)
        widened[key] = tensor
    notes = [
        f"{count} tensors widened from {str(kind).removeprefix('torch.')}"
        for kind, count in kinds.items()
    ]
    return widened, notes


CREATE_THAT_MODEL = "create the model they were saved from (name, num_classes, image_size)"


def check_state_dict(
    model: nn.Module, tensors: Mapping[str, Tensor], subject: str, *, do: str = CREATE_THAT_MODEL
) -> None:
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
    found = [f"{len(keys)} {kind}: {listed(keys)}" for kind, keys in faults.items() if keys]
    if found:
        raise ModelFileError(
            "MISMATCH",
            subject,
            f"its tensors are not those of the model; {'; '.join(found)}",
            do,
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
            f"NaN or infinity in {listed(not_finite)}",
            "take weights from before the training diverged",
        )


def _join_blocks(keys: tuple[str, ...]) -> list[str]:
    """blocks.0.norm1.bias, blocks.1.norm1.bias, ... -> blocks.{0-11}.norm1.bias."""
    blocks: dict[str, list[int]] = {}
    for key in keys:
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)", key)
        name = f"blocks.{{}}.{match[2]}" if match else key
        blocks.setdefault(name, []).extend([int(match[1])] if match else [])
    return [name.replace("{}", _ranges(sorted(where))) for name, where in blocks.items()]


def _ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 -> {0-2,5}; one number stands bare."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    text = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return text if len(numbers) == 1 else f"{{{text}}}"
