"""Any network that tells classes of images apart, behind one face: normalised images -> logits."""

# Shapes: B images, C channels, H height, W width, D features, T classes of the teacher, K the
# user's classes.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.errors import ConfigError, ModelFileError
from deitkit.teachers.digests import teacher_digest
from deitkit.teachers.head_inputs import HeadInputs
from deitkit.teachers.outputs import Ask, are_probabilities, bad_output, fused_logits

RESIZES = ("shorter", "squash")


@dataclass(frozen=True, kw_only=True, eq=False)
class Classifier:
    """A frozen classifier and all that must be known to ask it."""

    name: str
    """As it was asked for."""
    call: Ask
    """Normalised images -> logits [B, T]."""
    features: Ask | None
    """Normalised images -> [B, D], what its own head reads; None where nobody can look inside."""
    num_classes: int
    """T."""
    image_size: tuple[int, int]
    """Height and width, in pixels, that it reads."""
    mean: tuple[float, ...]
    """Per channel, in levels of 0 to 1."""
    std: tuple[float, ...]
    """Per channel, in levels of 0 to 1."""
    digest: str
    """Of weights, architecture, preprocessing and `digests.SCHEMA`, in hex; of name and version
    where the weights cannot be seen."""
    device: torch.device
    """Where `call` and `features` expect their images."""
    crop_ratio: float = 1.0
    """Model's side over the resized side of a clean image, above 0 to 1; views are not cropped."""
    resize: str = "shorter"
    """Of a clean image: shorter keeps its shape and crops, squash keeps everything."""
    class_names: tuple[str, ...] | None = None
    """By class index; None where nobody says."""
    num_params: int | None = None
    module: nn.Module | None = None
    """The network, where it is one of torch's."""
    notes: tuple[str, ...] = ()
    """What was assumed, a sentence each."""

    def __post_init__(self) -> None:
        _check_preprocessing(self)
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ModelFileError(
                "TEACHER_CLASSES",
                self.name,
                f"{len(self.class_names):,} classes have names, it gives {self.num_classes:,} "
                "logits",
                "name every class it knows, in its order",
            )

    @classmethod
    def from_callable(
        cls,
        ask: Callable[[Tensor], Any],
        *,
        name: str,
        version: str,
        image_size: int | tuple[int, int],
        mean: Sequence[float],
        std: Sequence[float],
        class_names: Sequence[str] | None = None,
        features: Ask | None = None,
        crop_ratio: float = 1.0,
        resize: str = "shorter",
        device: torch.device | str | None = None,
    ) -> Classifier:
        """Make a teacher of a module or function of yours: normalised images in, logits out.

        A module is put into evaluation mode, its parameters need no gradient from here on, and
        it stays on its device. `name` and `version` stand for what the digest cannot see: all of a
        function, the forward code of a module. Raise the version when that changes, or stored
        logits of the old one are replayed. A function expects its images on `device` (the CPU).
        Three images of noise are shown to it, two at a time.

        Raises:
            ConfigError: TEACHER_NAME without name or version; TEACHER_PREPROCESSING.
            ModelFileError: TEACHER_OUTPUT for anything but finite logits [B, T], or an answer that
                changes with the other images of the batch; TEACHER_CLASSES.
        """
        if not name or not version:
            raise ConfigError(
                "TEACHER_NAME",
                name or "teacher",
                "a teacher from Python has no file to tell it by",
                "give a name and a version, and another version when it changes",
            )
        size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        module = ask if isinstance(ask, nn.Module) else None
        if module is not None:
            module.eval().requires_grad_(False)
        place = torch.device(device) if device is not None else _device_of(module)

        def call(images_BCHW: Tensor) -> Tensor:
            return fused_logits(ask(images_BCHW))

        settings = {"name": name, "version": version, "crop_ratio": crop_ratio, "resize": resize}
        settings |= {"image_size": size, "mean": tuple(mean), "std": tuple(std)}
        num_classes = _probe(name, call, size, len(mean), place)
        if features is None and module is not None:
            features = HeadInputs(module, call, num_classes=num_classes)
        return cls(
            name=name,
            call=call,
            features=features,
            num_classes=num_classes,
            image_size=(size[0], size[1]),
            mean=tuple(mean),
            std=tuple(std),
            digest=teacher_digest("python", settings, module=module),
            device=place,
            crop_ratio=crop_ratio,
            resize=resize,
            class_names=None if class_names is None else tuple(class_names),
            num_params=None if module is None else num_params(module),
            module=module,
        )

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        *,
        kind: str,
        settings: Mapping[str, Any],
        call: Ask | None = None,
        features: Ask | None = None,
        num_classes: int,
        device: torch.device,
        **rest: Any,
    ) -> Classifier:
        """A torch network of known origin, frozen here and moved to `device`.

        `kind` and `settings` (as JSON) go into the digest, beside the weights and the
        preprocessing in `rest`, which are the dataclass's own fields. A network of convolutions
        computes with the channels of a pixel side by side: faster, and other last bits.
        """
        module.to(device).eval().requires_grad_(False)
        if lay_out(module):
            settings = {**settings, "layout": "channels_last"}
        ask: Ask = call or (lambda images_BCHW: fused_logits(module(images_BCHW)))
        seen = ("image_size", "mean", "std", "crop_ratio", "resize")
        described = {**settings, **{name: rest[name] for name in seen if name in rest}}
        return cls(
            call=ask,
            features=features or HeadInputs(module, ask, num_classes=num_classes),
            num_classes=num_classes,
            digest=teacher_digest(kind, described, module=module),
            device=device,
            num_params=num_params(module),
            module=module,
            **rest,
        )

    @property
    def channels(self) -> int:
        return len(self.mean)

    def embed(self, images_BCHW: Tensor) -> Tensor:
        """[B, D] that a new head can be fitted on: its features, else its logits."""
        return (self.features or self.call)(images_BCHW)

    def on(self, device: torch.device) -> Classifier:
        """The same on `device`, if it is a network of torch's; another keeps its place."""
        if self.module is None or device == self.device:
            return self
        self.module.to(device)
        return replace(self, device=device)

    def with_head(
        self, weight_KD: Tensor, bias_K: Tensor, *, class_names: Sequence[str]
    ) -> Classifier:
        """The same network with a linear head of the user's classes on what `embed` gives."""

        def call(images_BCHW: Tensor) -> Tensor:
            features_BD = self.embed(images_BCHW).float()
            return F.linear(features_BD, *(t.to(features_BD) for t in (weight_KD, bias_K)))

        own = {"weight": weight_KD.float(), "bias": bias_K.float()}
        return replace(
            self,
            call=call,
            num_classes=len(weight_KD),
            class_names=tuple(class_names),
            digest=teacher_digest("refitted", {"body": self.digest}, tensors=own),
            notes=(*self.notes, f"a head of {len(weight_KD):,} classes was fitted on it"),
        )

    def check_frozen(self) -> None:
        """Batch-norm statistics move in training mode, with or without a gradient."""
        if self.module is not None and any(part.training for part in self.module.modules()):
            raise AssertionError("the teacher was put into training mode")


def lay_out(module: nn.Module) -> bool:
    """Put the channels of a pixel side by side where convolutions and batch norms, and not only a
    cut into patches, make up a network; whether it is one.

    Torch's convolutions answer in the order of their weights, whatever the images have. On a CPU
    that is up to 1.6 times as fast in training; what they compute differs in its last bits.
    """
    if not any(isinstance(part, nn.BatchNorm2d) for part in module.modules()):
        return False
    # The stubs of Module.to have no memory_format by itself; its documentation has.
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return True


def num_params(module: nn.Module) -> int:
    """Parameters, each counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _device_of(module: nn.Module | None) -> torch.device:
    tensor = None if module is None else next(module.parameters(), None)
    return torch.device("cpu") if tensor is None else tensor.device


@torch.no_grad()
def _probe(name: str, call: Ask, size: tuple[int, ...], channels: int, device: torch.device) -> int:
    """T, once the answers prove to be logits that depend on the image alone.

    An image is shown beside two others: dropout or a batch norm left in training mode, which no
    one can see in a function, change its answer.
    """
    chance = torch.Generator().manual_seed(0)
    images = torch.randn((3, channels, size[0], size[1]), generator=chance).to(device)
    first, second = call(images[:2].clone()), call(images[1:].clone())
    for logits in (first, second):
        if logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
            raise bad_output(name, f"it gives {list(logits.shape)} for 2 images")
        if not bool(torch.isfinite(logits).all()):
            raise bad_output(name, "it gives NaN or infinity")
        if are_probabilities(logits):
            raise bad_output(name, "it gives probabilities; leave its softmax out, or take the log")
    apart = float((first[1] - second[0]).abs().max())
    if first.shape != second.shape or apart > 0.01 * float(first.abs().max()) + 1e-6:
        raise ModelFileError(
            "TEACHER_OUTPUT",
            name,
            "its answer for an image changes with the other images of the batch or from call to "
            "call",
            "put it into evaluation mode: dropout off, batch norm with its own statistics",
        )
    return int(first.shape[1])


def _check_preprocessing(found: Classifier) -> None:
    faults = []
    if len(found.mean) != len(found.std) or not found.mean:
        faults.append(f"mean has {len(found.mean)} numbers and std {len(found.std)}")
    if not all(math.isfinite(v) for v in (*found.mean, *found.std)) or min(found.std) <= 0:
        faults.append(f"mean {found.mean} and std {found.std} must be finite, std above 0")
    if len(found.image_size) != 2 or min(found.image_size) < 1:
        faults.append(f"image_size is {found.image_size}")
    if not 0 < found.crop_ratio <= 1:
        faults.append(f"crop_ratio is {found.crop_ratio}, not above 0 and up to 1")
    if found.resize not in RESIZES:
        faults.append(f"resize is {found.resize!r}, not {' or '.join(RESIZES)}")
    if faults:
        raise ConfigError(
            "TEACHER_PREPROCESSING", found.name, "; ".join(faults), "give what it was trained with"
        )
