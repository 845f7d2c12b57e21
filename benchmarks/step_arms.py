"""One training step as each library does it, on the same batch. Used by step.py.

Every arm: to float, pairs mixed, normalised, forward, cross-entropy of the class head with soft
targets and of the distillation head with the teacher's decision, backward, the gradient clipped to
norm 1, AdamW, a running average of the weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from finetune import declare_torchvision_ops
from step_shapes import (
    CLIP_NORM,
    CUTMIX,
    EMA_DECAY,
    LR,
    MEAN,
    MIXUP,
    SMOOTHING,
    STD,
    TEACHER_WEIGHT,
    WEIGHT_DECAY,
    Given,
    Shape,
    floor_step,
    given,
)
from torch import Tensor, nn
from torch.nn import functional as F

Step = Callable[[], None]

declare_torchvision_ops()


class NotHere(Exception):  # noqa: N818 - nothing went wrong
    """A library that is not installed."""


# deitkit


class GivenTeacher:
    """The logits of the batch."""

    image_size = None

    def __init__(self, batch: Given, first: int) -> None:
        self.logits_BK = batch.teacher_BK[first:]

    def __call__(self, images_BCHW: Tensor) -> Tensor:
        return self.logits_BK[: len(images_BCHW)]


def deitkit_step(shape: Shape, drop_path: float) -> Step:
    from deitkit.runtime.world import World

    return _deitkit_step(shape, drop_path, World())


def _deitkit_step(shape: Shape, drop_path: float, world: Any) -> Step:
    """`train_step` with the parts that `assemble` makes of a run's settings."""
    from deitkit.training.assemble import assemble
    from deitkit.training.step import train_step

    batch = given(shape)
    dataset = random_dataset(shape, batch)
    settings = {
        "model": shape.name,
        "image_size": shape.side,
        "batch_size": shape.batch_size,
        "teacher": "given",
        "distill.kind": "hard",
        "distill.weight": TEACHER_WEIGHT,
        "distill.teacher_cache": "off",
        "epochs": 300,
        "lr": LR * 512 / shape.batch_size,
        "init": "scratch",
        "model.drop_path": drop_path,
        "views.crop": "none",
        "views.flip": 0.0,
        "views.mixup": MIXUP,
        "views.cutmix": CUTMIX,
        "views.auto_augment": "none",
        "views.erasing": 0.0,
        "optim.weight_decay": WEIGHT_DECAY,
        "optim.clip_norm": CLIP_NORM,
        "optim.label_smoothing": SMOOTHING,
        "ema.decay": EMA_DECAY,
        "data.mean": MEAN,
        "data.std": STD,
    }
    config = resolved(settings, dataset, num_ranks=world.world_size)
    first = shape.batch_size * world.rank // world.world_size
    teacher = GivenTeacher(batch, first)
    assembly = assemble(config, dataset, world=world, teacher=teacher)  # type: ignore[arg-type]
    mine = assembly.steps[0]

    def step() -> None:
        done = train_step(assembly.state, mine, assembly.parts)
        assert not done.skipped

    return step


def resolved(settings: dict[str, Any], dataset: Any, *, num_ranks: int = 1) -> Any:
    """The settings of a run with nothing left open."""
    from deitkit.config import build_config
    from deitkit.runtime.device import usable_cores
    from deitkit.training.resolve import resolve_from_clock, resolve_from_data

    r = resolve_from_data(
        build_config(settings),
        dataset,
        device_type="cpu",
        num_cores=usable_cores(),
        num_ranks=num_ranks,
    )
    resolve_from_clock(
        r, step_s=1.0, evaluation_s=1.0, steps_per_epoch=1, seconds_left=1e6, teacher_step_s=0.0
    )
    return r.config


def random_dataset(shape: Shape, batch: Given) -> Any:
    from deitkit.data import Dataset, DecodePolicy, ImageSet
    from deitkit.data.report import DataReport
    from deitkit.data.sequence import SequenceStore

    pixels = batch.images_BCHW.permute(0, 2, 3, 1).contiguous().numpy()
    num = len(pixels)
    digests = torch.arange(num * 16).view(num, 16).to(torch.uint8).numpy()
    names = tuple(f"class {k:04d}" for k in range(shape.num_classes))
    images = ImageSet(
        name="train",
        class_names=names,
        labels=batch.labels_B.numpy(),
        digests=digests,
        sizes=torch.full((num, 2), shape.side, dtype=torch.int32).numpy(),
        store=SequenceStore([(image, "a") for image in pixels]),
        decode=DecodePolicy(),
        kept=pixels,
    )
    return Dataset("benchmark", names, images, images, None, DataReport("benchmark"), "0" * 32)


class RankPerCore:
    """deitkit with two ranks of one thread each; this process is the first of them."""

    def __init__(self, shape: Shape, drop_path: float, command: list[str]) -> None:
        import os
        import socket
        import subprocess

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"LOCAL_WORLD_SIZE": "2"}
        other = {**os.environ, **shared, "RANK": "1", "LOCAL_RANK": "1"}
        self.other = subprocess.Popen([*command, "--second-rank"], env=other)
        os.environ |= {**shared, "RANK": "0", "LOCAL_RANK": "0"}
        self.world, self.step = join_ranks(shape, drop_path)

    def __call__(self) -> None:
        self.world.broadcast_json(True)
        self.step()

    def close(self) -> None:
        self.world.broadcast_json(False)
        self.other.wait()
        self.world.close()


def join_ranks(shape: Shape, drop_path: float) -> tuple[Any, Step]:
    from deitkit.runtime.world import World

    world = World.from_environment(device="cpu")
    return world, _deitkit_step(shape, drop_path, world)


def be_second_rank(shape: Shape, drop_path: float) -> None:
    world, step = join_ranks(shape, drop_path)
    while world.broadcast_json(None):
        step()
    world.close()


# timm


def _mixed_timm(shape: Shape) -> Callable[[], tuple[Tensor, Tensor]]:
    """The batch as timm's loader and training loop hand it to the model."""
    from timm.data import Mixup

    batch = given(shape)
    mixup = Mixup(
        mixup_alpha=MIXUP,
        cutmix_alpha=CUTMIX,
        label_smoothing=SMOOTHING,
        num_classes=shape.num_classes,
    )
    mean, std = (255 * torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))

    def mixed() -> tuple[Tensor, Tensor]:
        images_BCHW = batch.images_BCHW.float().sub_(mean).div_(std)
        return mixup(images_BCHW, batch.labels_B)

    return mixed


def _timm_student(shape: Shape, drop_path: float) -> nn.Module:
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        f"deit_{shape.size}_distilled_patch16_224",
        img_size=shape.side,
        patch_size=shape.patch_size,
        num_classes=shape.num_classes,
        drop_path_rate=drop_path,
    )
    model.set_distilled_training(True)
    return model.train()


def _both_heads(cls_BK: Tensor, dist_BK: Tensor, targets_BK: Tensor, teacher_BK: Tensor) -> Tensor:
    from timm.loss import SoftTargetCrossEntropy

    label = SoftTargetCrossEntropy()(cls_BK, targets_BK)
    distill = F.cross_entropy(dist_BK, teacher_BK.argmax(dim=1))
    return (1 - TEACHER_WEIGHT) * label + TEACHER_WEIGHT * distill


def timm_step(shape: Shape, drop_path: float) -> Step:
    """As timm's training script: its AdamW, its clipping, ModelEmaV3."""
    model = _timm_student(shape, drop_path)
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEmaV3, dispatch_clip_grad

    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    average = ModelEmaV3(model, decay=EMA_DECAY)
    mixed, teacher_BK = _mixed_timm(shape), given(shape).teacher_BK

    def step() -> None:
        images_BCHW, targets_BK = mixed()
        loss = _both_heads(*model(images_BCHW), targets_BK, teacher_BK)
        optimizer.zero_grad()
        loss.backward()
        dispatch_clip_grad(model.parameters(), value=CLIP_NORM)
        optimizer.step()
        average.update(model, step=None)
        loss.item()

    return step


def authors_step(shape: Shape, drop_path: float) -> Step:
    """The DeiT authors' loop out of parts that timm still has: attention written out as in the timm
    they used, the loss read every step, NativeScaler, the first ModelEma."""
    model = _timm_student(shape, drop_path)
    from timm.optim import create_optimizer_v2
    from timm.utils import ModelEma, NativeScaler

    for block in model.blocks:
        block.attn.fused_attn = False
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=WEIGHT_DECAY)
    scaler = NativeScaler(device="cpu")
    average = ModelEma(model, decay=EMA_DECAY)
    mixed, teacher_BK = _mixed_timm(shape), given(shape).teacher_BK

    def step() -> None:
        images_BCHW, targets_BK = mixed()
        loss = _both_heads(*model(images_BCHW), targets_BK, teacher_BK)
        loss.item()
        optimizer.zero_grad()
        scaler(loss, optimizer, clip_grad=CLIP_NORM, parameters=model.parameters())
        average.update(model)

    return step


# Others, in a plain loop of torch


def _plain_step(shape: Shape, model: nn.Module, heads: Callable[[Tensor], Any]) -> Step:
    """torch's fused AdamW and its own average of weights."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, fused=True)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
    mixed, teacher_BK = _mixed_timm(shape), given(shape).teacher_BK

    def step() -> None:
        images_BCHW, targets_BK = mixed()
        loss = _both_heads(*heads(images_BCHW), targets_BK, teacher_BK)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        average.update_parameters(model)
        loss.item()

    return step


def transformers_step(shape: Shape, drop_path: float) -> Step:
    if drop_path:
        raise NotHere("its DeiT has no stochastic depth")
    try:
        from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher
    except ImportError as error:
        raise NotHere(f"transformers cannot be imported ({error})") from error
    torch.manual_seed(0)
    model = DeiTForImageClassificationWithTeacher(
        DeiTConfig(
            hidden_size=shape.width,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            intermediate_size=4 * shape.width,
            image_size=shape.side,
            patch_size=shape.patch_size,
            num_labels=shape.num_classes,
        )
    ).train()

    def heads(images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        said = model(images_BCHW)
        return said.cls_logits, said.distillation_logits

    return _plain_step(shape, model, heads)


class VitPytorchStudent(nn.Module):
    """Its distillable ViT with the token and head that its wrapper adds."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        from vit_pytorch.distill import DistillableViT

        self.vit = DistillableViT(
            image_size=shape.side,
            patch_size=shape.patch_size,
            num_classes=shape.num_classes,
            dim=shape.width,
            depth=shape.depth,
            heads=shape.heads,
            mlp_dim=4 * shape.width,
            dim_head=shape.width // shape.heads,
        )
        self.token = nn.Parameter(torch.randn(1, shape.width))
        self.head_dist = nn.Linear(shape.width, shape.num_classes)

    def forward(self, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        logits_BK, token_BD = self.vit(images_BCHW, distill_token=self.token)
        return logits_BK, self.head_dist(token_BD)


def vit_pytorch_step(shape: Shape, drop_path: float) -> Step:
    if drop_path:
        raise NotHere("it has no stochastic depth")
    try:
        torch.manual_seed(0)
        model = VitPytorchStudent(shape).train()
    except ImportError as error:
        raise NotHere(f"{error}; --path FOLDER names where it is") from error
    return _plain_step(shape, model, model)


def products_only(shape: Shape, drop_path: float) -> Step:
    return floor_step(shape)


ARMS: dict[str, Callable[[Shape, float], Step]] = {
    "floor": products_only,
    "deitkit": deitkit_step,
    "timm": timm_step,
    "authors": authors_step,
    "transformers": transformers_step,
    "vit-pytorch": vit_pytorch_step,
}
"""`ranks` stands beside them."""
