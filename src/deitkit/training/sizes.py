"""The size of the images in each step: small at first, full at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deitkit.errors import ConfigError

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SizePhases:
    """Equal parts of a run, each at one size.

    Growing sizes cost less and end in the same place: Tan and Le 2021, EfficientNetV2,
    arXiv:2104.00298, section 4; Touvron et al. 2022, DeiT III, arXiv:2204.07118, section 3, train
    at 192 pixels for 224. A view is drawn in shares of its picture, so it is the same at every
    size, and what a teacher said of it stays true.
    """

    sizes: tuple[Size, ...]
    total_steps: int = 1

    @property
    def last(self) -> Size:
        """The size that the model is measured and used at."""
        return self.sizes[-1]

    def at(self, step: int) -> Size:
        """The size of step `step`, counted from 0; after the end the last one."""
        phase = step * len(self.sizes) // max(1, self.total_steps)
        return self.sizes[min(phase, len(self.sizes) - 1)]


def one_size(size: Size) -> SizePhases:
    """The same size from beginning to end."""
    return SizePhases(sizes=(size,))


def build_phases(
    sides: Sequence[int], *, image_size: Size, patch_size: int | None, total_steps: int
) -> SizePhases:
    """Phases of square images of these sides; none: `image_size` from beginning to end.

    Raises:
        ConfigError: SIZES, sides that do not grow, do not end at `image_size`, that patches do not
            divide, or for a network without patches.
    """
    if not sides:
        return one_size(image_size)
    shown = ",".join(map(str, sides))
    height, width = image_size
    why, do = "", ""
    if patch_size is None:
        why, do = "only transformers read images of several sizes", "leave schedule.sizes out"
    elif any(side < 1 or side % patch_size for side in sides):
        why, do = f"patches of {patch_size} pixels do not divide them", "give multiples of that"
    elif list(sides) != sorted(set(sides)):
        why, do = "they do not grow", "give the smallest first"
    elif height != width or sides[-1] != height:
        why = f"the last is not the image size, {height}x{width}"
        do = f"end with {height}, or set image_size={sides[-1]}"
    if why:
        raise ConfigError("SIZES", f"schedule.sizes={shown}", why, do)
    return SizePhases(sizes=tuple((side, side) for side in sides), total_steps=total_steps)
