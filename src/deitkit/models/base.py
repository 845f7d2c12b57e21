"""What every model here offers, whatever its family."""

# Shapes: B images, C channels, H height, W width, D width of the embedding, K classes.

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from deitkit.errors import DataError
from deitkit.flow import StudentOutput
from deitkit.models.noise import ModelNoise


class ImageModel(nn.Module, ABC):
    """Images to class logits."""

    num_classes: int
    image_size: tuple[int, int]
    """Height and width in pixels it was made for."""
    in_channels: int
    embed_dim: int
    """Length of the vector before the head."""
    config: dict[str, Any]
    """Name and resolved arguments, as JSON holds them; `create_model` sets it, and
    `create_model(**config)` builds the same shape again."""

    @abstractmethod
    def forward(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> StudentOutput:
        """Logits of each head, in training or not. `noise` keys what chance drops in training."""

    @abstractmethod
    def forward_features(self, images_BCHW: Tensor, noise: ModelNoise | None = None) -> Tensor:
        """What the network sees before pooling: tokens [B, N, D] or a map [B, D, h, w]."""

    @abstractmethod
    def embed(self, images_BCHW: Tensor) -> Tensor:
        """[B, D]: one vector an image, what the head reads."""

    def check_channels(self, images_BCHW: Tensor) -> None:
        """The images have this model's number of channels.

        Raises:
            DataError: IMAGE_SHAPE.
        """
        if images_BCHW.ndim != 4 or images_BCHW.shape[1] != self.in_channels:
            raise DataError(
                "IMAGE_SHAPE",
                f"images {list(images_BCHW.shape)}",
                f"the model reads [images, {self.in_channels} channels, height, width]",
                f"convert the images or create the model with in_channels={images_BCHW.shape[1]}"
                if images_BCHW.ndim == 4
                else "add the missing dimension",
            )
