"""Every model that has a name. A new one is one line here."""

from __future__ import annotations

from typing import Any

from deitkit.models.base import ImageModel
from deitkit.models.deit import DeiT
from deitkit.models.deit_names import (
    TUTORIAL,
    TUTORIAL_NAME,
    listed_deit_names,
    parse_deit_name,
)
from deitkit.models.quick_cnn import QUICK_CNN, QuickCNN
from deitkit.models.regnet import REGNETY, RegNet
from deitkit.models.small_cnn import SMALL_CNN, SmallCNN

MODELS: dict[str, tuple[type[ImageModel], dict[str, Any]]] = {
    **{name: (DeiT, parse_deit_name(name) or {}) for name in listed_deit_names()},
    TUTORIAL_NAME: (DeiT, TUTORIAL),
    **{name: (RegNet, shape) for name, shape in REGNETY.items()},
    **{name: (QuickCNN, shape) for name, shape in QUICK_CNN.items()},
    **{name: (SmallCNN, shape) for name, shape in SMALL_CNN.items()},
}
"""Name -> class and the arguments that the name stands for."""
