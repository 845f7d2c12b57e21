"""Bundles of small networks whose every weight has moved from where it began."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.models import create_model

NAMES = ("cat", "dog\n</script>", "a\udcff\0`|*‮" + "x" * 10_000)
"""X09: what a class can be called."""


@torch.no_grad()
def shake(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter and statistic away from its start, where much is 0 or 1."""
    chance = torch.Generator().manual_seed(3)
    for key, value in model.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=chance)
        elif key.endswith("conv3.bn.weight"):
            value.uniform_(0.1, 0.3, generator=chance)
        elif value.is_floating_point():
            value.add_(0.1 * torch.randn(value.shape, generator=chance))
    return model.eval()


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Bundle]:
    """`make_bundle("deit_nano_patch4_16", depth=2)`: three classes, shaken weights."""

    def make(name: str, *, bundle: dict[str, Any] | None = None, **arguments: Any) -> Bundle:
        torch.manual_seed(0)
        model = create_model(name, num_classes=3, **arguments)
        shake(model)
        spec = Preprocessing(
            image_size=model.image_size,
            channels=model.in_channels,
            mean=(0.4, 0.5, 0.6)[: model.in_channels],
            std=(0.2, 0.3, 0.4)[: model.in_channels],
        )
        facts: dict[str, Any] = {
            "model_config": model.config,
            "class_names": NAMES,
            "preprocessing": spec,
            "state_dict": model.state_dict(),
            "provenance": {"lineage": "abc", "validation": {"step": 12, "top1": 0.5}},
        }
        return Bundle(**(facts | (bundle or {})))

    return make


@torch.no_grad()
def answers(bundle: Bundle, num_images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Images [B, C, H, W] and the bundle's logits [B, K], for two heads their mean."""
    model = bundle.build_model()
    shape = (num_images, model.in_channels, *model.image_size)
    images_BCHW = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    output = model(images_BCHW)
    if output.dist_logits is None:
        return images_BCHW, output.cls_logits
    return images_BCHW, (output.cls_logits + output.dist_logits) / 2
