"""An image classifier of Hugging Face transformers. The library is optional (`deitkit[hf]`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from deitkit.errors import ConfigError, ModelFileError
from deitkit.runtime.optional import check_torchvision, optional_package
from deitkit.teachers.classifier import Classifier


def hf_classifier(
    folder: Path,
    tensors: Mapping[str, Tensor],
    *,
    asked: str,
    image_size: tuple[int, int],
    mean: Sequence[float],
    std: Sequence[float],
    crop_ratio: float,
    resize: str,
    class_names: Sequence[str] | None,
    notes: Sequence[str] = (),
    device: torch.device,
) -> Classifier:
    """The classifier that config.json in `folder` describes, with these weights, all of them.

    Only architectures that transformers brings itself are built; code beside the weights is never
    run.

    Raises:
        ConfigError: MISSING_PACKAGE, BROKEN_PACKAGE.
        ModelFileError: BAD_CONFIG for a model that is no image classifier of transformers; NO_HEAD
            where the weights bring none; MISMATCH.
    """
    check_torchvision(asked)
    transformers = optional_package("transformers", extra="hf", subject=asked)
    with _quiet(transformers), torch.random.fork_rng(devices=[]):
        config, kind = _architecture(transformers, folder, asked)
        model, loading = kind.from_pretrained(
            None,
            config=config,
            state_dict=dict(tensors),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    _check_loading(loading, asked)

    def call(images_BCHW: Tensor) -> Tensor:
        logits: Tensor = model(pixel_values=images_BCHW).logits
        return logits

    return Classifier.from_module(
        model,
        kind="transformers",
        settings={"architecture": kind.__name__},
        name=asked,
        call=call,
        num_classes=int(config.num_labels),
        image_size=image_size,
        mean=tuple(mean),
        std=tuple(std),
        crop_ratio=crop_ratio,
        resize=resize,
        class_names=None if class_names is None else tuple(class_names),
        notes=tuple(notes),
        device=device,
    )


def _architecture(transformers: ModuleType, folder: Path, asked: str) -> tuple[Any, Any]:
    """The configuration, and the class that `AutoModelForImageClassification` has for it."""
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(folder), trust_remote_code=False, local_files_only=True
        )
        with torch.device("meta"):
            outline: nn.Module = transformers.AutoModelForImageClassification.from_config(
                config, trust_remote_code=False
            )
    except ImportError as error:
        why = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            "BROKEN_PACKAGE", asked, f"transformers cannot build it ({why})", "install what it asks"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelFileError(
            "BAD_CONFIG",
            asked,
            f"transformers {transformers.__version__} makes no image classifier of it ({why})",
            "give a folder or name that AutoModelForImageClassification opens without "
            "trust_remote_code",
        ) from error
    return config, type(outline)


def _check_loading(loading: Mapping[str, Any], asked: str) -> None:
    """transformers fills what is missing with chance, and warns."""
    misshapen = sorted(str(item[0]) for item in loading["mismatched_keys"])
    lacking = sorted(map(str, loading["missing_keys"]))
    strange = sorted(map(str, loading["unexpected_keys"]))
    heads = [key for key in (*lacking, *misshapen) if "classifier" in key or "head" in key]
    if heads:
        raise ModelFileError(
            "NO_HEAD",
            asked,
            f"its weights bring no class head ({', '.join(heads[:10])}): it would answer by chance",
            "take one that was trained to classify, or train it first",
        )
    faults = [
        f"{len(keys)} {what} ({', '.join(keys[:10])})"
        for what, keys in (("missing", lacking), ("misshapen", misshapen), ("unknown", strange))
        if keys
    ]
    if faults:
        raise ModelFileError(
            "MISMATCH",
            asked,
            f"weights and config.json disagree: {'; '.join(faults)}",
            "fetch the folder again",
        )


@contextmanager
def _quiet(transformers: ModuleType) -> Iterator[None]:
    """No progress bars or reports of transformers: what matters becomes an error of ours."""
    logging = transformers.utils.logging
    level, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bars:
            logging.enable_progress_bar()
