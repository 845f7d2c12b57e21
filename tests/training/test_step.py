"""`train_step` against the same algorithm written out with torch alone, and its invariances."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deitkit.augmentation import ViewPolicy
from deitkit.flow import Batch
from deitkit.models import ImageModel
from deitkit.training.step import train_step
from tests.training.toy import (
    MEAN,
    NUM_CLASSES,
    SIDE,
    STD,
    ConvTeacher,
    bits,
    live_teacher,
    toy_images,
    toy_model,
    toy_run,
)

MIXED = ViewPolicy(crop="padded", mixup=0.8, cutmix=1.0)
UNMIXED = ViewPolicy(crop="padded")
NUM_STEPS = 8
PEAK, END, START, WARMUP = 1e-3, 1e-5, 1e-6, 2


def mixed_by_hand(batch: Batch, smoothing: float) -> tuple[Tensor, Tensor]:
    """Pair after pair, pixel after pixel: images 0 to 1 and targets [B, K]."""
    images = batch.images_BCHW.float() / 255
    labels = F.one_hot(batch.labels_B, NUM_CLASSES).float()
    labels = labels * (1 - smoothing) + smoothing / NUM_CLASSES
    mixed, targets = images.clone(), labels.clone()
    for i in range(len(batch) // 2 * 2):
        j = i + 1 if i % 2 == 0 else i - 1
        lam = float(batch.views.lam_B[i])
        top, left, bottom, right = (round(float(v) * SIDE) for v in batch.views.cut_B4[i])
        if bottom > top:
            mixed[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
            lam = 1 - (bottom - top) * (right - left) / SIDE**2
        else:
            mixed[i] = lam * images[i] + (1 - lam) * images[j]
        targets[i] = lam * labels[i] + (1 - lam) * labels[j]
    return mixed, targets


def rate_by_hand(step: int) -> float:
    if step < WARMUP:
        return START + (PEAK - START) * step / WARMUP
    return END + (PEAK - END) * (1 + math.cos(math.pi * step / NUM_STEPS)) / 2


def plain_loop(
    model: ImageModel, batches: list[Batch], *, kind: str, teacher: nn.Module | None, clip: float
) -> tuple[list[float], ImageModel]:
    """DeiT training as the paper says it. Returns the losses and the moving average (0.9)."""
    decayed = [p for n, p in model.named_parameters() if p.ndim > 1 and not is_token(n)]
    rest = [p for n, p in model.named_parameters() if p.ndim <= 1 or is_token(n)]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
    )
    average = copy.deepcopy(model)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    losses = []
    for step, batch in enumerate(batches):
        images, targets = mixed_by_hand(batch, smoothing=0.1)
        cls_logits, dist_logits = model((images - mean) / std)
        loss = F.cross_entropy(cls_logits, targets)
        if teacher is not None:
            with torch.no_grad():
                answers = teacher((images - 0.5) / 0.25)
            if kind == "hard":
                term = F.cross_entropy(dist_logits, answers.argmax(dim=1))
            else:
                term = 4 * F.kl_div(
                    (dist_logits / 2).log_softmax(1),
                    (answers / 2).softmax(1),
                    reduction="batchmean",
                )
            loss = 0.7 * loss + 0.3 * term
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        for group in optimizer.param_groups:
            group["lr"] = rate_by_hand(step)
        optimizer.step()
        with torch.no_grad():
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.copy_(0.9 * a + 0.1 * p)
        losses.append(loss.item())
    return losses, average


def is_token(name: str) -> bool:
    return name in ("cls_token", "dist_token", "pos_embed")


@pytest.mark.parametrize("clip", [0.5, 1e9], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("policy", [UNMIXED, MIXED], ids=["unmixed", "mixed"])
@pytest.mark.parametrize("kind", ["none", "soft", "hard"])
def test_steps_are_the_plain_loop(kind, policy, clip):
    """Losses, weights and average of eight steps (31 images: the last of an epoch has no mate)."""
    model = toy_model(distilled=kind != "none")
    plain = copy.deepcopy(model)
    teacher = None if kind == "none" else ConvTeacher().eval()
    state, parts, steps = toy_run(
        toy_images(31),
        batch_size=8,
        policy=policy,
        model=model,
        teacher=None if teacher is None else live_teacher(copy.deepcopy(teacher)),
        kind=kind,
        clip_norm=clip,
        decay=0.9,
    )
    batches = [steps[step] for step in range(NUM_STEPS)]
    if policy is MIXED:
        kinds = {(b.views.cut_B4[:, 2] > 0).any() for b in batches}
        assert kinds == {True} and any(len(batch) % 2 for batch in batches)
    done = [train_step(state, batch, parts) for batch in batches]
    losses, average = plain_loop(plain, batches, kind=kind, teacher=teacher, clip=clip)
    np.testing.assert_allclose([d.loss for d in done], losses, rtol=1e-6, atol=1e-6)
    for got, expected in ((state.model, plain), (state.average.model, average)):
        for name, value in expected.state_dict().items():
            torch.testing.assert_close(got.state_dict()[name], value, rtol=0, atol=1e-6, msg=name)
    assert [d.lr for d in done] == pytest.approx([rate_by_hand(s) for s in range(NUM_STEPS)])
    assert state.num_updates == state.step == NUM_STEPS


@pytest.mark.parametrize("size", [2, 5, 12])
def test_accumulated_gradients_are_those_of_the_big_batch(size):
    """A.23, with mixing, drop-path and a teacher; a size of 5 becomes 6, whole pairs."""
    images = toy_images(23)

    def train(device_batch_size: int) -> tuple[list[float], dict[str, Tensor]]:
        state, parts, steps = toy_run(
            images,
            batch_size=23,
            policy=MIXED,
            model=toy_model(distilled=True, drop_path=0.4),
            teacher=live_teacher(ConvTeacher()),
            kind="soft",
            device_batch_size=device_batch_size,
        )
        shares = [len(share) for share, _ in parts.micro_batches(steps[0])]
        assert sum(shares) == 23 and max(shares) <= device_batch_size + 1
        losses = [train_step(state, steps[step], parts).loss for step in range(6)]
        return losses, state.model.state_dict()

    whole_losses, whole_weights = train(1000)
    losses, weights = train(size)
    np.testing.assert_allclose(losses, whole_losses, rtol=1e-5)
    for name, value in whole_weights.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=1e-5, msg=name)


def test_gradients_are_exchanged_with_the_last_micro_batch_only():
    _, parts, steps = toy_run(toy_images(10), batch_size=10, device_batch_size=4)
    assert [last for _, last in parts.micro_batches(steps[0])] == [False, False, True]


def test_dropped_paths_depend_on_step_and_seed_only():
    """The noise of the model is a function of its key: the same twice, another at another step."""
    images = toy_images(8)

    def losses(weight_seed: int) -> list[float]:
        state, parts, steps = toy_run(
            images, batch_size=8, model=toy_model(drop_path=0.5), peak_lr=0.0
        )
        parts = dataclasses.replace(parts, weight_seed=weight_seed)
        for group in state.optimizer.param_groups:
            group["weight_decay"] = 0.0
        torch.manual_seed(weight_seed + 99)
        same_batch = steps[0]
        return [train_step(state, same_batch, parts).loss for _ in range(6)]

    assert losses(0) == losses(0)
    assert len(set(losses(0))) > 2
    assert losses(0) != losses(1)


def test_thirty_two_images_are_learnt_by_heart():
    """A.24: all right and a loss below 0.01 in fewer than 200 steps."""
    model = toy_model(embed_dim=48)
    policy = ViewPolicy(crop="none", flip=0.0)
    images = toy_images(32)
    images.labels[:] = np.random.default_rng(9).integers(0, NUM_CLASSES, 32)
    state, parts, steps = toy_run(
        images,
        batch_size=32,
        policy=policy,
        model=model,
        smoothing=0.0,
        total_steps=180,
        peak_lr=4e-3,
    )
    for step in range(180):
        done = train_step(state, steps[step], parts)
    batch = steps[0]
    with torch.no_grad():
        logits = model.eval()(parts.normalise(batch.images_BCHW.float() / 255)).cls_logits
    assert (logits.argmax(dim=1) == batch.labels_B).all()
    assert done.loss < 0.01


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_changes_no_weight(poison):
    """T26: weights, average and moments keep every bit; the step is counted, then all goes on."""
    state, parts, steps = toy_run(toy_images(16), batch_size=8, decay=0.9)
    train_step(state, steps[0], parts)
    before, numbers = state.pack()
    kept = bits(before)
    healthy = parts.loss

    def poisoned(output, targets, teacher_logits, *, normalizer, **more):
        terms = healthy(output, targets, teacher_logits, normalizer=normalizer)
        return terms._replace(total=terms.total * poison)

    for bad in (1, 2):
        done = train_step(state, steps[bad], dataclasses.replace(parts, loss=poisoned))
        assert done.skipped
        assert bits(state.pack()[0]) == kept
        assert (state.step, state.num_updates, state.bad_in_a_row) == (1 + bad, 1, bad)
    assert state.pack()[1]["optimizer"] == numbers["optimizer"]
    assert not train_step(state, steps[3], parts).skipped
    assert (state.num_updates, state.bad_in_a_row) == (2, 0)
    assert bits(state.pack()[0]) != kept
    assert all(torch.isfinite(p).all() for p in state.model.parameters())


def test_a_packed_state_goes_on_with_the_same_bits():
    """T17: model, average, moments and counters through pack and unpack, then four more steps."""

    def fresh(seed: int):
        model = toy_model(seed=seed, drop_path=0.3)
        return toy_run(toy_images(20), batch_size=8, policy=MIXED, model=model, decay=0.9)

    state, parts, steps = fresh(0)
    for step in range(4):
        train_step(state, steps[step], parts)
    state.best, state.history = {"top1": 0.5, "step": 4}, [{"step": 4, "scores": {"raw": {}}}]
    state.evaluated_step, state.seconds = 4, 12.5
    tensors, numbers = state.pack()
    tensors = {name: value.clone() for name, value in tensors.items()}
    other, other_parts, _ = fresh(7)
    other.unpack(tensors, copy.deepcopy(numbers))
    assert bits(other.pack()[0]) == bits(tensors)
    assert other.pack()[1] == numbers
    assert (other.step, other.num_updates, other.evaluated_step, other.seconds) == (4, 4, 4, 12.5)
    assert (other.best, other.history) == (state.best, state.history)
    for step in range(4, 8):
        one = train_step(state, steps[step], parts)
        two = train_step(other, steps[step], other_parts)
        assert one.loss.hex() == two.loss.hex() and one.lr == two.lr
    assert bits(other.pack()[0]) == bits(state.pack()[0])
    assert other.pack()[1] == state.pack()[1]
