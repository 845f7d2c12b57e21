"""Twenty steps of DeiT-tiny distilled, made here and made from timm's parts, are the same steps."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from deitkit.augmentation import ViewPolicy
from deitkit.losses import DistillationLoss
from deitkit.models import create_model, load_weights
from deitkit.optim import Schedule, build_optimizer
from deitkit.runtime.world import World
from deitkit.training.loader import TrainSteps
from deitkit.training.parts import TrainParts
from deitkit.training.sizes import one_size
from deitkit.training.state import TrainState
from deitkit.training.step import train_step
from deitkit.training.teaching import LiveTeaching
from deitkit.training.verdict import HostVerdict
from tests.training.toy import MEAN, NUM_CLASSES, STD, ConvTeacher, live_teacher, toy_images

timm = pytest.importorskip("timm")

SIDE, NUM_STEPS, BATCH = 64, 20, 8
PEAK, DECAY, SMOOTHING = 5e-4, 0.05, 0.1


def build_ours(model: nn.Module, teacher: ConvTeacher) -> tuple[TrainState, TrainParts, TrainSteps]:
    policy = ViewPolicy(
        scale=(0.3, 1.0), mixup=0.8, cutmix=1.0, auto_augment="rand-m9-mstd0.5-inc1", erasing=0.5
    )
    live = live_teacher(teacher, side=SIDE)
    steps = TrainSteps(
        toy_images(24),
        policy=policy,
        view_seed=1,
        batch_size=BATCH,
        sizes=one_size((SIDE, SIDE)),
        teacher_size=live.image_size,
        rank=0,
        world_size=1,
    )
    optimizer = build_optimizer(
        "adamw",
        model,
        lr=PEAK,
        weight_decay=DECAY,
        layer_decay=None,
        betas=(0.9, 0.999),
        eps=1e-8,
        momentum=0.9,
    )
    parts = TrainParts(
        world=World(),
        device=torch.device("cpu"),
        autocast_dtype=None,
        student=model,
        teacher=LiveTeaching(live),
        render=steps.rendered,
        loss=DistillationLoss("hard", weight=0.5),
        schedule=Schedule(
            total_steps=NUM_STEPS, warmup_steps=5, peak_lr=PEAK, end_lr=1e-5, start_lr=1e-6
        ),
        num_classes=NUM_CLASSES,
        label_smoothing=SMOOTHING,
        label_loss="cross_entropy",
        mean=MEAN,
        std=STD,
        erasing_fill="pixel",
        clip_norm=1.0,
        judge=HostVerdict,
        device_batch_size=BATCH,
        steps_per_epoch=steps.steps_per_epoch,
        weight_seed=0,
    )
    return TrainState(model=model, average=None, optimizer=optimizer), parts, steps


def test_twenty_steps_equal_those_of_timm():
    """Model, losses, parameter groups and schedule of timm, AdamW of torch, on the same views:
    every loss, every rate and the final weights agree to a relative 1e-4 in fp32."""
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import param_groups_weight_decay
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(0)
    name = "deit_tiny_distilled_patch16_224"
    theirs = timm.create_model(name, num_classes=NUM_CLASSES, img_size=SIDE)
    theirs.set_distilled_training(True)
    ours = create_model(name, num_classes=NUM_CLASSES, image_size=SIDE)
    load_weights(ours, theirs.state_dict())
    teacher = ConvTeacher()
    judge = copy.deepcopy(teacher).eval()
    state, parts, steps = build_ours(ours, teacher)

    groups = param_groups_weight_decay(theirs, DECAY, no_weight_decay_list=theirs.no_weight_decay())
    optimizer = torch.optim.AdamW(groups, lr=PEAK)
    schedule = CosineLRScheduler(
        optimizer,
        t_initial=NUM_STEPS,
        lr_min=1e-5,
        warmup_t=5,
        warmup_lr_init=1e-6,
        t_in_epochs=False,
    )
    label_loss = SoftTargetCrossEntropy()
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    theirs.train()
    for step in range(NUM_STEPS):
        batch = steps[step]
        mixed_BCHW, targets_BK = parts.mix(batch)
        done = train_step(state, batch, parts)

        schedule.step_update(step)
        with torch.no_grad():
            decisions_B = judge((mixed_BCHW - 0.5) / 0.25).argmax(dim=1)
        cls_logits, dist_logits = theirs((mixed_BCHW - mean) / std)
        loss = 0.5 * label_loss(cls_logits, targets_BK)
        loss = loss + 0.5 * F.cross_entropy(dist_logits, decisions_B)
        optimizer.zero_grad()
        loss.backward()
        grad_norm = nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        optimizer.step()

        assert done.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        torch.testing.assert_close(done.losses.total, loss.detach(), rtol=1e-4, atol=0)
        torch.testing.assert_close(done.grad_norm, grad_norm, rtol=1e-3, atol=0)
    for key, value in theirs.state_dict().items():
        got = ours.state_dict()[key]
        if key.endswith("qkv.bias"):
            # A bias of the keys moves no softmax: its gradient is rounding, which Adam blows up.
            width = len(value) // 3
            got, value = (torch.cat([b[:width], b[2 * width :]]) for b in (got, value))
        assert (got - value).norm() < 1e-4 * max(float(value.norm()), 1e-3), key
