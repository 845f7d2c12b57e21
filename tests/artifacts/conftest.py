"""A tiny model and its bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from deitkit.artifacts.bundle import Bundle, save_bundle
from deitkit.data.preprocess import Preprocessing
from deitkit.models import create_model

NAMES = ("cat", "dog", "a\n</script>\u202e\udcff\0")


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    return create_model(
        "deit_tiny_distilled_patch16_224",
        num_classes=3,
        image_size=32,
        depth=1,
        embed_dim=8,
        num_heads=2,
    )


@pytest.fixture(scope="module")
def bundle(model) -> Bundle:
    return Bundle(
        model_config=model.config,
        class_names=NAMES,
        preprocessing=Preprocessing(image_size=(32, 32), mean=(0.1, 0.2, 0.3)),
        fusion="softmax",
        temperature=1.25,
        provenance={"steps": 100, "lineage": "abc"},
        metrics={"top1": 0.9},
        state_dict=model.state_dict(),
    )


@pytest.fixture
def folder(tmp_path, bundle) -> Path:
    save_bundle(tmp_path / "run" / "best", bundle)
    return tmp_path / "run" / "best"
