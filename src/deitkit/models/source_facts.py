"""What the files beside public weights say: preprocessing, class names, licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deitkit.errors import ModelFileError

Config = Mapping[str, Any]

PIL_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""The numbers by which Hugging Face names Pillow's filters."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SourcePreprocessing:
    """How the images were prepared that these weights were measured on."""

    image_size: tuple[int, int]
    """Height and width that enter the model, in pixels."""
    mean: tuple[float, ...]
    """Per channel, in levels of 0 to 1."""
    std: tuple[float, ...]
    """Per channel, in levels of 0 to 1."""
    crop_ratio: float
    """Model's side over the resized side, above 0 to 1."""
    resize: str
    """shorter: the shorter side is resized and the middle cut out; squash: both sides are."""
    filter: str | None
    """Resampling filter, as Pillow calls it; None where not said."""


def timm_settings(config: Config) -> Config:
    """The part of timm's config.json that describes the weights; old ones have it on top."""
    inner = config.get("pretrained_cfg")
    return inner if isinstance(inner, Mapping) else config


def preprocessing_of(config: Config, processor: Config, subject: str) -> SourcePreprocessing | None:
    """From Hugging Face's preprocessor_config.json, else timm's or our config.json; None without.

    None, too, for a preparation that `SourcePreprocessing` cannot say: no resize at all, a frame
    around the image.

    Raises:
        ModelFileError: BAD_CONFIG for values that cannot be.
    """
    try:
        if processor:
            return _of_hugging_face(processor)
        return _of_bundle(config) or _of_timm(timm_settings(config))
    except (TypeError, ValueError, KeyError, ZeroDivisionError, OverflowError) as error:
        raise ModelFileError(
            "BAD_CONFIG",
            subject,
            f"its preprocessing cannot be read ({type(error).__name__}: {error})",
            "fetch the folder again, or give the weights file alone",
        ) from error


def _of_bundle(config: Config) -> SourcePreprocessing | None:
    ours = config.get("preprocessing")
    if not isinstance(ours, Mapping):
        return None
    names = ("image_size", "mean", "std", "crop_ratio", "resize", "filter")
    return _checked(**{name: ours[name] for name in names})


def _of_timm(settings: Config) -> SourcePreprocessing | None:
    if not {"mean", "std", "input_size"} <= settings.keys():
        return None
    resizes = {"center": "shorter", "squash": "squash"}
    resize = resizes.get(settings.get("crop_mode") or "center")
    if resize is None:
        return None
    _, height, width = settings["input_size"]
    return _checked(
        image_size=(height, width),
        mean=settings["mean"],
        std=settings["std"],
        crop_ratio=settings.get("crop_pct") or 0.875,
        resize=resize,
        filter=settings.get("interpolation"),
    )


def _of_hugging_face(processor: Config) -> SourcePreprocessing | None:
    if not processor.get("do_resize", True) or "size" not in processor:
        return None
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.get("do_normalize", True):
        mean, std = processor["image_mean"], processor["image_std"]
    size, resize = processor["size"], "squash"
    if isinstance(size, Mapping) and "shortest_edge" in size:
        size, resize = size["shortest_edge"], "shorter"
    resized = _height_width(size)
    cut = resized
    if processor.get("do_center_crop") and processor.get("crop_size") is not None:
        cut = _height_width(processor["crop_size"])
    elif resize == "shorter":
        return None
    return _checked(
        image_size=cut,
        mean=mean,
        std=std,
        crop_ratio=min(1.0, max(cut) / max(resized)),
        resize=resize,
        filter=PIL_FILTERS.get(processor.get("resample", 2)),
    )


def _height_width(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        return size["height"], size["width"]
    return size, size


def _checked(
    *, image_size: Any, mean: Any, std: Any, crop_ratio: Any, resize: str, filter: Any
) -> SourcePreprocessing:
    found = SourcePreprocessing(
        image_size=(int(image_size[0]), int(image_size[1])),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
        crop_ratio=float(crop_ratio),
        resize=resize,
        filter=None if filter is None else str(filter),
    )
    if len(found.mean) != len(found.std) or not found.mean:
        raise ValueError(f"mean has {len(found.mean)} numbers and std {len(found.std)}")
    if min(found.image_size) < 1 or min(found.std) <= 0 or not 0 < found.crop_ratio <= 1:
        raise ValueError(f"{found} cannot be")
    return found


def class_names_of(config: Config, subject: str) -> tuple[str, ...] | None:
    """By class index; None where the folder names none, or only numbers them ("LABEL_3").

    Raises:
        ModelFileError: CONFIG_LIES for names that are not those of classes 0 to K - 1.
    """
    settings = timm_settings(config)
    named = (
        config.get("id2label")
        or config.get("label_names")
        or settings.get("label_names")
        or config.get("class_names")
    )
    if not named:
        return None
    if isinstance(named, list):
        named = dict(enumerate(named))
    try:
        by_index = {int(index): str(name) for index, name in named.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise _lies(subject, f"its class names are not by index ({error})") from error
    if sorted(by_index) != list(range(len(named))):
        raise _lies(subject, f"its {len(named)} class names are not those of 0 to {len(named) - 1}")
    names = tuple(by_index[index] for index in range(len(by_index)))
    return None if all(re.fullmatch(r"LABEL_\d+", name) for name in names) else names


def _lies(subject: str, why: str) -> ModelFileError:
    return ModelFileError(
        "CONFIG_LIES", subject, why, "fetch the folder again, or mend config.json"
    )


_LICENCE = re.compile(r"^license:[ \t]*['\"]?([^\s'\"#]+)", re.MULTILINE)


def licence_of(config: Config, folder: Path) -> str | None:
    """From timm's config.json, else from the head of README.md (a model card); None without."""
    said = timm_settings(config).get("license")
    if isinstance(said, str) and said:
        return said
    card = folder / "README.md"
    if not card.is_file():
        return None
    with card.open(encoding="utf-8", errors="replace") as stream:
        text = stream.read(64 << 10)
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    match = _LICENCE.search(parts[1])
    return match.group(1) if match else None
