"""The noise of the model: what drop-path and dropout leave out, a function of a key."""

# Shapes: B images of this micro-batch, G images of the step's global batch.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class ModelNoise:
    """The key of one micro-batch's noise: images [first, first + B) of the step's global batch."""

    seed: int
    """The run's weight seed; the views of the data have their own."""
    step: int
    """Optimisation steps done before this one."""
    first: int
    """Position of this micro-batch's first image inside the global batch."""
    global_size: int
    """Images in the step, over all ranks and micro-batches."""

    def keep_mask(
        self,
        layer: int | str,
        num_images: int,
        per_image_shape: Sequence[int],
        keep_prob: float,
        device: torch.device | str,
    ) -> Tensor:
        """[B, *per_image_shape] of bool: True with probability `keep_prob`.

        Drawn on the CPU for the whole global batch and then sliced, so any split over ranks and
        micro-batches, and any device, sees the same noise. That costs G draws for B images: next
        to nothing for drop-path (one number an image), dear for dropout of whole activations.
        """
        assert 0 <= self.first <= self.first + num_images <= self.global_size
        key = f"{self.seed}/{self.step}/{layer}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        generator = torch.Generator(device="cpu")
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        # device="cpu" is said aloud: a surrounding `torch.device(...)` must not move the draw.
        uniform_G = torch.rand(
            (self.global_size, *per_image_shape), generator=generator, device="cpu"
        )
        return (uniform_G[self.first : self.first + num_images] < keep_prob).to(device)


def drop(
    x_B: Tensor,
    *,
    rate: float,
    per_image_shape: Sequence[int],
    noise: ModelNoise | None,
    layer: str,
) -> Tensor:
    """Zero a share `rate` of `x_B` and divide the rest by 1 - rate: the expectation stays.

    `per_image_shape` broadcasts against x_B[i]: all ones drops whole images (drop-path, Huang et
    al. 2016, arXiv:1603.09382, section 3), the full shape drops single values (dropout). Without
    `noise` the default generator of torch decides.
    """
    keep_prob = 1.0 - rate
    if noise is None:
        uniform_B = torch.rand((x_B.shape[0], *per_image_shape), device=x_B.device)
        keep_B = uniform_B < keep_prob
    else:
        keep_B = noise.keep_mask(layer, x_B.shape[0], per_image_shape, keep_prob, x_B.device)
    return x_B * (keep_B / keep_prob).to(x_B.dtype)
