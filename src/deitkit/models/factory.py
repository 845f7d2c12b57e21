"""From a name to a model."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from typing import Any

from deitkit.errors import ConfigError
from deitkit.models.base import ImageModel
from deitkit.models.checks import resolve_image_size
from deitkit.models.deit import DeiT
from deitkit.models.deit_names import parse_deit_name
from deitkit.models.registry import MODELS


def list_models() -> list[str]:
    """Names worth showing. Any `deit_{size}[_conv|_quick|_hybrid][_distilled]_patch{P}_{S}` works
    too."""
    return list(MODELS)


def model_names_like(name: str) -> list[str]:
    """Up to three known names that `name` may have meant, the closest first."""
    return difflib.get_close_matches(name.lower().replace("-", "_"), MODELS, n=3, cutoff=0.5)


def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    image_size: int | Sequence[int] | None = None,
    in_channels: int = 3,
    **overrides: Any,
) -> ImageModel:
    """Build the model called `name`, with fresh weights from torch's default generator.

    `image_size` is S or (H, W) in pixels, by default what the name says. `overrides` are the other
    arguments of the model's class, such as `drop_path=0.1`. The result's `config` holds the name
    and every argument; `create_model(**config)` builds the same shape again.

    Raises:
        ConfigError: MODEL for an unknown name, with close ones; MODEL_OPTION for an unknown or
            impossible argument, before anything is allocated; MODEL_SIZE above 20 billion
            parameters.
    """
    family, named_arguments = family_of(name)
    given: dict[str, Any] = {"num_classes": num_classes, "in_channels": in_channels, **overrides}
    if image_size is not None:
        given["image_size"] = image_size
    parameters = inspect.signature(family).parameters
    for option in given:
        if option not in parameters:
            close = difflib.get_close_matches(option, parameters, n=1)
            do = f"did you mean {close[0]}?" if close else f"use {', '.join(parameters)}"
            raise ConfigError("MODEL_OPTION", option, f"{name} has no such option", do)
    defaults = {key: parameter.default for key, parameter in parameters.items()}
    arguments = {**defaults, **named_arguments, **given}
    model = family(**arguments)
    model_size = list(resolve_image_size(arguments["image_size"]))
    model.config = {"name": name, **arguments, "image_size": model_size}
    return model


def family_of(name: str) -> tuple[type[ImageModel], dict[str, Any]]:
    """The class behind `name` and the arguments the name stands for. Raises as `create_model`."""
    if name in MODELS:
        return MODELS[name]
    named_arguments = parse_deit_name(name)
    if named_arguments is not None:
        return DeiT, named_arguments
    close = model_names_like(name)
    do = f"did you mean {' or '.join(close)}?" if close else "deitkit.list_models() shows the names"
    raise ConfigError("MODEL", name, "no model has this name", do)
