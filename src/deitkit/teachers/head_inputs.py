"""What enters the last layer of any classifier: the features that a new head can be fitted on."""

# Shapes: B images, C channels, H height, W width, N tokens, D features, T classes.

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class HeadInputs:
    """Images [B, C, H, W] -> [B, D]: the input of the layer that gives the logits.

    That is the last linear layer (or convolution of one pixel) with T outputs that the network
    runs through; all of them, side by side, where their mean is the answer, as in a distilled
    DeiT. A map or tokens are averaged. A network without such a layer gives its logits instead.
    Layers are listened to during a call only.
    """

    def __init__(
        self, module: nn.Module, call: Callable[[Tensor], Tensor], *, num_classes: int
    ) -> None:
        self._call = call
        self._candidates = [layer for layer in module.modules() if _is_head(layer, num_classes)]
        self._heads: list[nn.Module] | None = None

    @property
    def layers(self) -> list[nn.Module]:
        """The layers listened to, in the order of the features; known after a first call."""
        assert self._heads is not None, "no image was shown yet"
        return list(self._heads)

    @torch.no_grad()
    def __call__(self, images_BCHW: Tensor) -> Tensor:
        listened = self._candidates if self._heads is None else self._heads
        heard: dict[nn.Module, tuple[Tensor, Tensor]] = {}

        def listen(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            heard.pop(layer, None)  # the last call counts, and its place in the order
            heard[layer] = (inputs[0], output)

        handles = [layer.register_forward_hook(listen) for layer in listened]
        try:
            logits_BT = self._call(images_BCHW)
        finally:
            for handle in handles:
                handle.remove()
        if self._heads is None:
            outputs = {layer: output for layer, (_, output) in heard.items()}
            self._heads = _choose(outputs, logits_BT)
        if not self._heads:
            return logits_BT
        return torch.cat([_pooled(heard[layer][0]) for layer in self._heads], dim=1)


def _is_head(layer: nn.Module, num_classes: int) -> bool:
    if isinstance(layer, nn.Linear):
        return layer.out_features == num_classes
    if isinstance(layer, nn.Conv2d):
        return set(layer.kernel_size) == {1} and layer.out_channels == num_classes
    return False


def _choose(outputs: dict[nn.Module, Tensor], logits_BT: Tensor) -> list[nn.Module]:
    """The heads among the layers that were run, in order."""
    layers = list(outputs)
    if len(layers) > 1 and all(outputs[layer].shape == logits_BT.shape for layer in layers):
        mean_BT = torch.stack([outputs[layer] for layer in layers]).mean(dim=0)
        if torch.allclose(mean_BT, logits_BT, rtol=1e-3, atol=1e-4):
            return layers
    return layers[-1:]


def _pooled(inputs: Tensor) -> Tensor:
    """[B, D] of [B, D], tokens [B, N, D] or a map [B, D, H, W]."""
    if inputs.ndim == 4:
        return inputs.mean(dim=(2, 3))
    return inputs.flatten(1, -2).mean(dim=1) if inputs.ndim > 2 else inputs
