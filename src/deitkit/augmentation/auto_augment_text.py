"""The text that names a policy: `none`, `trivial`, RandAugment in timm's spelling and so on."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from deitkit.errors import ConfigError

FIXED_POLICIES = ("none", "autoaugment", "3augment", "trivial")
MOST_MAGNITUDE = 10

_MOST_OPS = 16
_UNIFORM_ABOVE = 100.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RandAugment:
    """What a text like `rand-m9-mstd0.5-inc1` says. The parts may stand in any order."""

    magnitude: int = 10
    """m: strength of the operations, 0 to 10."""
    magnitude_std: float = 0.0
    """mstd: spread of the magnitude, drawn anew for each operation and clipped to 0 to 10;
    infinite for uniform from 0 to `magnitude`."""
    num_ops: int = 2
    """n: operations drawn for each image, with replacement."""
    prob: float = 0.5
    """p: chance that a drawn operation is applied."""
    increasing: bool = False
    """inc: whether every operation gets stronger with the magnitude."""


def read_rand_augment(text: str) -> RandAugment | None:
    """Read the text of a policy; None for those without numbers.

    As in timm, a spread above 100 means uniform magnitudes, and without inc1 posterize, solarize
    and the enhancements keep the scales of the first implementations, where magnitude 0 of a
    colour factor is 0.1.
    Deviation: unknown and repeated parts, and numbers out of range, are refused.

    Raises:
        ConfigError: BAD_VIEWS, it is neither a fixed policy nor one of RandAugment.
    """
    if text in FIXED_POLICIES:
        return None
    first, *parts = text.split("-")
    if first != "rand":
        raise _refused(text, "is no policy")
    numbers: dict[str, str] = {}
    for part in parts:
        found = re.fullmatch(r"(mstd|inc|m|n|p)(\d+(?:\.\d+)?)", part, re.ASCII)
        if found is None or found[1] in numbers:
            raise _refused(text, f"does not know the part {part!r} here")
        numbers[found[1]] = found[2]
    for letters, most in (("m", MOST_MAGNITUDE), ("n", _MOST_OPS), ("inc", 1), ("p", 1)):
        number = numbers.get(letters, "0")
        if (letters != "p" and not number.isdigit()) or float(number) > most:
            raise _refused(text, f"has {letters}{number}, which is out of range")
    std = float(numbers.get("mstd", "0"))
    num_ops = int(numbers.get("n", "2"))
    if num_ops == 0:
        raise _refused(text, "has n0, which is out of range")
    return RandAugment(
        magnitude=int(numbers.get("m", "10")),
        magnitude_std=math.inf if std > _UNIFORM_ABOVE else std,
        num_ops=num_ops,
        prob=float(numbers.get("p", "0.5")),
        increasing=numbers.get("inc", "0") == "1",
    )


def at_strength(text: str, strength: float) -> str:
    """The policy with RandAugment's magnitude times `strength`, to the nearest whole one.

    Only magnitudes that grow with the strength (inc1) have gentler ones below them; every other
    policy stays as it is.
    """
    policy = read_rand_augment(text)
    if policy is None or not policy.increasing:
        return text
    first, *parts = text.split("-")
    others = [part for part in parts if not re.fullmatch(r"m\d+", part, re.ASCII)]
    return "-".join([first, f"m{math.floor(policy.magnitude * strength + 0.5)}", *others])


def _refused(text: str, why: str) -> ConfigError:
    return ConfigError(
        "BAD_VIEWS",
        "views",
        f"auto_augment={text!r} {why}",
        f"choose one of {', '.join(FIXED_POLICIES)}, or rand with any of m0 to m10 (magnitude), "
        f"mstd (its spread), n1 to n{_MOST_OPS} (operations for each image), p0 to p1 (chance of "
        "each) and inc1 (stronger with the magnitude), as in rand-m9-mstd0.5-inc1",
    )
