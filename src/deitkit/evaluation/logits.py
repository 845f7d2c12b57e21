"""Images -> logits of both heads, each image once, and the ways to fuse them."""

# Shapes: B images at a time, N images, C channels, H height, W width, K classes, D width.

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from deitkit.artifacts.bundle import FUSIONS
from deitkit.data import ImageSet
from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.evaluation.metrics import softmax
from deitkit.models import ImageModel
from deitkit.runtime.device import precision_for

EVALUATION_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class HeadLogits:
    """What a model says of some images; `indices` are their places in the image set."""

    indices: np.ndarray
    """[N] int64."""
    cls_NK: np.ndarray
    dist_NK: np.ndarray | None
    """None for a model without the distillation token."""
    embeddings_ND: np.ndarray | None = None

    def fused(
        self, fusion: str, temperature: float = 1.0, weight: float | None = None
    ) -> np.ndarray:
        """Log-probabilities up to a constant, [N, K]; see `fuse`."""
        return fuse(
            self.cls_NK, self.dist_NK, fusion=fusion, temperature=temperature, weight=weight
        )

    def at(self, indices: np.ndarray) -> HeadLogits:
        """Those of these images alone, in this order; `self.indices` ascend and hold them all."""
        rows = np.searchsorted(self.indices, indices)
        return HeadLogits(
            indices=self.indices[rows],
            cls_NK=self.cls_NK[rows],
            dist_NK=None if self.dist_NK is None else self.dist_NK[rows],
            embeddings_ND=None if self.embeddings_ND is None else self.embeddings_ND[rows],
        )

    def gathered(self, gather_rows: Callable[[np.ndarray], np.ndarray]) -> HeadLogits:
        """All ranks' images, in the order of the image set."""
        indices = gather_rows(self.indices)
        order = np.argsort(indices)
        return replace(
            self,
            indices=indices[order],
            cls_NK=gather_rows(self.cls_NK)[order],
            dist_NK=None if self.dist_NK is None else gather_rows(self.dist_NK)[order],
        )


def fuse(
    cls_NK: np.ndarray,
    dist_NK: np.ndarray | None,
    *,
    fusion: str,
    temperature: float = 1.0,
    weight: float | None = None,
) -> np.ndarray:
    """One set of logits [N, K] from two heads; each head's are divided by `temperature` first.

    mean: of the logits, as in the authors' code, timm and the published accuracies. softmax: the
    log of the mean of the probabilities (Touvron et al. 2021, section 4). cls, dist: one head.
    fitted: of the logits, `weight` (0 to 1) for the distillation head and the rest for the other.
    A model without the distillation token has one head, whatever the fusion.
    """
    cls_NK = cls_NK / temperature
    if dist_NK is None or fusion == "cls":
        return cls_NK
    dist_NK = dist_NK / temperature
    if fusion == "dist":
        return dist_NK
    if fusion == "softmax":
        mean_NK = (softmax(cls_NK) + softmax(dist_NK)) / 2
        return np.log(np.maximum(mean_NK, np.finfo(mean_NK.dtype).tiny))
    if fusion == "fitted":
        assert weight is not None and 0 <= weight <= 1, f"the distillation head has {weight}"
        return (1 - weight) * cls_NK + weight * dist_NK
    if fusion != "mean":
        raise ValueError(f"fusion is one of {', '.join(FUSIONS)}, not {fusion!r}")
    return (cls_NK + dist_NK) / 2


def prepare_batch(images: ImageSet, indices_B: np.ndarray, spec: Preprocessing) -> np.ndarray:
    """Evaluation pixels [B, C, H, W] float32, normalised."""
    return np.stack([preprocess(images.image(int(i)), spec) for i in indices_B])


@torch.no_grad()
def collect_logits(
    model: ImageModel,
    images: ImageSet,
    spec: Preprocessing,
    *,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
    embeddings: bool = False,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> HeadLogits | None:
    """This rank's share of `images` through `model` in evaluation mode; None when `stop` says so.

    The model comes back in the mode it came in.
    """
    was_training = model.training
    has_dist = bool(model.config.get("distilled"))
    model.eval()
    mine = np.arange(rank, len(images), world_size)
    dtype = precision_for(device)
    cls_rows: list[np.ndarray] = []
    dist_rows: list[np.ndarray] = []
    embedding_rows: list[np.ndarray] = []
    try:
        for start in range(0, len(mine), EVALUATION_BATCH_SIZE):
            if stop():
                return None
            indices_B = mine[start : start + EVALUATION_BATCH_SIZE]
            batch = torch.from_numpy(prepare_batch(images, indices_B, spec)).to(device)
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                output = model(batch)
                if embeddings:
                    embedding_rows.append(model.embed(batch).float().cpu().numpy())
            cls_rows.append(output.cls_logits.float().cpu().numpy())
            if output.dist_logits is not None:
                dist_rows.append(output.dist_logits.float().cpu().numpy())
            progress(start + len(indices_B), len(mine))
    finally:
        model.train(was_training)
    return HeadLogits(
        indices=mine,
        cls_NK=_stacked(cls_rows, model.num_classes),
        dist_NK=_stacked(dist_rows, model.num_classes) if has_dist else None,
        embeddings_ND=_stacked(embedding_rows, model.embed_dim) if embeddings else None,
    )


def _stacked(rows: list[np.ndarray], width: int) -> np.ndarray:
    """[N, width] float32, also where a rank has no image."""
    return np.concatenate(rows) if rows else np.zeros((0, width), np.float32)
