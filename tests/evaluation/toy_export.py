"""An exported file whose answers are arithmetic: a matrix on an image's mean colour."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from deitkit.artifacts.bundle import Bundle
from deitkit.data.preprocess import Preprocessing, preprocess
from deitkit.evaluation.metrics import softmax
from deitkit.exporters import onnx_graph
from deitkit.models import create_model
from tests.exporters.plain_networks import mean_colour_network, onnx

SPEC = Preprocessing(image_size=(16, 16), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
CLS, DIST = np.random.default_rng(1).normal(size=(2, 3, 3)).astype(np.float32)
NAMES = ("a", "b\n</script>", "\udcff\0\u202e" + "x" * 10_000)
TEMPERATURE = 0.5


@cache
def toy_bundle() -> Bundle:
    """What the file says of itself; its own network is another one."""
    shape = {"num_classes": 3, "depth": 1, "embed_dim": 8, "num_heads": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = create_model("deit_nano_distilled_patch4_16", **shape)
    return Bundle(
        model_config=model.config,
        class_names=NAMES,
        preprocessing=SPEC,
        state_dict=model.state_dict(),
        provenance={"lineage": "abc"},
        threshold=0.5,
        temperature=TEMPERATURE,
    )


@cache
def toy_content() -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "_network", mean_colour_network(SPEC, CLS, DIST))
        return onnx_graph.onnx_bytes(toy_bundle(), subject="x")


def by_hand(images: Any) -> np.ndarray:
    """[N, K]: the mean of both heads, over the temperature."""
    means = np.stack([preprocess(image, SPEC).mean(axis=(1, 2)) for image in images])
    return softmax((means @ CLS + means @ DIST) / 2 / TEMPERATURE)


def by_a_stranger(change: Callable[[Any], None]) -> bytes:
    """The file changed, and sealed as well as we do."""
    model = onnx.load_from_string(toy_content())
    change(model)
    return onnx_graph._sealed(model)


def swap_classes(model: Any) -> None:
    """Another model of the same shape: the classes' columns the other way round."""
    for tensor in model.graph.initializer:
        if tensor.name in ("cls", "dist"):
            array = onnx.numpy_helper.to_array(tensor)[:, ::-1]
            tensor.CopyFrom(onnx.numpy_helper.from_array(array.copy(), tensor.name))
