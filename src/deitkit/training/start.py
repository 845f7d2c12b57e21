"""Where a student's weights begin: with chance, in an earlier run, or in a public DeiT."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from deitkit.artifacts.bundle import bundle_digest, has_bundle, load_bundle
from deitkit.errors import DeitkitError
from deitkit.models import ImageModel, WeightReport, family_of, start_from
from deitkit.models.weight_source import WeightSource, describe_source

Progress = Callable[[str, int, int | None], None]

SCRATCH = "scratch"
PUBLIC_MEAN, PUBLIC_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet: what nearly all public weights expect their images normalised with."""
_PUBLIC_NAME = re.compile(r"deit_(tiny|small|base)(_distilled)?_patch16_\d+")


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """Trained weights that a student begins with, and what is known of them."""

    asked: str
    """A run or bundle folder, a weights file or folder, hf:owner/name, timm:name."""
    said: str
    """One line: what, from where, under which licence."""
    source: WeightSource
    architecture: Mapping[str, Any]
    """Arguments of `create_model`, its name included."""
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    digest: str

    def put_into(
        self, model: ImageModel, *, class_names: tuple[str, ...], dist_token_from_cls: bool
    ) -> WeightReport:
        """Give `model` these weights; the head too where its classes are the same ones."""
        return start_from(
            model,
            self.source,
            # A head whose classes nobody names would be a guess.
            new_head=True if self.source.class_names is None else None,
            class_names=class_names,
            dist_token_from_cls=dist_token_from_cls,
            source_image_size=self.image_size,
        )

    @property
    def shape(self) -> dict[str, Any]:
        """Its arguments with those that its name stands for."""
        return {**family_of(self.architecture["name"])[1], **self.architecture}

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels, that the weights were trained for."""
        size = self.architecture["image_size"]
        return (size, size) if isinstance(size, int) else (size[0], size[1])


def open_start(asked: str, *, progress: Progress | None = None) -> Start:
    """Read the weights that `model.init` names.

    Raises:
        ModelFileError: as `load_bundle` and `describe_source`.
        ConfigError: a name of a hub that cannot be.
    """
    if has_bundle(asked):
        bundle = load_bundle(asked)
        known = describe_source(bundle.state_dict, model_keys=bundle.state_dict.keys())
        names = tuple(bundle.class_names)
        return Start(
            asked=asked,
            said=f"the weights of {asked}, trained on {len(names)} classes",
            source=replace(known, source=asked, format="deitkit", class_names=names),
            architecture=bundle.model_config,
            mean=bundle.preprocessing.mean,
            std=bundle.preprocessing.std,
            digest=bundle_digest(asked),
        )
    source = describe_source(asked, progress=progress)
    prepared = source.preprocessing
    return Start(
        asked=asked,
        said=source.describe(),
        source=source,
        architecture=source.architecture,
        mean=None if prepared is None else prepared.mean,
        std=None if prepared is None else prepared.std,
        digest=source.sha256 or "none",
    )


def find_start(
    asked: str | None,
    *,
    model_name: str | None,
    has_teacher: bool,
    photographs: bool,
    device_type: str,
    progress: Progress | None = None,
) -> tuple[Start | None, str]:
    """The start of a new run and the reason for it; None is from scratch.

    Where nothing was `asked` (None), a public DeiT is looked for, in the cache and then on the
    network: if the images are `photographs` in colour and the model, where one is named, is of a
    shape that has public weights.
    """
    if asked == SCRATCH:
        return None, "asked for"
    if asked is not None:
        start = open_start(asked, progress=progress)
        return start, start.said
    if not photographs:
        return None, "small or grey images; public weights are made for photographs"
    size, token = ("tiny" if device_type == "cpu" else "small"), "_distilled" if has_teacher else ""
    if model_name is not None:
        match = _PUBLIC_NAME.fullmatch(model_name)
        if match is None:
            return None, f"{model_name} has no public weights"
        size, token = match[1], match[2] or ""
    name = f"timm:deit_{size}{token}_patch16_224"
    try:
        start = open_start(name, progress=progress)
    except DeitkitError as error:
        return None, f"no trained DeiT could be had ({error.why}); init= names one"
    return start, start.said
