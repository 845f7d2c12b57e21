"""Settings of `build_optimizer` for tests that vary one of them."""

from __future__ import annotations

SETTINGS = {
    "lr": 1e-3,
    "weight_decay": 0.05,
    "layer_decay": None,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "momentum": 0.9,
}
