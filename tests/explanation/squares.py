"""Pictures whose class is the colour of a square on noise, and a model that learned it."""

# Shapes: N images, B at a time, H height, W width, C channels.

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.models import ImageModel, create_model

SIDE, SQUARE, PATCH = 24, 5, 4
COLOURS = ((230, 40, 40), (40, 230, 40), (40, 40, 230))
CLASS_NAMES = ("red", "green", "blue")
SPEC = Preprocessing(
    image_size=(SIDE, SIDE),
    resize="squash",
    crop_ratio=1.0,
    channels=3,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
)


def draw_squares(num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 [N, H, W, 3]; int64 [N] class; int64 [N, 2] top and left of its square."""
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, len(COLOURS), num)
    coarse = rng.integers(0, 256, (num, SIDE // 4, SIDE // 4, 3)).repeat(4, 1).repeat(4, 2)
    fine = rng.normal(0, 20, (num, SIDE, SIDE, 3))
    # The texture is grey in the mean, so that no place but the square tells the class.
    pictures = np.clip(coarse.mean(axis=3, keepdims=True) + fine, 0, 255).astype(np.uint8)
    places_N2 = rng.integers(0, SIDE - SQUARE + 1, (num, 2))
    for picture, label, (top, left) in zip(pictures, labels_N, places_N2, strict=True):
        square = picture[top : top + SQUARE, left : left + SQUARE].astype(float)
        mixed = 0.4 * square + 0.6 * np.array(COLOURS[label])
        picture[top : top + SQUARE, left : left + SQUARE] = mixed
    return pictures, labels_N, places_N2


def as_tensor(pictures_NHWC: np.ndarray) -> torch.Tensor:
    """As `preprocess` with SPEC prepares pictures of this size."""
    return torch.from_numpy(pictures_NHWC).permute(0, 3, 1, 2).float().div(255).sub(0.5).div(0.25)


def trained_bundle(*, max_steps: int = 400, batch_size: int = 32) -> Bundle:
    """A DeiT with both tokens, each head taught the class until it is right on other pictures."""
    torch.manual_seed(0)
    model = create_model(
        "deit_nano_distilled_patch4_16",
        num_classes=len(COLOURS),
        image_size=SIDE,
        embed_dim=48,
        depth=2,
        num_heads=3,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    held_out, held_out_N, _ = draw_squares(128, seed=9)
    for step in range(max_steps):
        if step % 20 == 0 and step and least_right(model, held_out, held_out_N) > 0.98:
            break
        pictures, labels_N, _ = draw_squares(batch_size, seed=100 + step)
        output = model.train()(as_tensor(pictures))
        labels_B = torch.from_numpy(labels_N)
        loss = F.cross_entropy(output.cls_logits, labels_B)
        loss = loss + F.cross_entropy(output.dist_logits, labels_B)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return Bundle(
        model_config=model.config,
        class_names=CLASS_NAMES,
        preprocessing=SPEC,
        state_dict=model.state_dict(),
        provenance={},
    )


@torch.no_grad()
def least_right(model: ImageModel, pictures: np.ndarray, labels_N: np.ndarray) -> float:
    """The share that the worse of the two heads has right."""
    output = model.eval()(as_tensor(pictures))
    said = (head.argmax(dim=1).numpy() for head in (output.cls_logits, output.dist_logits))
    return min(float((said_N == labels_N).mean()) for said_N in said)
