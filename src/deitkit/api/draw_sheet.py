"""Views of the user's pictures, drawn as training would draw them, before one trains for a day."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from deitkit.augmentation import ViewPolicy, draw_views, epoch_order
from deitkit.config import AUTO, RunConfig, build_config, canonical_name, flatten
from deitkit.config.recipes import read_recipe
from deitkit.data import DecodeFault, DecodePolicy, decode, list_encoded, printable
from deitkit.data.image_set import sample_ids_of
from deitkit.data.scan import digest_of
from deitkit.errors import ConfigError, DataError
from deitkit.reporting import contact_sheet
from deitkit.reporting.contact_sheet import DrawnView, describe_views, show_views

LONG_RUN: dict[str, Any] = {
    "crop": "random_resized",
    "scale": (0.08, 1.0),
    "padding": 0.125,
    "flip": 0.5,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
    "mix_prob": 1.0,
}
"""What train chooses for photographs where it has hundreds of epochs: the paper's views."""
DEFAULT_SIZE = (224, 224)
MAX_COUNT = 400
NUM_ORIGINALS = 6
SHOWN_SETTINGS = ("data.image_size", "data.channels", "data.background", "data.max_pixels")
"""What, besides the section views, changes what a sheet shows."""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A contact sheet, and the parameters of each view on it."""

    image: Image.Image
    views: tuple[DrawnView, ...]
    notes: tuple[str, ...]
    """What the reader should know."""


class _Picture(NamedTuple):
    name: str
    pixels_HWC: np.ndarray
    sample_id: np.uint64


def draw_sheet(
    pictures: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    recipe: str | None = None,
    count: int = 24,
    seed: int = 0,
    image_size: Any = None,
    **settings: Any,
) -> Sheet:
    """Draw `count` views of pictures (files or folders), epoch after epoch, as training would.

    A training with this seed on these pictures alone, each shown once an epoch, draws the very same
    views. Of a folder with train/, that is shown; more pictures than `count` are taken from all of
    the listing evenly. Without `recipe` (a name or file) the views are the paper's; `settings` are
    those of the section views, by dotted name. Erased boxes and uncovered corners have the mean
    colour and spread of these pictures.

    Raises:
        ConfigError: settings that cannot be right, or that change nothing here.
        DataError: BAD_IMAGE for a picture that cannot be read.
    """
    if not 1 <= count <= MAX_COUNT:
        raise ConfigError("BAD_VALUE", "count", f"got {count}", f"give 1 to {MAX_COUNT}")
    given = {"image_size": image_size, **settings}
    config = _read_config(recipe, {k: v for k, v in given.items() if v is not None})
    policy = _policy(config)
    size = config.data.image_size
    size = DEFAULT_SIZE if size == AUTO else (size, size) if isinstance(size, int) else size
    decoding = DecodePolicy(
        channels=config.data.channels,
        background=config.data.background,
        max_pixels=config.data.max_pixels,
    )
    loaded, notes = _load(pictures, decoding, count)
    if len(loaded) == 1 and (policy.mixup or policy.cutmix):
        notes.append("one picture has no partner, so nothing is mixed; name two or more to see it")
    mean_C, spread_C = _statistics(loaded)
    ids = np.array([picture.sample_id for picture in loaded], dtype=np.uint64)
    drawn: list[tuple[DrawnView, np.ndarray]] = []
    epoch = 0
    while len(drawn) < count:
        ordered = [loaded[k] for k in epoch_order(seed, epoch, ids)]
        views = draw_views(
            policy,
            view_seed=seed,
            epoch=epoch,
            sample_ids_B=np.array([picture.sample_id for picture in ordered], dtype=np.uint64),
            sizes_B2=np.array([picture.pixels_HWC.shape[:2] for picture in ordered]),
            aspect=size[1] / size[0],
        )
        shown = show_views(
            [picture.pixels_HWC for picture in ordered],
            views,
            size,
            mean=mean_C.tolist(),
            std=spread_C.tolist(),
            erasing_fill=config.views.erasing_fill,
        )
        names = [picture.name for picture in ordered]
        drawn += zip(describe_views(views, names, size), shown, strict=True)
        epoch += 1
    drawn = drawn[:count]
    originals = [(picture.name, picture.pixels_HWC) for picture in loaded[:NUM_ORIGINALS]]
    return Sheet(
        image=contact_sheet.draw_sheet(originals, drawn),
        views=tuple(view for view, _ in drawn),
        notes=tuple(notes),
    )


def _read_config(recipe: str | None, given: Mapping[str, Any]) -> RunConfig:
    """The recipe's settings with the given ones on top, which must change what is shown."""
    base = build_config(read_recipe(recipe) if recipe is not None else {})
    known = flatten(base)
    for name in given:
        full = canonical_name(name, known)
        if full == "views.repeats":
            raise ConfigError(
                "NO_VIEW",
                name,
                "says how often a picture is drawn in an epoch, not how",
                "leave it out; count= draws more views",
            )
        if not full.startswith("views.") and full not in SHOWN_SETTINGS:
            raise ConfigError(
                "NO_VIEW", name, "changes no view", "give settings of the section views"
            )
    return build_config(given, base=base)


def _policy(config: RunConfig) -> ViewPolicy:
    """The policy of a config; what it leaves to train is as in a long run on photographs."""
    values = {field.name: getattr(config.views, field.name) for field in fields(ViewPolicy)}
    return ViewPolicy(**{k: LONG_RUN[k] if v == AUTO else v for k, v in values.items()})


def _statistics(pictures: Sequence[_Picture]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, 0 to 1; every picture counts the same."""
    planes = [picture.pixels_HWC.reshape(-1, picture.pixels_HWC.shape[2]) for picture in pictures]
    mean_C = np.mean([plane.mean(axis=0) for plane in planes], axis=0)
    square_C = np.mean([plane.var(axis=0) + plane.mean(axis=0) ** 2 for plane in planes], axis=0)
    return mean_C / 255, np.sqrt(np.maximum(square_C - mean_C**2, 0.0)) / 255


def _load(pictures: Any, policy: DecodePolicy, count: int) -> tuple[list[_Picture], list[str]]:
    """Up to `count` pictures with the ids that training gives them, and what was left out."""
    if isinstance(pictures, str | os.PathLike):
        training = Path(pictures).expanduser() / "train"
        pictures = training if training.is_dir() else pictures
    found = list(list_encoded(pictures))
    # Evenly over the listing, which goes class by class.
    taken = np.unique(np.linspace(0, len(found) - 1, min(count, len(found))).round().astype(int))
    shown = [Path(found[i][0]) for i in taken]
    twice = len({path.name for path in shown}) < len(shown)
    twice |= len({path.parent for path in shown}) > 1
    loaded = []
    for path, place in zip(shown, taken, strict=True):
        try:
            raw = found[place][1]()
            pixels_HWC = decode(raw, policy)
        except DecodeFault as fault:
            raise DataError(
                "BAD_IMAGE", printable(path), str(fault), "mend it, or name other pictures"
            ) from fault
        digest = np.frombuffer(digest_of(raw, pixels_HWC), dtype=np.uint8)
        sample_id = sample_ids_of(digest[None])[0]
        name = f"{path.parent.name}/{path.name}" if twice else path.name
        loaded.append(_Picture(name, pixels_HWC, sample_id))
    more = len(found) - len(loaded)
    notes = [f"pictures that are not shown: {more:,}; count= shows more"] if more else []
    return loaded, notes
