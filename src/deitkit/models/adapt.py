"""Begin training from trained weights: another number of classes, another size, one token more."""

# Shapes: K classes, M position rows, D width, C channels, p side of a patch.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from deitkit.errors import ModelFileError
from deitkit.models.deit import DeiT
from deitkit.models.inferred import head_key, image_sizes_of
from deitkit.models.pos_embed import grid_of_rows, resize_pos_embed
from deitkit.models.weight_source import WeightSource
from deitkit.models.weights import (
    WeightReport,
    check_state_dict,
    open_source,
    settings_notes,
    widen,
)

HEADS = ("head.", "head_dist.")

INPUT_KEYS = (
    "patch_embed.convs.0.weight",
    "patch_embed.proj.weight",
    "stem.conv.weight",
    "stem.0.weight",
)
"""The convolution that reads the image, in one of our families: the first of these there is."""


def start_from(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor] | WeightSource,
    *,
    new_head: bool | None = None,
    dist_token_from_cls: bool = False,
    class_names: Sequence[str] | None = None,
    source_image_size: tuple[int, int] | None = None,
) -> WeightReport:
    """Fill `model` from `source` as a start of training; what cannot carry over stays fresh.

    - The heads are taken if they have as many classes, and the same `class_names` where both
      sides name them; `new_head` True leaves them fresh, False insists on them.
    - Position embeddings are resized to the model's grid. Theirs is that of `source_image_size`
      (height, width), else of the config.json beside the weights, else a square.
    - A distillation token that the source lacks stays fresh; with `dist_token_from_cls` it, its
      position row and, if the heads are taken, its head begin as those of the class token.
    - One input channel from three: their sum. Three from one: each a third.

    Everything else has to match exactly.

    Raises:
        ModelFileError: as `load_weights`; HEAD where `new_head` is False and the classes differ;
            DIST_TOKEN for a source with a distillation token and a model without; PATCH_SIZE,
            CHANNELS, POS_EMBED, GRID where no rule above applies. The model is then unchanged.
    """
    found = open_source(model, source)
    plan = _Plan(found, model)
    plan.heads(new_head, class_names, dist_token_from_cls)
    plan.input_channels()
    if isinstance(model, DeiT):
        plan.tokens(model, dist_token_from_cls)
        plan.positions(model, dist_token_from_cls, source_image_size)
    check_state_dict(
        model,
        plan.tensors,
        found.source,
        do="create the model with the architecture of its source (name, depth, width, layer_scale)",
    )
    model.load_state_dict(plan.tensors, strict=True)
    return plan.report()


class _Plan:
    """What the model will hold, and how each of it came to be."""

    def __init__(self, found: WeightSource, model: nn.Module) -> None:
        self.found = found
        self.fresh = model.state_dict()
        self.notes = settings_notes(model, found)
        self.tensors, widened = widen(found.tensors, self.fresh)
        self.notes += widened
        self.resized: list[str] = []
        self.replaced: list[str] = []
        self.missing: list[str] = []

    def heads(
        self, new_head: bool | None, class_names: Sequence[str] | None, from_cls: bool
    ) -> None:
        """Take the source's heads or leave the model's."""
        theirs = [key for key in self.tensors if key.startswith(HEADS)]
        ours = [key for key in self.fresh if key.startswith(HEADS)]
        differs = self._classes_differ(class_names)
        if differs and new_head is False:
            raise ModelFileError(
                "HEAD",
                self.found.source,
                f"its head is not that of the model: {differs}",
                "leave new_head out, and a fresh head is trained",
            )
        if new_head or (differs and new_head is None):
            unnamed = self.found.class_names is None and class_names is not None
            asked = "the source does not name its classes" if unnamed else "as asked"
            self.notes.append(f"the head is new: {differs or asked}")
            self.replaced += theirs
            for key in theirs:
                del self.tensors[key]
            for key in ours:
                self._leave_fresh(key, in_source=key in theirs)
            return
        for key in ours:
            if key.startswith("head_dist.") and key not in self.tensors:
                cls_key = key.replace("head_dist.", "head.")
                if from_cls and cls_key in self.tensors:
                    self._copy(cls_key, key)
                else:
                    self._leave_fresh(key)

    def _classes_differ(self, class_names: Sequence[str] | None) -> str:
        """Why the source's head cannot be ours; empty where it can."""
        key, our_key = head_key(self.tensors), head_key(self.fresh)
        if key is None or our_key is None:
            return "the source has none" if key is None else "the model has none"
        theirs, ours = self.tensors[key].shape[0], self.fresh[our_key].shape[0]
        if theirs != ours:
            return f"{ours} classes where the source has {theirs}"
        known = self.found.class_names
        if class_names is None or known is None or tuple(class_names) == known:
            return ""
        if len(class_names) != len(known):
            return f"{len(class_names)} class names where the source has {len(known)}"
        pairs = enumerate(zip(class_names, known, strict=True))
        i, (here, there) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
        return f"class {i} is {here!r}, in the source {there!r}"

    def input_channels(self) -> None:
        """Sum or spread the weights [D, C, p, p] of the convolution that reads the image."""
        key = next((key for key in INPUT_KEYS if key in self.fresh), None)
        if key is None or key not in self.tensors:
            return
        theirs, ours = self.tensors[key], self.fresh[key]
        if theirs.ndim != 4 or theirs.shape[0] != ours.shape[0]:
            return  # another width: check_state_dict lists it among all that differ
        if theirs.shape[2:] != ours.shape[2:]:
            here, there = ("x".join(map(str, w.shape[2:])) for w in (ours, theirs))
            raise ModelFileError(
                "PATCH_SIZE",
                self.found.source,
                f"its patches are {there} pixels, those of the model {here}",
                f"create the model with patch_size={theirs.shape[2]}",
            )
        before, after = theirs.shape[1], ours.shape[1]
        if before == after:
            return
        if (before, after) == (3, 1):
            adapted = theirs.sum(dim=1, keepdim=True)
        elif (before, after) == (1, 3):
            adapted = theirs.expand(-1, 3, -1, -1) / 3
        else:
            raise ModelFileError(
                "CHANNELS",
                self.found.source,
                f"it reads {before} channels, the model {after}",
                f"create the model with in_channels={before}",
            )
        self._resize(key, adapted, f"channels {before} to {after}")

    def tokens(self, model: DeiT, from_cls: bool) -> None:
        """Give the model its distillation token."""
        if "dist_token" not in self.tensors and model.dist_token is not None:
            if from_cls and "cls_token" in self.tensors:
                self._copy("cls_token", "dist_token")
            else:
                self._leave_fresh("dist_token")
        elif "dist_token" in self.tensors and model.dist_token is None:
            raise ModelFileError(
                "DIST_TOKEN",
                self.found.source,
                "it has a distillation token, the model has none",
                "create the model distilled (distilled=True, or a name with _distilled)",
            )

    def positions(
        self, model: DeiT, from_cls: bool, source_image_size: tuple[int, int] | None
    ) -> None:
        """Resize the position embeddings [1, M, D], and add a row for a new token."""
        theirs, ours = self.tensors.get("pos_embed"), self.fresh["pos_embed"]
        if theirs is None or theirs.ndim != 3 or theirs.shape[2] != ours.shape[2]:
            return  # check_state_dict lists it among all that differ
        sizes = [] if source_image_size is None else [source_image_size]
        had_token = "dist_token" in self.found.tensors
        num_special, old_grid = grid_of_rows(
            theirs.shape[1],
            num_tokens=2 if had_token else 1,
            patch_size=model.patch_size,
            image_sizes=sizes + image_sizes_of(self.found.config),
        )
        if (num_special > 0) != model.pos_embed_cls:
            here = model.num_special_tokens if model.pos_embed_cls else 0
            raise ModelFileError(
                "POS_EMBED",
                self.found.source,
                f"{num_special} of its position rows are for special tokens, "
                f"in the model {here} are",
                f"create the model with pos_embed_cls={num_special > 0}",
            )
        adapted = resize_pos_embed(
            theirs, old_grid=old_grid, new_grid=model.grid_size, num_special_tokens=num_special
        )
        done = []
        if old_grid != model.grid_size:
            done.append("grid {}x{} to {}x{}".format(*old_grid, *model.grid_size))
        if model.pos_embed_cls and model.dist_token is not None and not had_token:
            row_11D = adapted[:, :1] if from_cls else ours[:, 1:2]
            adapted = torch.cat([adapted[:, :1], row_11D, adapted[:, 1:]], dim=1)
            begins = "as the class token's" if from_cls else "fresh"
            done.append(f"a row for the distillation token, {begins}")
        if done:
            self._resize("pos_embed", adapted, ", ".join(done))

    def _resize(self, key: str, tensor: Tensor, how: str) -> None:
        self.tensors[key] = tensor
        self.resized.append(key)
        self.notes.append(f"{key}: {how}")

    def _copy(self, key: str, to: str) -> None:
        self.tensors[to] = self.tensors[key].clone()
        self.missing.append(to)
        self.notes.append(f"{to}: begins as {key}")

    def _leave_fresh(self, key: str, *, in_source: bool = False) -> None:
        self.tensors[key] = self.fresh[key]
        if not in_source:
            self.missing.append(key)

    def report(self) -> WeightReport:
        """What became of every key."""
        not_used = {*self.resized, *self.replaced, *self.missing}
        used = tuple(key for key in self.tensors if key not in not_used)
        return WeightReport(
            source=self.found.source,
            format=self.found.format,
            licence=self.found.licence,
            used=used,
            resized=tuple(self.resized),
            replaced=tuple(self.replaced),
            missing=tuple(self.missing),
            unexpected=self.found.set_aside,
            num_params=sum(self.tensors[key].numel() for key in (*used, *self.resized)),
            notes=tuple(self.notes),
        )
