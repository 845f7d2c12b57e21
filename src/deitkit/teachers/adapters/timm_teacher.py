"""A network of timm with weights from a file. timm is optional (`deitkit[timm]`)."""

# Shapes: T classes of the teacher.

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from deitkit.errors import ConfigError, ModelFileError
from deitkit.runtime.optional import check_torchvision, optional_package
from deitkit.teachers.classifier import Classifier

CROP_MODES = {"center": "shorter", "squash": "squash"}


def published_repo(name: str, *, subject: str) -> str:
    """The repository of huggingface.co where timm keeps the weights of `name` (with or without
    its tag).

    Raises:
        ConfigError: MISSING_PACKAGE, BROKEN_PACKAGE, TEACHER_NAME for a name timm does not know or
            has no such weights of.
    """
    settings = _settings(_timm(subject), name, subject)
    repo = settings.get("hf_hub_id")
    if not repo or settings.get("custom_load") or settings.get("hf_hub_filename"):
        raise _no_such(
            subject,
            f"timm has no weights of {name} on huggingface.co in torch's format",
            f"fetch them yourself and write timm:{name}@weights.safetensors",
        )
    return str(repo)


def timm_classifier(
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    asked: str,
    is_published: bool,
    class_names: Sequence[str] | None = None,
    device: torch.device,
) -> Classifier:
    """timm's `name` with these weights: every one of them, the head's above all.

    `tensors` are of a file, whose head says how many classes there are, or, with `is_published`,
    timm's own for this name, which timm may know to convert. The preprocessing is that of timm's
    published weights. `class_names` come from beside the weights; without them, heads of the size
    of ImageNet's lists of classes are taken to be in their order, and a note says so.

    Raises:
        ConfigError: MISSING_PACKAGE, BROKEN_PACKAGE, TEACHER_NAME.
        ModelFileError: NO_HEAD for weights without one, MISMATCH for those of another network.
    """
    timm = _timm(asked)
    settings = _settings(timm, name, asked)
    tensors = _without_prefix(tensors)
    with torch.random.fork_rng(devices=[]):
        if is_published:
            model = _published(timm, name, tensors, asked)
        else:
            model = _from_file(timm, name, tensors, settings, asked)
    notes = []
    if not is_published:
        notes.append(f"preprocessing: that of timm's {name}, the file does not say")
    if class_names is None:
        class_names = settings.get("label_names") or _imagenet_names(timm, model.num_classes)
        if class_names is not None and not is_published:
            notes.append(f"its {model.num_classes:,} classes are taken to be ImageNet's, in order")
    return Classifier.from_module(
        model,
        kind="timm",
        settings={"architecture": name.partition(".")[0]},
        name=asked,
        num_classes=model.num_classes,
        class_names=None if class_names is None else tuple(class_names),
        device=device,
        notes=tuple(notes),
        **_preprocessing(settings),
    )


def _timm(subject: str) -> ModuleType:
    check_torchvision(subject)
    return optional_package("timm", extra="timm", subject=subject)


def _settings(timm: ModuleType, name: str, subject: str) -> dict[str, Any]:
    """timm's description of the weights it publishes for `name`."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=3)
        do = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() names them all"
        raise _no_such(subject, f"timm {timm.__version__} has no model {name}", do)
    try:
        found = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        tags = ", ".join(timm.list_models(f"{name.partition('.')[0]}.*", include_tags=True))
        raise _no_such(subject, f"timm has no training {name}", f"choose among {tags}") from error
    return {} if found is None else found.to_dict()


def _published(timm: ModuleType, name: str, tensors: Mapping[str, Tensor], asked: str) -> Any:
    overlay = {"state_dict": dict(tensors)}
    try:
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, KeyError, ValueError) as error:
        why = " ".join(" ".join(str(error).splitlines()[:2]).split())[:200]
        raise _mismatch(asked, f"timm cannot read its own weights ({why})") from error
    model.pretrained_cfg["state_dict"] = None  # else timm keeps a second copy of every weight
    _check_head(model, tensors, asked)
    return model


def _from_file(
    timm: ModuleType,
    name: str,
    tensors: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    asked: str,
) -> Any:
    heads = settings.get("classifier") or ()
    keys = [f"{head}.weight" for head in ([heads] if isinstance(heads, str) else heads)]
    if not keys or keys[0] not in tensors:
        raise ModelFileError(
            "NO_HEAD",
            asked,
            f"the file has no {keys[0] if keys else 'class head'}, so it names no classes",
            "give weights of a trained classifier, under timm's names",
        )
    model = timm.create_model(name, pretrained=False, num_classes=tensors[keys[0]].shape[0])
    wanted = model.state_dict()
    faults = [f"lacks {key}" for key in wanted if key not in tensors]
    faults += [f"has {key}, which {name} has not" for key in tensors if key not in wanted]
    faults += [
        f"{key} is {list(tensors[key].shape)}, needed {list(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    if faults:
        more = f" and {len(faults) - 10} more" if len(faults) > 10 else ""
        raise _mismatch(asked, f"the file {'; '.join(faults[:10])}{more}")
    model.load_state_dict(dict(tensors), strict=True)
    return model


def _check_head(model: Any, tensors: Mapping[str, Tensor], asked: str) -> None:
    """The head's numbers are in the file: timm drops a head that does not fit, and says so only in
    its log."""
    heads = model.get_classifier()
    for layer in heads if isinstance(heads, (tuple, list)) else (heads,):
        weight = getattr(layer, "weight", None)
        if weight is None or not any(_holds(tensor, weight) for tensor in tensors.values()):
            raise ModelFileError(
                "NO_HEAD",
                asked,
                "timm left its class head as chance made it: the weights bring none that fits",
                "take weights of a trained classifier",
            )


def _holds(tensor: Tensor, weight: Tensor) -> bool:
    """Whether the last rows of `tensor` are `weight`: the first may be a background class."""
    if tensor.ndim < 2 or len(tensor) < len(weight):
        return False
    rows = tensor[-len(weight) :]
    if rows.numel() != weight.numel():
        return False
    return torch.equal(rows.reshape(weight.shape).to(weight), weight.detach())


def _imagenet_names(timm: ModuleType, num_classes: int) -> list[str] | None:
    """ "n01440764 tench, Tinca tinca", ... for a list of ImageNet's with so many classes."""
    subset = timm.data.infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    pairs = zip(info.label_names(), info.label_descriptions(), strict=True)
    return [f"{number} {words}" for number, words in pairs]


def _preprocessing(settings: Mapping[str, Any]) -> dict[str, Any]:
    _, height, width = settings["input_size"]
    return {
        "image_size": (height, width),
        "mean": tuple(settings["mean"]),
        "std": tuple(settings["std"]),
        "crop_ratio": settings["crop_pct"],
        "resize": CROP_MODES.get(settings.get("crop_mode", "center"), "shorter"),
    }


def _without_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names as they were before DistributedDataParallel put "module." ahead of them all."""
    prefix = "module."
    if tensors and all(key.startswith(prefix) for key in tensors):
        return {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return dict(tensors)


def _no_such(subject: str, why: str, do: str) -> ConfigError:
    return ConfigError("TEACHER_NAME", subject, why, do)


def _mismatch(subject: str, why: str) -> ModelFileError:
    return ModelFileError(
        "MISMATCH", subject, why, "name the timm model that these weights were saved from"
    )
