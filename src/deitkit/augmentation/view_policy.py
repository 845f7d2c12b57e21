"""What chance may do to a training image: the settings that views are drawn by."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from deitkit.augmentation.auto_augment_text import at_strength, read_rand_augment
from deitkit.augmentation.op_codes import OP_CODES
from deitkit.errors import ConfigError

_CROPS = ("random_resized", "padded", "none")


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewPolicy:
    """What chance may do. Raises ConfigError [BAD_VIEWS] for values outside their range."""

    crop: str = "random_resized"
    """random_resized: a box of random area and shape; padded: the centred box of the output's
    shape, moved by some pixels; none: that box unmoved."""
    scale: tuple[float, float] = (0.08, 1.0)
    """Share of the source's area a random resized box covers, least and most."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of a random resized box, in source pixels, relative to the output's."""
    padding: float = 0.125
    """Share of each side by which a padded box moves at most: 4 pixels of 32."""
    flip: float = 0.5
    """Chance of a left-right flip."""
    mixup: float = 0.0
    """Mixup's Beta parameter, 0 for none."""
    cutmix: float = 0.0
    """CutMix's Beta parameter, 0 for none."""
    mix_prob: float = 1.0
    """Chance that a pair is mixed at all."""
    switch_prob: float = 0.5
    """Chance of CutMix rather than Mixup where both are on."""

    auto_augment: str = "none"
    """none, autoaugment, 3augment, trivial, or RandAugment as in rand-m9-mstd0.5-inc1."""
    rand_ops: tuple[str, ...] = ()
    """Names of the operations that RandAugment draws from; empty for timm's 15."""
    color_jitter: float = 0.0
    """How far brightness, contrast and saturation factors may lie from 1, 0 for no jitter."""
    erasing: float = 0.0
    """Chance that a box of the image is erased."""
    erasing_scale: tuple[float, float] = (0.02, 1 / 3)
    """Share of the output's area an erased box covers, least and most."""
    erasing_ratio: tuple[float, float] = (0.3, 1 / 0.3)
    """Height over width of an erased box, in pixels."""

    def __post_init__(self) -> None:
        alphas = (self.mixup, self.cutmix)
        unknown = [name for name in self.rand_ops if name not in OP_CODES]
        wrong = {
            f"crop={self.crop!r} (one of {', '.join(_CROPS)})": self.crop not in _CROPS,
            f"padding={self.padding} (0 to 1)": not 0.0 <= self.padding <= 1.0,
            f"mixup={self.mixup}, cutmix={self.cutmix} (0 or above)": not all(
                0.0 <= alpha < math.inf for alpha in alphas
            ),
            f"color_jitter={self.color_jitter} (0 or above)": not (
                0.0 <= self.color_jitter < math.inf
            ),
            f"rand_ops={unknown} (out of {', '.join(OP_CODES)})": bool(unknown),
        }
        for name in ("scale", "erasing_scale"):
            low, high = getattr(self, name)
            wrong[f"{name}={(low, high)} (0 < least <= most <= 1)"] = not 0.0 < low <= high <= 1.0
        for name in ("ratio", "erasing_ratio"):
            low, high = getattr(self, name)
            wrong[f"{name}={(low, high)} (0 < least <= most)"] = not 0.0 < low <= high < math.inf
        for name in ("flip", "mix_prob", "switch_prob", "erasing"):
            value = getattr(self, name)
            wrong[f"{name}={value} (0 to 1)"] = not 0.0 <= value <= 1.0
        for found, is_wrong in wrong.items():
            if is_wrong:
                raise ConfigError(
                    "BAD_VIEWS", "views", f"{found} is out of range", "choose a value inside it"
                )
        read_rand_augment(self.auto_augment)

    def at_strength(self, strength: float) -> ViewPolicy:
        """The same, at a share of its strength: RandAugment's magnitude (with inc1), the range of
        the colour jitter, and the chances of erasing and mixing, times `strength`. What is cut out
        and mirrored stays."""
        return replace(
            self,
            auto_augment=at_strength(self.auto_augment, strength),
            color_jitter=self.color_jitter * strength,
            erasing=self.erasing * strength,
            mix_prob=self.mix_prob * strength,
        )
