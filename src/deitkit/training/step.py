"""The algorithm, whole."""

from __future__ import annotations

import torch

from deitkit.flow import Batch, LossTerms
from deitkit.training.events import StepDone
from deitkit.training.parts import TrainParts
from deitkit.training.state import TrainState


def train_step(state: TrainState, batch: Batch, parts: TrainParts) -> StepDone:
    """One step of DeiT training: mix, student, teacher, loss, backward, clip, step, average.

    Touvron et al. 2021, arXiv:2012.12877, sections 4 (distillation) and 6 (recipe). A step whose
    gradient is not finite changes no weight; the gradient is the same on every rank, so all agree.
    On CUDA nothing here waits for the device.
    """
    state.model.train()
    is_taught = parts.teaches(state.step)
    loss = parts.loss if is_taught else parts.loss.without_teacher()
    losses = LossTerms(*torch.zeros(3, device=parts.device))
    for share, exchanges_gradients in parts.micro_batches(batch):
        images_BCHW, targets_BK = parts.mix(share)
        teacher_logits_BK = parts.ask_teacher(share, images_BCHW) if is_taught else None
        with parts.autocast(), parts.exchange(exchanges_gradients):
            output = parts.student(parts.normalise(images_BCHW), parts.noise(state.step, share))
            terms = loss(
                output,
                targets_BK,
                teacher_logits_BK,
                normalizer=parts.normalizer(batch),
                labelled_rows=parts.labelled_rows(share),
                label_normalizer=parts.label_normalizer(batch),
            )
            terms.total.backward()
        losses = LossTerms(*(a + b.detach() for a, b in zip(losses, terms, strict=True)))

    losses = LossTerms(*parts.world.sum(torch.stack(losses)) / parts.world.world_size)
    grad_norm = parts.clip(state.model.parameters())
    lr = parts.schedule.lr(state.step)
    verdict = parts.judge(grad_norm)
    verdict.step(state.optimizer, lr)
    verdict.update(state)
    verdict.count(state)
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    return StepDone(
        step=state.step,
        epoch=state.step / parts.steps_per_epoch,
        lr=lr,
        losses=losses,
        grad_norm=grad_norm,
        skipped=verdict.skipped,
        sample_ids=tuple(int(i) for i in batch.views.sample_ids_B),
        image_size=batch.image_size,
    )
