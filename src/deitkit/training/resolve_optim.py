"""What "auto" becomes in the optimizer, its batch and its learning rate."""

from __future__ import annotations

from typing import Any

from deitkit.models import name_facts
from deitkit.models.quick_cnn import QUICK_CNN
from deitkit.training import choices
from deitkit.training.choice import Choice
from deitkit.training.resolution import Resolution, named_shape


def settle_optimisation(
    r: Resolution,
    *,
    fine_tunes: bool,
    num_images: int,
    device_type: str,
    num_ranks: int,
    free_bytes: int | None,
) -> None:
    """Settle "optim" for a model that is known; `free_bytes` as for `choose_device_batch_size`."""
    shape = named_shape(r.config)
    pools = shape.get("stem") == "pooling" or r.config.model.name in QUICK_CNN
    r.settle("optim.name", choices.choose_optimizer(fine_tunes=fine_tunes, pools=pools))
    r.settle("optim.hidden_lr", choices.choose_hidden_lr(fine_tunes=fine_tunes, pools=pools))
    if fine_tunes:
        gentle = Choice(choices.FINE_TUNING_BATCH_SIZE, "fine-tuning")
        r.settle("optim.batch_size", choices.for_ranks(gentle, num_ranks))
        _settle_fine_tuning(r)
    batch = choices.choose_batch_size(
        num_images, device_type=device_type, is_transformer="patch_size" in shape
    )
    r.settle("optim.batch_size", choices.for_ranks(batch, num_ranks))
    batch_size = r.get("optim.batch_size")
    r.settle(
        "optim.device_batch_size",
        choices.choose_device_batch_size(
            batch_size, bytes_per_image=_bytes_per_image(r, shape), free_bytes=free_bytes
        ),
    )
    width = shape.get("embed_dim") if "patch_size" in shape else None
    r.settle("optim.lr", choices.choose_lr(width, batch_size, optimizer=r.config.optim.name))
    peak = r.get("optim.lr") * batch_size / 512
    r.settle("optim.min_lr", Choice(peak / 100, "a hundredth of the peak"))
    r.settle("optim.warmup", Choice(0.05, "a twentieth of the run"))
    r.settle("optim.layer_decay", Choice(1.0, "all layers learn alike"))
    decay, momentum, _ = choices.OPTIMIZER_HABITS[r.config.optim.name]
    r.settle("optim.weight_decay", Choice(decay, f"usual with {r.config.optim.name}"))
    r.settle("optim.momentum", Choice(momentum, f"usual with {r.config.optim.name}"))


def _settle_fine_tuning(r: Resolution) -> None:
    """A short, gentle run: see docs/experiments.md."""
    batch_size = r.get("optim.batch_size")
    r.settle("optim.lr", choices.choose_fine_tuning_lr(batch_size, optimizer=r.config.optim.name))
    r.settle("optim.warmup", Choice(0.1, "fine-tuning: a tenth of the run"))
    if name_facts(r.config.model.name).is_transformer:
        r.settle("optim.layer_decay", Choice(0.75, "lower layers are kept closer to the start"))


def _bytes_per_image(r: Resolution, shape: dict[str, Any]) -> float | None:
    """Activations that one image keeps until its backward pass; None for a CNN."""
    if "patch_size" not in shape:
        return None
    height, width = r.get("data.image_size")
    num_tokens = (height // shape["patch_size"]) * (width // shape["patch_size"]) + 2
    depth = 1 if r.config.model.grad_checkpointing else shape["depth"]
    per_token = choices.FLOATS_PER_TOKEN_AND_WIDTH * shape["embed_dim"] * 4.0
    return float(depth * num_tokens * per_token)
