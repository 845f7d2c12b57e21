"""The noise of the model: what drop-path and dropout leave out, a function of a key."""

# Shapes: B images of this micro-batch, J of them that are kept, G images of the step's global
# batch, K of them that are kept.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from deitkit.runtime.transfer import sent


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
    picked: tuple[int, ...] | None = None
    """Which images of the micro-batch a branch reads, counted from `first`; None for all."""

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
        to nothing for one number an image, dear for dropout of whole activations.
        """
        keep_G = self._uniform(layer, per_image_shape) < keep_prob
        if self.picked is None:
            assert 0 <= self.first <= self.first + num_images <= self.global_size
            return sent(keep_G[self.first : self.first + num_images], torch.device(device))
        assert len(self.picked) == num_images
        return sent(keep_G[[self.first + i for i in self.picked]], torch.device(device))

    def keep_subset(self, layer: int | str, num_images: int, num_kept: int) -> list[int]:
        """Positions, ascending, of this micro-batch's images among the `num_kept` of all G.

        The subset of the global batch is uniform: the images with the smallest keyed draws.
        """
        assert self.picked is None, "a subset of a subset would depend on the split"
        assert 0 <= self.first <= self.first + num_images <= self.global_size
        # Stable, so that two equal draws have one order everywhere.
        kept_K = self._uniform(layer, ()).argsort(stable=True)[:num_kept] - self.first
        return kept_K[(kept_K >= 0) & (kept_K < num_images)].sort().values.tolist()

    def _uniform(self, layer: int | str, per_image_shape: Sequence[int]) -> Tensor:
        """[G, *per_image_shape] in 0 to 1."""
        key = f"{self.seed}/{self.step}/{layer}".encode()
        digest = hashlib.blake2b(key, digest_size=8).digest()
        generator = torch.Generator(device="cpu")
        generator.manual_seed(int.from_bytes(digest, "little") >> 1)
        # device="cpu" is said aloud: a surrounding `torch.device(...)` must not move the draw.
        return torch.rand((self.global_size, *per_image_shape), generator=generator, device="cpu")


class KeptImages(NamedTuple):
    """The images of a micro-batch for which a branch is computed."""

    positions_J: Tensor
    """int64, ascending; empty where this micro-batch holds none of the step's kept images."""
    scale: float
    """Factor of the branch, so that its expectation over all images stays."""
    noise: ModelNoise | None
    """The key of these images alone."""


def keep_images(
    num_images: int,
    *,
    rate: float,
    noise: ModelNoise | None,
    layer: str,
    device: torch.device,
) -> KeptImages | None:
    """Draw whom a branch of drop rate `rate` is computed for; None when nobody is left out.

    Stochastic depth, Huang et al. 2016, arXiv:1603.09382, section 3. Of the G images of the step
    K = max(1, round(G (1 - rate))) are kept, each subset as likely as any other, and the branch
    is scaled by G / K, which keeps the expectation exactly. Without `noise` the default generator
    of torch decides, and G is this micro-batch.

    Deviation: the paper throws a coin for each mini-batch, common code one for each image; a fixed
    number of images has the same chance for each, costs the same each step, and the step's sum of
    factors does not vary. The rate is met to half an image: below 0.5 / G nothing is dropped.
    """
    global_size = num_images if noise is None else noise.global_size
    num_kept = max(1, round(global_size * (1.0 - rate)))
    if num_kept >= global_size:
        return None
    if noise is None:
        order_B = torch.rand(num_images, device=device).argsort()
        return KeptImages(order_B[:num_kept].sort().values, global_size / num_kept, None)
    picked = noise.keep_subset(layer, num_images, num_kept)
    positions_J = sent(torch.tensor(picked, dtype=torch.int64, device="cpu"), device)
    return KeptImages(positions_J, global_size / num_kept, replace(noise, picked=tuple(picked)))


def drop(
    x_B: Tensor,
    *,
    rate: float,
    per_image_shape: Sequence[int],
    noise: ModelNoise | None,
    layer: str,
) -> Tensor:
    """Zero a share `rate` of `x_B` and divide the rest by 1 - rate: the expectation stays.

    `per_image_shape` broadcasts against x_B[i]: the full shape drops single values (dropout,
    Srivastava et al. 2014), ones along an axis drop it as a whole. Without `noise` the default
    generator of torch decides.
    """
    keep_prob = 1.0 - rate
    if noise is None:
        uniform_B = torch.rand((x_B.shape[0], *per_image_shape), device=x_B.device)
        keep_B = uniform_B < keep_prob
    else:
        keep_B = noise.keep_mask(layer, x_B.shape[0], per_image_shape, keep_prob, x_B.device)
    return x_B * (keep_B / keep_prob).to(x_B.dtype)
