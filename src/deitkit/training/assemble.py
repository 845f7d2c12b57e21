"""A resolved config -> the parts of a run. Besides api and cli, only here and `resolve` read it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from deitkit.artifacts.bundle import Bundle, save_bundle
from deitkit.augmentation import ViewPolicy
from deitkit.config import AUTO, RunConfig, settled
from deitkit.data import Dataset, ImageSet
from deitkit.data.preprocess import Preprocessing
from deitkit.errors import ConfigError
from deitkit.evaluation.diagnostics import head_agreement, token_cosines
from deitkit.evaluation.logits import collect_logits
from deitkit.evaluation.metrics import summarise
from deitkit.flow import Batch
from deitkit.losses import DistillationLoss
from deitkit.models import ImageModel, WeightReport, create_model
from deitkit.models.deit import DeiT
from deitkit.optim import (
    Schedule,
    WeightAverage,
    build_optimizer,
    decay_from_half_life,
    scaled_lr,
)
from deitkit.runtime.device import precision_for
from deitkit.runtime.world import World
from deitkit.teachers import LiveTeacher, NoTeacher
from deitkit.training.loader import PREFETCHED_STEPS, TrainSteps, check_shares, load_steps
from deitkit.training.parts import TrainParts, mean_levels
from deitkit.training.resolve import as_pair, evaluation_preprocessing, model_arguments
from deitkit.training.start import SCRATCH, open_start
from deitkit.training.state import TrainState
from deitkit.training.step import train_step
from deitkit.training.teaching import BlankTeacher, LiveTeaching, Teaching, open_stored_teaching

NUM_TOKEN_IMAGES = 64
NUM_WARM_STEPS = 2
NUM_TIMED_STEPS = 8
NUM_TIMED_IMAGES = 128


class TeacherSaid(NamedTuple):
    """The teacher's logits of clean validation images, in the order of the user's classes."""

    indices: np.ndarray
    logits_NK: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """Everything one run on one rank is made of."""

    config: RunConfig
    dataset: Dataset
    spec: Preprocessing
    state: TrainState
    parts: TrainParts
    steps: TrainSteps
    world: World
    start: WeightReport | None
    """What became of every key of the weights it begins with; None from scratch."""

    said: TeacherSaid | None = None
    notes: tuple[str, ...] = ()
    """What was found when the teacher's cache was opened."""

    def batches(self, first: int, last: int) -> Generator[Batch]:
        """Steps `first` to `last` - 1, not rendered for a teacher whose answers are there."""
        teaching = self.parts.teacher
        steps = self.steps.with_answers(
            teaching.answered_epochs(), from_step=first if teaching.keeps_answers() else None
        )
        return load_steps(steps, first, last, workers=settled(self.config.run.workers))

    def validate(self, model: ImageModel, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Scores on the validation images, each counted once whatever the number of ranks."""
        fusion = self.config.distill.fusion
        return score(
            model,
            self.dataset.val,
            self.spec,
            self.world,
            stop,
            fusion="mean" if fusion == "fitted" else fusion,
            said=self.said,
        )

    def save_best(self, run_folder: Path, provenance: dict[str, Any]) -> Callable[..., None]:
        """A function that writes a model and its scores to `best/`."""

        def save(model: ImageModel, scores: dict[str, Any]) -> None:
            bundle = Bundle(
                model_config=self.state.model.config,
                class_names=self.dataset.class_names,
                preprocessing=self.spec,
                fusion="softmax" if self.config.distill.fusion == "softmax" else "mean",
                temperature=1.0,
                provenance={**provenance, "validation": scores},
                state_dict={k: v.detach().cpu() for k, v in model.state_dict().items()},
            )
            save_bundle(run_folder / "best", bundle)

        return save


def assemble(
    config: RunConfig,
    dataset: Dataset,
    *,
    world: World,
    teacher: LiveTeacher | BlankTeacher | None = None,
    said: TeacherSaid | None = None,
    starts: bool = True,
) -> Assembly:
    """Build model, optimizer and loader of a resolved config, and open the teacher's cache.

    Without `starts` the trained start is not read: a checkpoint will replace the weights.

    Raises:
        ConfigError: the model's arguments do not fit, or a batch is too small for the ranks.
        DataError, ModelFileError: the start does not fit the data.
        ResourceError: the teacher's cache does not fit on the disk.
    """
    total_steps = config.schedule.steps if isinstance(config.schedule.steps, int) else 1
    num_classes = len(dataset.class_names)
    device = world.device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.weight_seed or 0)
        model = create_model(**model_arguments(config, num_classes=num_classes))
    start = None
    if starts and config.model.init != SCRATCH:
        start = open_start(config.model.init).put_into(
            model,
            class_names=tuple(dataset.class_names),
            dist_token_from_cls=config.model.init_dist_token == "cls",
        )
    if config.model.grad_checkpointing:
        _checkpoint_gradients(model, config.model.name)
    model = model.to(device)
    asked = teacher or NoTeacher()
    optim = config.optim
    batch_size = settled(optim.batch_size)
    images = dataset.train
    if dataset.unlabelled is not None:
        images = dataset.train.joined(dataset.unlabelled)
    num_view_epochs = 0 if config.distill.view_epochs == AUTO else config.distill.view_epochs
    steps = TrainSteps(
        images,
        policy=_view_policy(config),
        view_seed=config.run.view_seed or 0,
        batch_size=batch_size,
        image_size=as_pair(settled(config.data.image_size)),
        teacher_size=asked.image_size,
        rank=world.rank,
        world_size=world.world_size,
        repeats=config.views.repeats,
        num_view_epochs=num_view_epochs or None,
        op_fill=mean_levels(settled(config.data.mean)),
        on_device=device.type == "cuda",
    )
    check_shares(steps, batch_size)
    peak = scaled_lr(settled(optim.lr), batch_size=batch_size)
    schedule = Schedule(
        total_steps=total_steps,
        warmup_steps=round(settled(optim.warmup) * total_steps),
        peak_lr=peak,
        end_lr=min(settled(optim.min_lr), peak),
        start_lr=min(optim.warmup_lr, peak),
    )
    state = TrainState(
        model=model,
        average=_average(config, model, total_steps),
        optimizer=build_optimizer(
            optim.name,
            model,
            lr=peak,
            weight_decay=settled(optim.weight_decay),
            layer_decay=settled(optim.layer_decay),
            betas=(optim.beta1, optim.beta2),
            eps=optim.eps,
            momentum=settled(optim.momentum),
        ),
    )
    teaching: Teaching = LiveTeaching(asked)
    notes: list[str] = []
    distill = config.distill
    if isinstance(teacher, LiveTeacher) and distill.teacher_cache in ("memory", "disk"):
        teaching = open_stored_teaching(
            teacher,
            steps,
            world=world,
            mode=distill.teacher_cache,
            folder=distill.cache_folder,
            num_view_epochs=num_view_epochs,
            dtype=distill.cache_dtype,
            top_k=distill.cache_top_k,
            erasing_fill=config.views.erasing_fill,
            mean=settled(config.data.mean),
            std=settled(config.data.std),
            decoding={
                "channels": config.data.channels,
                "background": list(config.data.background),
            },
            tell=notes.append,
        )
    parts = TrainParts(
        world=world,
        device=device,
        autocast_dtype=precision_for(device),
        student=world.wrap(model),
        teacher=teaching,
        render=steps.rendered,
        loss=DistillationLoss(
            kind=config.distill.kind,
            weight=settled(config.distill.weight),
            temperature=settled(config.distill.temperature),
            reduction=config.distill.reduction,
            label_loss=optim.label_loss,
        ),
        schedule=schedule,
        num_classes=num_classes,
        label_smoothing=optim.label_smoothing,
        label_loss=optim.label_loss,
        image_size=as_pair(settled(config.data.image_size)),
        mean=settled(config.data.mean),
        std=settled(config.data.std),
        erasing_fill=config.views.erasing_fill,
        clip_norm=optim.clip_norm,
        device_batch_size=settled(optim.device_batch_size),
        steps_per_epoch=steps.steps_per_epoch,
        weight_seed=config.run.weight_seed or 0,
    )
    return Assembly(
        config=config,
        dataset=dataset,
        spec=evaluation_preprocessing(config),
        state=state,
        parts=parts,
        steps=steps,
        world=world,
        start=start,
        said=said,
        notes=tuple(notes),
    )


def score(
    model: ImageModel,
    images: ImageSet,
    spec: Preprocessing,
    world: World,
    stop: Callable[[], bool],
    *,
    fusion: str = "mean",
    said: TeacherSaid | None = None,
) -> dict[str, float] | None:
    """top1, nll, calibration error of the fused heads and num_images; None when asked to stop.

    Where it is known what the teacher `said` of them, also how often each head agrees with it, as
    agree_fused, agree_cls, agree_dist, and how alike the two tokens are, as token_cos_in and
    token_cos_out (Touvron et al. 2021, arXiv:2012.12877, section 5.2).
    """
    logits = collect_logits(
        model,
        images,
        spec,
        device=world.device,
        rank=world.rank,
        world_size=world.world_size,
        stop=stop,
    )
    if logits is None:
        return None
    logits = logits.gathered(world.gather_rows)
    metrics = summarise(logits.fused(fusion), images.labels[logits.indices], images.class_names)
    scores = {
        "top1": metrics.top1,
        "nll": metrics.nll,
        "ece": metrics.ece,
        "num_images": metrics.num_images,
    }
    if said is None:
        return scores
    asked = logits.at(said.indices)
    agreement = head_agreement(said.logits_NK, asked, fusion=fusion)
    scores |= {f"agree_{head}": share.value or 0.0 for head, share in agreement.items()}
    tokens = token_cosines(
        model, images, spec, device=world.device, max_images=NUM_TOKEN_IMAGES, stop=stop
    )
    if tokens is not None:
        scores |= {"token_cos_in": tokens.input, "token_cos_out": tokens.output}
    return scores


def measure(
    assembly: Assembly, *, limit_s: float, progress: Callable[[int, int], None]
) -> tuple[float, float]:
    """Seconds of one training step, loading included, and of one evaluation. Spoils the state.

    The batches that loader workers prepared ahead are used up first: they would hide the loading.
    Slow steps are cut off after `limit_s`, when at least two were timed.
    """
    state, parts, world = assembly.state, assembly.parts, assembly.world
    num_warm = NUM_WARM_STEPS + PREFETCHED_STEPS * settled(assembly.config.run.workers)
    times = [time.monotonic()]
    with closing(assembly.batches(0, num_warm + NUM_TIMED_STEPS)) as batches:
        for batch in batches:
            with world.lost_ranks_told():
                float(train_step(state, batch, parts).losses.total)
            times.append(time.monotonic())
            progress(len(times) - 1, num_warm + NUM_TIMED_STEPS)
            is_late = world.any(times[-1] - times[0] > limit_s)
            if is_late and len(times) > NUM_WARM_STEPS + 2:
                break
    first = min(num_warm, max(NUM_WARM_STEPS, len(times) - 1 - NUM_TIMED_STEPS))
    step_s = (times[-1] - times[first]) / (len(times) - 1 - first)
    few = assembly.dataset.val
    few = few.subset(np.arange(min(NUM_TIMED_IMAGES, len(few))), few.name)
    start = time.monotonic()
    score(state.model, few, assembly.spec, world, lambda: False)
    num_models = 1 if state.average is None else 2
    share = len(assembly.dataset.val) / len(few)
    evaluation_s = (time.monotonic() - start) * share * num_models
    return world.max(step_s), world.max(evaluation_s)


def _checkpoint_gradients(model: ImageModel, name: str) -> None:
    if not isinstance(model, DeiT):
        raise ConfigError(
            "MODEL_OPTION",
            "model.grad_checkpointing",
            f"{name} has no transformer blocks to compute twice",
            "leave it out, or lower optim.device_batch_size",
        )
    model.set_grad_checkpointing(True)


def _view_policy(config: RunConfig) -> ViewPolicy:
    views = config.views
    return ViewPolicy(
        crop="none" if views.crop == AUTO else views.crop,
        scale=views.scale if isinstance(views.scale, tuple) else (0.35, 1.0),
        ratio=views.ratio,
        padding=views.padding,
        flip=settled(views.flip),
        mixup=views.mixup if isinstance(views.mixup, float) else 0.0,
        cutmix=views.cutmix if isinstance(views.cutmix, float) else 0.0,
        mix_prob=views.mix_prob if isinstance(views.mix_prob, float) else 1.0,
        switch_prob=views.switch_prob,
        auto_augment="none" if views.auto_augment == AUTO else views.auto_augment,
        rand_ops=views.rand_ops,
        color_jitter=views.color_jitter,
        erasing=views.erasing if isinstance(views.erasing, float) else 0.0,
        erasing_scale=views.erasing_scale,
        erasing_ratio=views.erasing_ratio,
    )


def _average(
    config: RunConfig, model: ImageModel, total_steps: int
) -> WeightAverage[ImageModel] | None:
    ema = config.ema
    if ema.decay is not None:
        return WeightAverage(model, decay=ema.decay, warmup=ema.warmup)
    if ema.half_life == 0:
        return None
    decay = decay_from_half_life(max(ema.half_life * total_steps, 1))
    return WeightAverage(model, decay=decay, warmup=ema.warmup)
