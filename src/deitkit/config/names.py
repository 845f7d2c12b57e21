"""The names users type: short ones, foreign ones, misspelt ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from deitkit.errors import ConfigError

SHORT_NAMES: dict[str, str] = {
    "data": "data.path",
    "out": "run.out",
    "model": "model.name",
    "teacher": "distill.teacher",
    "teacher_cache": "distill.teacher_cache",
    "view_epochs": "distill.view_epochs",
    "folds": "data.folds",
    "labels": "data.labels",
    "unlabelled": "data.unlabelled",
    "init": "model.init",
    "epochs": "schedule.epochs",
    "budget": "schedule.budget",
    "sizes": "schedule.sizes",
    "strengths": "schedule.strengths",
    "strategy": "schedule.strategy",
    "batch_size": "optim.batch_size",
    "image_size": "data.image_size",
    "lr": "optim.lr",
    "seed": "run.seed",
    "workers": "run.workers",
    "ranks": "run.ranks",
    "device": "run.device",
    "overwrite": "run.overwrite",
}

FOREIGN_NAMES: dict[str, str] = {
    "imgsz": "image_size",
    "img_size": "image_size",
    "input_size": "image_size",
    "resolution": "image_size",
    "batch": "batch_size",
    "bs": "batch_size",
    "epoch": "epochs",
    "num_epochs": "epochs",
    "learning_rate": "lr",
    "lr0": "lr",
    "num_workers": "workers",
    "gpus": "ranks",
    "output": "out",
    "output_dir": "out",
    "project": "out",
    "data_dir": "data",
    "data_path": "data",
    "dataset": "data",
    "arch": "model",
    "model_name": "model",
    "teacher_model": "teacher",
    "pretrained": "init",
    "weights": "init",
    "time": "budget",
    "time_limit": "budget",
    "random_seed": "seed",
    "exist_ok": "overwrite",
    "kd_model_name": "teacher",
    "weight_decay": "optim.weight_decay",
    "wd": "optim.weight_decay",
    "mixup": "views.mixup",
    "cutmix": "views.cutmix",
    "drop_path": "model.drop_path",
    "label_smoothing": "optim.label_smoothing",
    "smoothing": "optim.label_smoothing",
    "distillation_type": "distill.kind",
    "distillation_alpha": "distill.weight",
    "distillation_tau": "distill.temperature",
    "temperature": "distill.temperature",
    "aa": "views.auto_augment",
    "auto_augment": "views.auto_augment",
    "randaugment": "views.auto_augment",
    "reprob": "views.erasing",
    "random_erasing": "views.erasing",
    "erasing": "views.erasing",
    "remode": "views.erasing_fill",
    "color_jitter": "views.color_jitter",
    "repeated_aug": "views.repeats",
    "aug_repeats": "views.repeats",
    "opt": "optim.name",
    "optimizer": "optim.name",
    "momentum": "optim.momentum",
    "layer_decay": "optim.layer_decay",
    "bce_loss": "optim.label_loss",
    "clip_grad": "optim.clip_norm",
    "finetune": "init",
    "resume": "out",
    "patience": "schedule.patience",
    "early_stopping": "schedule.patience",
    "balance": "data.balance",
    "kfold": "folds",
    "k_fold": "folds",
    "n_splits": "folds",
    "cv": "folds",
}


def canonical_name(name: str, known: Iterable[str]) -> str:
    """The `section.field` that `name` stands for; `known` are all of them.

    Raises:
        ConfigError: UNKNOWN_SETTING, with the name that was probably meant.
    """
    known = list(known)
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if name in known:
        return name
    if (meant := FOREIGN_NAMES.get(name)) is not None:
        raise ConfigError("UNKNOWN_SETTING", name, "no such setting", f"it is {meant}= here")
    homes = [full for full in known if full.rpartition(".")[2] == name]
    if homes:
        raise ConfigError(
            "UNKNOWN_SETTING", name, "needs its section", "write " + " or ".join(homes)
        )
    close = difflib.get_close_matches(name, [*SHORT_NAMES, *known], n=3, cutoff=0.6)
    do = f"did you mean {' or '.join(close)}?" if close else "see `deitkit train --help`"
    raise ConfigError("UNKNOWN_SETTING", name, "no such setting", do)
