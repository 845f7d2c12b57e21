"""Which network, of which size, "auto" becomes. Plain numbers in, (value, reason) out."""

from __future__ import annotations

from deitkit.models.deit_names import SIZES, patch_size_for
from deitkit.models.quick_cnn import QUICK_CNN, input_stride
from deitkit.training.choice import Choice

SMALL_SIDE = 64
"""Images up to this many pixels a side keep their size."""
AUTO_REGNET_IMAGES = 5_000
"""Photographs from which on teacher=auto is a RegNetY."""
MODEL_EPOCHS, STEM_EPOCHS = 30, 10
"""Times that every image is seen within the budget by a network that auto takes for it."""
FINE_TUNING_EPOCHS = 10
CPU_MACS_PER_SECOND_AND_CORE = 12e9
"""Multiply-adds a second of training small transformers; only the choice of a size reads it."""
CPU_PLACES_PER_SECOND_AND_CORE = 280e3
"""Of the first map of a quick_cnn of width 32 in training; only the choice of a width reads it."""
QUICK_WIDTHS = {shape["width"]: name for name, shape in QUICK_CNN.items()}
"""Name by width."""
WIDE = QUICK_CNN["quick_cnn_wide"]["width"]


def choose_image_size(median_side: int, largest_side: int, *, device_type: str) -> Choice:
    """Pixels a side: small images as they are, photographs as the machine can afford."""
    if largest_side <= SMALL_SIDE:
        patch = patch_size_for(largest_side)
        side = max(patch, patch * round(median_side / patch))
        return Choice((side, side), f"the images have {median_side} pixels a side")
    affordable = SMALL_SIDE if device_type == "cpu" else 224
    side = min(affordable, max(16, 16 * round(median_side / 16)))
    return Choice(
        (side, side),
        f"images of about {median_side} pixels; {affordable} is what a {device_type} learns from "
        "scratch in reasonable time",
    )


def choose_model(
    image_size: tuple[int, int],
    *,
    num_images: int,
    budget_s: float,
    has_teacher: bool,
    device_type: str,
    num_cores: int,
) -> Choice:
    """The largest DeiT that sees every image 30 times within the budget; on a CPU, where there is
    less time, one block behind pooling stages of `stem_width_for`: all three, where the images
    leave at least nine tokens after them."""
    side = max(image_size)
    patch = patch_size_for(side)
    is_cpu = device_type == "cpu"
    rate = CPU_MACS_PER_SECOND_AND_CORE * num_cores if is_cpu else 5e13

    def num_tokens(patch: int) -> int:
        return (image_size[0] // patch) * (image_size[1] // patch) + 1 + has_teacher

    def fits(size: str) -> bool:
        macs = _transformer_macs(num_tokens(patch), **SIZES[size])
        return 3 * macs * num_images * MODEL_EPOCHS / rate <= budget_s

    size = next(filter(fits, ("tiny", "micro") if is_cpu else ("small",)), None)
    parts = "_quick" if is_cpu else "_conv"
    if size is None and is_cpu:
        width = stem_width_for(
            image_size, num_images=num_images, budget_s=budget_s, num_cores=num_cores
        )
        size = "shallow" if width == SIZES["shallow"]["stem_width"] else "slim"
        if patch > 2 and min(image_size) >= 3 * 2 * patch:
            parts, patch = "_hybrid", 2 * patch
    size = size or "tiny"
    token = " and a distillation token for the teacher" if has_teacher else ""
    return Choice(
        f"deit_{size}{parts}{'_distilled' if has_teacher else ''}_patch{patch}_{side}",
        f"width {SIZES[size]['embed_dim']} fits {num_images} images and {budget_s / 60:.0f} min; "
        "convolutions in stem and blocks help small data "
        "(timm and transformers have no such network to export to); "
        f"patches of {patch} make {num_tokens(patch)} tokens{token}",
    )


def stem_width_for(
    image_size: tuple[int, int], *, num_images: int, budget_s: float, num_cores: int
) -> int:
    """Channels of the first pooling block on a CPU: 32 where such a network sees every image ten
    times within the budget, else 16, which is three times as fast."""
    stride = input_stride(patch_size_for(max(image_size)))
    places = (image_size[0] // stride) * (image_size[1] // stride)
    rate = CPU_PLACES_PER_SECOND_AND_CORE * num_cores
    return 32 if places * num_images * STEM_EPOCHS / rate <= budget_s else 16


def choose_auto_teacher(
    image_size: tuple[int, int],
    *,
    num_images: int,
    budget_s: float,
    device_type: str,
    num_cores: int,
    stem_width: int | None,
) -> Choice:
    """The convolutional network that teacher=auto trains, for images of that size.

    `stem_width` is that of a student which can begin with a network's first stages, None for others
    and for one that is not chosen yet.
    """
    is_cpu = device_type == "cpu"
    if max(image_size) > SMALL_SIDE and not is_cpu and num_images >= AUTO_REGNET_IMAGES:
        return Choice("regnety_004", "photographs enough for a RegNetY")
    if stem_width in QUICK_WIDTHS:
        width = stem_width
    elif is_cpu:
        width = stem_width_for(
            image_size, num_images=num_images, budget_s=budget_s, num_cores=num_cores
        )
    else:
        width = WIDE
    return Choice(QUICK_WIDTHS[width], "small images, few of them, or no accelerator")


def choose_start_size(
    start_size: tuple[int, int],
    patch_size: int,
    *,
    embed_dim: int,
    depth: int,
    num_images: int,
    budget_s: float,
    device_type: str,
    num_cores: int,
) -> Choice:
    """Pixels a side for fine-tuning a transformer: the start's own, or fewer where time is short.

    The largest size at which every image is seen ten times within the budget, and not below six
    patches a side: sharper pictures are worth more than more epochs.
    """
    if device_type != "cpu" or max(start_size) <= SMALL_SIDE:
        return Choice(start_size, "the size the start was trained at")
    rate = CPU_MACS_PER_SECOND_AND_CORE * num_cores
    step = max(patch_size, 32 // patch_size * patch_size)
    own = min(start_size)
    for side in range(own, 6 * patch_size, -step):
        macs = _transformer_macs((side // patch_size) ** 2 + 2, embed_dim, depth)
        if 3 * macs * num_images * FINE_TUNING_EPOCHS / rate <= budget_s:
            break
    else:
        side = 6 * patch_size
    if side == own:
        return Choice(start_size, "the size the start was trained at")
    return Choice(
        (side, side),
        f"not the start's {own}: {num_images} images are then seen {FINE_TUNING_EPOCHS} times "
        f"within {budget_s / 60:.0f} min; positions are resized",
    )


def _transformer_macs(
    num_tokens: int, embed_dim: int, depth: int, mlp_ratio: float = 4.0, **_: object
) -> float:
    """Multiply-adds of the blocks for one image, forward."""
    in_layers = (4 + 2 * mlp_ratio) * embed_dim**2 * num_tokens
    return float(depth * (in_layers + 2 * embed_dim * num_tokens**2))
