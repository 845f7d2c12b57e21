"""Anybody's trained classifier as a bundle, so that evaluate, predict and teacher= take it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deitkit.api.freeze import Progress, no_progress
from deitkit.api.run import Run
from deitkit.data import printable
from deitkit.data.class_names import read_class_names
from deitkit.data.preprocess import Preprocessing
from deitkit.data.sources import resolve_source
from deitkit.errors import ConfigError, ModelFileError

if TYPE_CHECKING:
    from deitkit.models import ImageModel
    from deitkit.models.weight_source import WeightSource

USUAL_CROP_RATIO = 0.875
BUNDLE_FILES = ("model.safetensors", "config.json", "manifest.json")


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A new bundle, and what became of the source."""

    run: Run
    """To evaluate and predict with."""
    source: str
    """One line: what was read, from where, under which licence."""
    lines: tuple[str, ...]
    """What became of every tensor."""
    notes: tuple[str, ...]
    """What was assumed or changed."""


def import_weights(
    source: str | Path,
    *,
    out: str | Path,
    classes: str | Path | Sequence[str] | None = None,
    model: str | None = None,
    image_size: int | Sequence[int] | None = None,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> Imported:
    """Make a bundle in `out` of trained weights: a file, a folder of Hugging Face or timm, or a
    name `hf:...` or `timm:...`.

    `classes` names the classes where the source does not: a file with one a line, in their order,
    images whose classes are those, or the names themselves. `model` is a name of ours where the
    source's architecture cannot be told from its tensors. `image_size` (pixels a side or height
    and width) resizes the position embeddings. An existing bundle is replaced with `overwrite`
    only.

    Raises:
        ConfigError: NOT_OURS for `out`; CLASSES, no names or another number of them than classes.
        ModelFileError: what `describe_source` and `start_from` raise; NO_HEAD; MISMATCH for
            weights that lack a part of the model.
        ResourceError: the disk refused.
    """
    from deitkit.artifacts.bundle import Bundle, save_bundle
    from deitkit.exporters.target import check_target
    from deitkit.models.weight_source import describe_source

    folder = Path(out).expanduser().resolve()
    check_target(
        folder,
        kind="bundle",
        file_names=BUNDLE_FILES,
        replaces_own=False,
        overwrite=overwrite,
    )
    found = describe_source(source, progress=progress)
    _check_classifier(found)
    notes: list[str] = []
    class_names = _class_names(found, classes, notes)
    network, lines = _load(found, model, image_size)
    spec = _preprocessing(found, network, notes)
    provenance = {
        "imported": {
            "source": found.source,
            "format": found.format,
            "licence": found.licence,
            "sha256": found.sha256,
            "notes": list(notes),
        }
    }
    bundle = Bundle(
        model_config=network.config,
        class_names=class_names,
        preprocessing=spec,
        state_dict=network.state_dict(),
        provenance=provenance,
    )
    save_bundle(folder, bundle)
    return Imported(
        run=Run(folder), source=found.describe(), lines=tuple(lines), notes=tuple(notes)
    )


def _check_classifier(found: WeightSource) -> None:
    if found.num_classes is None:
        raise ModelFileError(
            "NO_HEAD",
            printable(found.source),
            "these weights have no class head, so they classify nothing yet",
            f"train one: `deitkit train data=photos/ init={printable(found.source)}`",
        )
    if {"schema", "class_names", "fusion"} <= found.config.keys():
        raise ConfigError(
            "BUNDLE",
            printable(found.source),
            "is a bundle already",
            "use it as it is: `deitkit evaluate`, `deitkit predict`, teacher=",
        )


# Class names.


def _class_names(
    found: WeightSource, classes: str | Path | Sequence[str] | None, notes: list[str]
) -> tuple[str, ...]:
    """One different name for each class. Raises ConfigError CLASSES."""
    if classes is None:
        if found.class_names is None:
            raise _bad_classes(
                found.source,
                f"it does not say what its {found.num_classes:,} classes are",
                f"give classes=names.txt with {found.num_classes:,} lines in their order, or a "
                "folder of images in such classes",
            )
        names = _told_apart(found.class_names, notes)
    else:
        names = _read_names(classes)
        if found.class_names is not None and names != found.class_names:
            notes.append("class names: those of classes=, not the source's own")
    if len(names) != found.num_classes:
        where = classes if isinstance(classes, (str, os.PathLike)) else found.source
        raise _bad_classes(
            where,
            f"{len(names):,} classes have names, the weights have {found.num_classes:,}",
            f"give {found.num_classes:,} names in the order of the classes",
        )
    twice, count = Counter(names).most_common(1)[0]
    if count > 1:
        raise _bad_classes(
            found.source,
            f"{count} classes are called {printable(twice[:80])}",
            "give every class a name of its own with classes=",
        )
    return names


def _told_apart(names: Sequence[str], notes: list[str]) -> tuple[str, ...]:
    """Names that several classes share get their numbers: ImageNet has two kinds of crane."""
    counts = Counter(names)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if shared:
        notes.append(
            "class names that several classes share carry the class number now: "
            + ", ".join(map(printable, shared[:10]))
        )
    return tuple(
        f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)
    )


def _read_names(classes: str | Path | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(classes, (str, os.PathLike)):
        return tuple(str(name) for name in classes)
    path = Path(classes).expanduser()
    if path.suffix.lower() != ".txt":
        splits = resolve_source(path).splits
        listed = next(splits[name] for name in ("train", *splits) if name in splits)
        return listed().class_names
    try:
        names = read_class_names(path)
    except UnicodeDecodeError as error:
        raise _bad_classes(path, f"is no UTF-8 text ({error})", "save it as UTF-8") from error
    if names is None:
        why = "holds no names" if path.exists() else "does not exist"
        raise _bad_classes(path, why, "give a text file with one class name a line")
    return names


def _bad_classes(subject: object, why: str, do: str) -> ConfigError:
    return ConfigError("CLASSES", printable(str(subject)), why, do)


# The network.


def _load(
    found: WeightSource, name: str | None, image_size: int | Sequence[int] | None
) -> tuple[ImageModel, list[str]]:
    """The model with the source's weights, all of them, and what became of each."""
    import torch

    from deitkit.models import create_model
    from deitkit.models.adapt import INPUT_KEYS, start_from

    if name is None:
        arguments: dict[str, Any] = found.architecture
        if "image_size" not in arguments and found.preprocessing is not None:
            arguments["image_size"] = found.preprocessing.image_size
    else:
        arguments = {"name": name, "num_classes": found.num_classes}
        reading = next((found.tensors[key] for key in INPUT_KEYS if key in found.tensors), None)
        if reading is not None and reading.ndim == 4:
            arguments["in_channels"] = reading.shape[1]
    if image_size is not None:
        arguments["image_size"] = image_size
    with torch.random.fork_rng(devices=[]):
        model = create_model(**arguments)
    report = start_from(model, found, new_head=False)
    if report.missing:
        raise ModelFileError(
            "MISMATCH",
            printable(found.source),
            f"it lacks {len(report.missing)} tensors of {arguments['name']}: "
            + ", ".join(report.missing[:10]),
            "leave model= out, or name the model that these weights are of",
        )
    return model.eval(), report.lines()


# Preprocessing.


def _preprocessing(found: WeightSource, model: ImageModel, notes: list[str]) -> Preprocessing:
    """What the source says; else what is usual, and a note that says so."""
    known = found.preprocessing
    if known is None:
        mean, std = _usual_levels(model.in_channels)
        notes.append(
            "preprocessing is not stored with these weights; assumed: the shorter side resized "
            f"and the middle {USUAL_CROP_RATIO:.1%} kept, mean {mean}, deviation {std}"
        )
        return Preprocessing(
            image_size=model.image_size,
            crop_ratio=USUAL_CROP_RATIO,
            channels=model.in_channels,
            mean=mean,
            std=std,
        )
    if known.filter not in (None, "bicubic"):
        notes.append(f"images are resized bicubically here, {known.filter} by the source")
    if known.image_size != model.image_size:
        seen, made = ("x".join(map(str, size)) for size in (known.image_size, model.image_size))
        notes.append(f"images are made {made} pixels, {seen} by the source")
    return Preprocessing(
        image_size=model.image_size,
        resize=known.resize,
        crop_ratio=known.crop_ratio,
        channels=model.in_channels,
        mean=known.mean,
        std=known.std,
    )


def _usual_levels(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    from deitkit.training.start import PUBLIC_MEAN, PUBLIC_STD

    if channels == 3:
        return PUBLIC_MEAN, PUBLIC_STD
    if channels == 1:
        return (round(sum(PUBLIC_MEAN) / 3, 3),), (round(sum(PUBLIC_STD) / 3, 3),)
    return (0.5,) * channels, (0.5,) * channels
