"""A resolved config -> the parts of a run. Besides api and cli, only here and `resolve` read it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deitkit.artifacts.bundle import Bundle, save_bundle
from deitkit.augmentation import ViewPolicy
from deitkit.config import AUTO, RunConfig, settled
from deitkit.data import Dataset
from deitkit.data.preprocess import Preprocessing
from deitkit.data.view_sources import reduction_facts
from deitkit.errors import ConfigError
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
from deitkit.runtime.compiler import compiler_fault
from deitkit.runtime.world import World
from deitkit.teachers import LiveTeacher, NoTeacher
from deitkit.teachers.classifier import lay_out
from deitkit.training.balance import log_priors
from deitkit.training.loader import TrainSteps, check_shares
from deitkit.training.order_choice import MEGABYTE
from deitkit.training.own_stem import inherit_stem
from deitkit.training.parts import TrainParts, mean_levels
from deitkit.training.precision import training_dtype
from deitkit.training.resolve import as_pair, evaluation_preprocessing, model_arguments
from deitkit.training.resolve_teacher import taught_share
from deitkit.training.scoring import TeacherSaid, score
from deitkit.training.sizes import build_phases
from deitkit.training.sources import OpenSources, whole_images
from deitkit.training.start import SCRATCH, open_start
from deitkit.training.state import TrainState
from deitkit.training.teaching import BlankTeacher, LiveTeaching, Teaching, open_stored_teaching
from deitkit.training.verdict import judge_for
from deitkit.training.workers import load_steps


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
        loaded = load_steps(
            steps,
            first,
            last,
            workers=self.num_workers,
            pin_memory=self.parts.device.type == "cuda",
        )
        for batch in loaded:
            self.steps.num_remade += batch.num_remade
            yield batch

    @property
    def num_workers(self) -> int:
        """Processes that decode and render; 0: this one does."""
        return settled(self.config.run.workers)

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

    def bundle(self, model: ImageModel, provenance: dict[str, Any]) -> Bundle:
        """The model as people get it."""
        return Bundle(
            model_config=self.state.model.config,
            class_names=self.dataset.class_names,
            preprocessing=self.spec,
            fusion="softmax" if self.config.distill.fusion == "softmax" else "mean",
            temperature=1.0,
            provenance=provenance,
            state_dict={k: v.detach().cpu() for k, v in model.state_dict().items()},
        )

    def save_best(self, run_folder: Path, provenance: dict[str, Any]) -> Callable[..., None]:
        """A function that writes a model and its scores to `best/`."""

        def save(model: ImageModel, scores: dict[str, Any]) -> None:
            bundle = self.bundle(model, {**provenance, "validation": scores})
            save_bundle(run_folder / "best", bundle)

        return save


def window_bytes_of(config: RunConfig) -> int | None:
    """Bytes of shards that are shuffled together; None where all images are.

    A run that began before there was a choice says auto, which was: images.
    """
    return config.data.window_mb * MEGABYTE if config.data.order == "blocks" else None


def build_student(config: RunConfig, *, num_classes: int) -> ImageModel:
    """The network of a resolved config, its first weights drawn by weight_seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.weight_seed or 0)
        return create_model(**model_arguments(config, num_classes=num_classes))


def assemble(
    config: RunConfig,
    dataset: Dataset,
    *,
    world: World,
    teacher: LiveTeacher | BlankTeacher | None = None,
    sources: OpenSources | None = None,
    said: TeacherSaid | None = None,
    starts: bool = True,
) -> Assembly:
    """Build model, optimizer and loader of a resolved config, and open the teacher's cache.

    Without `sources` views are cut from whole images. Without `starts` the trained start is not
    read: a checkpoint will replace the weights.

    Raises:
        ConfigError: the model's arguments do not fit, a batch is too small for the ranks, it cannot
            be compiled, or its stem cannot begin as the teacher's.
        DataError, ModelFileError: the start does not fit the data.
        ResourceError: the teacher's cache does not fit on the disk.
    """
    is_planned = isinstance(config.schedule.steps, int)
    total_steps = settled(config.schedule.steps) if is_planned else 1
    num_classes = len(dataset.class_names)
    device = world.device
    model = build_student(config, num_classes=num_classes)
    start = None
    if starts and config.model.init != SCRATCH:
        start = open_start(config.model.init).put_into(
            model,
            class_names=tuple(dataset.class_names),
            dist_token_from_cls=config.model.init_dist_token == "cls",
        )
    spec = evaluation_preprocessing(config)
    inherited = None
    if starts and start is None and not isinstance(teacher, BlankTeacher):
        classifier = None if teacher is None else teacher.classifier
        inherited = inherit_stem(model, classifier, spec, asked=config.model.init_stem)
    if config.model.grad_checkpointing:
        _checkpoint_gradients(model, config.model.name)
    model = model.to(device)
    lay_out(model.patch_embed if isinstance(model, DeiT) else model)
    if config.run.compile is True:
        _compile(model, config.model.name, device)
    asked = teacher or NoTeacher()
    optim = config.optim
    batch_size = settled(optim.batch_size)
    window_bytes = window_bytes_of(config)
    opened = sources or whole_images(dataset, window_bytes=window_bytes)
    num_view_epochs = 0 if config.distill.view_epochs == AUTO else config.distill.view_epochs
    until = taught_share(config)
    steps = TrainSteps(
        opened.images,
        sources=opened.sources,
        policy=_view_policy(config),
        view_seed=config.run.view_seed or 0,
        batch_size=batch_size,
        sizes=build_phases(
            config.schedule.sizes,
            image_size=as_pair(settled(config.data.image_size)),
            patch_size=model.patch_size if isinstance(model, DeiT) else None,
            total_steps=total_steps,
        ),
        teacher_size=asked.image_size,
        rank=world.rank,
        world_size=world.world_size,
        repeats=config.views.repeats,
        num_view_epochs=num_view_epochs or None if until == 1 else None,
        until=until,
        strengths=_strengths(config),
        total_steps=total_steps,
        op_fill=mean_levels(settled(config.data.mean)),
        on_device=device.type == "cuda",
        window_bytes=window_bytes,
        balance_strength=(
            settled(config.data.balance_strength) if config.data.balance == "sampling" else None
        ),
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
            hidden_lr=settled(optim.hidden_lr),
        ),
    )
    teaching: Teaching = LiveTeaching(asked)
    notes = [] if inherited is None else [inherited]
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
                **reduction_facts(steps.images.sizes, opened.source_side, steps.largest_size),
            },
            tell=notes.append,
        )
    parts = TrainParts(
        world=world,
        device=device,
        autocast_dtype=training_dtype(config.run.precision, device),
        student=world.wrap(model),
        teacher=teaching,
        render=steps.rendered,
        loss=DistillationLoss(
            kind=config.distill.kind,
            weight=settled(config.distill.weight),
            temperature=settled(config.distill.temperature),
            reduction=config.distill.reduction,
            label_loss=optim.label_loss,
            label_shift_K=_label_shift(config, dataset, device),
        ),
        taught_steps=steps.taught_steps,
        schedule=schedule,
        num_classes=num_classes,
        label_smoothing=optim.label_smoothing,
        label_loss=optim.label_loss,
        mean=settled(config.data.mean),
        std=settled(config.data.std),
        erasing_fill=config.views.erasing_fill,
        clip_norm=optim.clip_norm,
        judge=judge_for(device),
        device_batch_size=settled(optim.device_batch_size),
        steps_per_epoch=steps.steps_per_epoch,
        weight_seed=config.run.weight_seed or 0,
    )
    return Assembly(
        config=config,
        dataset=dataset,
        spec=spec,
        state=state,
        parts=parts,
        steps=steps,
        world=world,
        start=start,
        said=said,
        notes=tuple(notes),
    )


def _strengths(config: RunConfig) -> tuple[float, ...]:
    """Of the views, part by part; before there is a plan those of the last part, or full."""
    strengths = config.schedule.strengths
    if strengths == AUTO:
        return ()
    return strengths if isinstance(config.schedule.steps, int) else strengths[-1:]


def _checkpoint_gradients(model: ImageModel, name: str) -> None:
    if not isinstance(model, DeiT):
        raise ConfigError(
            "MODEL_OPTION",
            "model.grad_checkpointing",
            f"{name} has no transformer blocks to compute twice",
            "leave it out, or lower optim.device_batch_size",
        )
    model.set_grad_checkpointing(True)


def _compile(model: ImageModel, name: str, device: torch.device) -> None:
    do = "set run.compile=false, or leave it out"
    if not isinstance(model, DeiT):
        why = f"{name} has no transformer blocks to compile"
        raise ConfigError("MODEL_OPTION", "run.compile", why, do)
    if (fault := compiler_fault(device)) is not None:
        raise ConfigError("NO_COMPILER", "run.compile", fault, f"install what is missing, or {do}")
    model.compile_blocks()


def _view_policy(config: RunConfig) -> ViewPolicy:
    views = config.views
    return ViewPolicy(
        crop="none" if views.crop == AUTO else views.crop,
        scale=views.scale if isinstance(views.scale, tuple) else (0.35, 1.0),
        ratio=views.ratio,
        padding=views.padding if isinstance(views.padding, float) else 0.125,
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


def _label_shift(config: RunConfig, dataset: Dataset, device: torch.device) -> torch.Tensor | None:
    """What the label loss adds to the logits of each class; None where nothing is.

    A run that began before there was a choice says auto, which was: none.
    """
    if config.data.balance != "logits":
        return None
    counts_K = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
    tau = settled(config.data.balance_strength)
    return torch.tensor(log_priors(counts_K), device=device) * tau


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
