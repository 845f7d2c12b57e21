"""Which operations a view applies, and how strongly: RandAugment, AutoAugment and the others.

A policy is named by a text, see `auto_augment_text`. Each draws codes and physical parameters as
`op_codes` defines them; an operation that chance leaves out is code 0.
"""

# Shapes: B images, L operations in a row for each.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from deitkit.augmentation.auto_augment_text import MOST_MAGNITUDE, RandAugment, read_rand_augment
from deitkit.augmentation.autoaugment_policy import SUB_POLICIES
from deitkit.augmentation.draws import Key, normal, uniform
from deitkit.augmentation.op_codes import OP_CODES, OP_NAMES

Floats = NDArray[np.float64]
Drawn = tuple[NDArray[np.int8], NDArray[np.float32]]
"""Codes and parameters: [B, L] each."""
Ranges = Mapping[str, Callable[[Floats, Floats], Floats]]
"""For each operation with a parameter: (strength 0 to 1, sign -1 or 1) to parameter."""

RAND_OPS = OP_NAMES[OP_CODES["autocontrast"] : OP_CODES["translate_y"] + 1]
"""What RandAugment draws from where nothing else is said: timm's 15."""

_PAPER_SIDE = 224
"""Published strengths in pixels are for this side; as shares of it they hold at any."""
_JITTERED = ("brightness", "contrast", "color")
_THREE = ("grayscale", "solarize", "blur")
_TRIVIAL_OPS = ("none", *(name for name in RAND_OPS if name not in ("invert", "solarize_add")))
_TRIVIAL_STRENGTHS = 31


def draw_operations(
    auto_augment: str,
    *key: Key,
    num_images: int,
    rand_ops: Sequence[str] = (),
    color_jitter: float = 0.0,
) -> Drawn:
    """Draw the operations of each image: codes int8 and parameters float32, [B, L] each.

    `key` ends in one part of `num_images` ids. L is fixed by the policy: RandAugment's number of
    draws, 2 for AutoAugment, 1 for 3-Augment and TrivialAugment, and 3 more for a colour jitter.
    """
    drawn: list[tuple[NDArray[np.integer], Floats]] = []
    rand_augment = read_rand_augment(auto_augment)
    if rand_augment is not None:
        drawn.append(_draw_rand_augment(rand_augment, rand_ops or RAND_OPS, *key))
    elif auto_augment == "autoaugment":
        drawn.append(_draw_autoaugment(*key))
    elif auto_augment == "3augment":
        drawn.append(_draw_three_augment(*key))
    elif auto_augment == "trivial":
        drawn.append(_draw_trivial_augment(*key))
    if color_jitter > 0.0:
        drawn.append(_draw_color_jitter(color_jitter, *key))
    nothing = np.zeros((num_images, 0))
    ops_BL = np.concatenate([nothing, *(codes for codes, _ in drawn)], axis=1).astype(np.int8)
    params_BL = np.concatenate([nothing, *(params for _, params in drawn)], axis=1)
    # Adding 0 turns -0 into 0, so that equal views are equal bytes.
    return ops_BL, (np.where(ops_BL == 0, 0.0, params_BL) + 0.0).astype(np.float32)


def _codes(names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([OP_CODES[name] for name in names], dtype=np.int64)


def _signs(chance: Floats) -> Floats:
    return np.where(chance < 0.5, 1.0, -1.0)


def _parameters(
    ops_BL: NDArray[np.integer], strength_BL: Floats, sign_BL: Floats, ranges: Ranges
) -> Floats:
    """Turn strengths into physical parameters; 0 for operations that have none: [B, L]."""
    params_BL = np.zeros(ops_BL.shape)
    for name, parameter in ranges.items():
        chosen = ops_BL == OP_CODES[name]
        params_BL[chosen] = parameter(strength_BL[chosen], sign_BL[chosen])
    return params_BL


def _plain_factor(strength: Floats, _: Floats) -> Floats:
    return strength * 1.8 + 0.1


def _increasing_factor(strength: Floats, sign: Floats) -> Floats:
    return np.maximum(0.1, 1.0 + sign * (strength * 0.9))


def _trivial_factor(strength: Floats, sign: Floats) -> Floats:
    return 1.0 + sign * (strength * 0.99)


_PLAIN: Ranges = {
    "rotate": lambda strength, sign: sign * (strength * 30.0),
    # Deviation: timm goes down to 0 bits, a black image; one bit is the least here.
    "posterize": lambda strength, _: np.maximum(1.0, np.floor(strength * 4.0)),
    "solarize": lambda strength, _: np.floor(strength * 256.0),
    "solarize_add": lambda strength, _: np.floor(strength * 110.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), _plain_factor),
    **dict.fromkeys(("shear_x", "shear_y"), lambda strength, sign: sign * (strength * 0.3)),
    **dict.fromkeys(("translate_x", "translate_y"), lambda strength, sign: sign * strength * 0.45),
    "blur": lambda strength, _: (strength * 1.9 + 0.1) / _PAPER_SIDE,
}
"""timm's ranges of RandAugment without inc1, strength being a tenth of the magnitude. Blur is
not among the 15; its range is that of 3-Augment."""

_INCREASING: Ranges = {
    **_PLAIN,
    "posterize": lambda strength, _: np.maximum(1.0, 4.0 - np.floor(strength * 4.0)),
    "solarize": lambda strength, _: 256.0 - np.floor(strength * 256.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), _increasing_factor),
}

_AUTOAUGMENT: Ranges = {
    **_PLAIN,
    "posterize": lambda strength, _: 4.0 + np.floor(strength * 4.0),
}

_TRIVIAL: Ranges = {
    "rotate": lambda strength, sign: sign * (strength * 135.0),
    "posterize": lambda strength, _: 8.0 - np.rint(strength * 6.0),
    # Thresholds fall by 8.5 from 255; a half level inverts the same pixels as the next whole one.
    "solarize": lambda strength, _: 255.0 - np.floor(np.rint(strength * 510.0) / 2.0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), _trivial_factor),
    **dict.fromkeys(("shear_x", "shear_y"), lambda strength, sign: sign * (strength * 0.99)),
    **dict.fromkeys(
        ("translate_x", "translate_y"), lambda strength, sign: sign * strength * 32.0 / _PAPER_SIDE
    ),
}


def _draw_rand_augment(
    policy: RandAugment, names: Sequence[str], *key: Key
) -> tuple[NDArray[np.integer], Floats]:
    """Cubuk et al. 2019, "RandAugment", arXiv:1909.13719, in the variant of timm that DeiT uses.

    Each of `num_ops` draws takes any of `names`, a name given twice twice as often, and is applied
    with probability `prob` at a magnitude of its own.
    """
    num = policy.num_ops
    chance_BL = uniform(*key, purpose="rand augment", num=4 * num)
    which_BL, applied_BL, sign_BL, spread_BL = np.split(chance_BL, 4, axis=1)
    level_BL = np.full(which_BL.shape, float(policy.magnitude))
    if policy.magnitude_std == math.inf:
        level_BL = level_BL * spread_BL
    elif policy.magnitude_std > 0.0:
        noise_BL = normal(*key, purpose="rand magnitude", num=num)
        level_BL = np.clip(level_BL + policy.magnitude_std * noise_BL, 0.0, MOST_MAGNITUDE)
    ops_BL = _codes(names)[np.floor(which_BL * len(names)).astype(np.int64)]
    ops_BL = np.where(applied_BL < policy.prob, ops_BL, 0)
    ranges = _INCREASING if policy.increasing else _PLAIN
    return ops_BL, _parameters(ops_BL, level_BL / MOST_MAGNITUDE, _signs(sign_BL), ranges)


def _draw_autoaugment(*key: Key) -> tuple[NDArray[np.integer], Floats]:
    """One sub-policy for each image, each of its two operations with its own probability.

    Parameters are those of timm's `original`, where rotations and shears have either sign equally
    often.
    """
    chance_B5 = uniform(*key, purpose="autoaugment", num=5)
    which_B = np.floor(chance_B5[:, 0] * len(SUB_POLICIES)).astype(np.int64)
    codes = np.array([_codes([name for name, _, _ in steps]) for steps in SUB_POLICIES])
    probs = np.array([[prob for _, prob, _ in steps] for steps in SUB_POLICIES])
    magnitudes = np.array([[magnitude for *_, magnitude in steps] for steps in SUB_POLICIES])
    ops_B2 = np.where(chance_B5[:, 1:3] < probs[which_B], codes[which_B], 0)
    strength_B2 = magnitudes[which_B] / MOST_MAGNITUDE
    return ops_B2, _parameters(ops_B2, strength_B2, _signs(chance_B5[:, 3:]), _AUTOAUGMENT)


def _draw_three_augment(*key: Key) -> tuple[NDArray[np.integer], Floats]:
    """Grayscale, solarize or Gaussian blur, equally often.

    Touvron et al. 2022, "DeiT III: Revenge of the ViT", arXiv:2204.07118, section 3.
    Deviation: the blur's standard deviation is 0.1 to 2 pixels of 224, and the same share of any
    other side.
    """
    chance_B2 = uniform(*key, purpose="3augment", num=2)
    ops_B1 = _codes(_THREE)[np.floor(chance_B2[:, :1] * len(_THREE)).astype(np.int64)]
    params_B1 = np.where(ops_B1 == OP_CODES["solarize"], 128.0, 0.0)
    blur_B1 = (0.1 + chance_B2[:, 1:] * 1.9) / _PAPER_SIDE
    return ops_B1, np.where(ops_B1 == OP_CODES["blur"], blur_B1, params_B1)


def _draw_trivial_augment(*key: Key) -> tuple[NDArray[np.integer], Floats]:
    """One of 14 operations, identity among them, at one of 31 strengths of the wide space.

    Müller and Hutter 2021, "TrivialAugment", arXiv:2103.10158.
    Deviation: translations are up to 32 pixels of 224, and the same share of any other side.
    """
    chance_B3 = uniform(*key, purpose="trivial augment", num=3)
    ops_B1 = _codes(_TRIVIAL_OPS)[np.floor(chance_B3[:, :1] * len(_TRIVIAL_OPS)).astype(np.int64)]
    step_B1 = np.floor(chance_B3[:, 1:2] * _TRIVIAL_STRENGTHS)
    strength_B1 = step_B1 / (_TRIVIAL_STRENGTHS - 1)
    return ops_B1, _parameters(ops_B1, strength_B1, _signs(chance_B3[:, 2:]), _TRIVIAL)


def _draw_color_jitter(jitter: float, *key: Key) -> tuple[NDArray[np.integer], Floats]:
    """Brightness, contrast and saturation, in random order, each by a factor around 1."""
    chance_B6 = uniform(*key, purpose="color jitter", num=6)
    ops_B3 = _codes(_JITTERED)[np.argsort(chance_B6[:, :3], axis=1, kind="stable")]
    low, high = max(0.0, 1.0 - jitter), 1.0 + jitter
    return ops_B3, low + chance_B6[:, 3:] * (high - low)
