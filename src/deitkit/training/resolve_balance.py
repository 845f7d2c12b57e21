"""What is done about classes of very different sizes, and what does not go with it."""

from __future__ import annotations

import numpy as np

from deitkit.data import Dataset
from deitkit.errors import ConfigError
from deitkit.training.balance import choose_balance, choose_strength
from deitkit.training.choice import Choice
from deitkit.training.resolution import Resolution


def settle_balance(r: Resolution, dataset: Dataset) -> None:
    """What is done about classes of very different sizes.

    Raises:
        ConfigError: BALANCE, what cannot be had together with balanced sampling.
    """
    counts_K = np.bincount(dataset.train.labels, minlength=len(dataset.class_names))
    label_loss = r.config.optim.label_loss
    # A teacher's answers are stored for one view of each image and epoch; shards are read whole.
    can_sample = (
        r.config.distill.teacher is None
        and r.config.views.repeats == 1
        and r.config.data.order != "blocks"
        and (dataset.train.is_in_memory or dataset.train.reads_singly)
    )
    choice = choose_balance(counts_K, label_loss=label_loss, can_sample=can_sample)
    r.settle("data.balance", choice)
    r.settle("data.balance_strength", choose_strength(r.get("data.balance")))
    if r.get("data.balance") != "sampling":
        return
    r.settle("distill.teacher_cache", Choice("off", "balanced sampling repeats no epoch's views"))
    r.settle("data.order", Choice("images", "balanced sampling shuffles all images"))
    wrong = {
        "views.repeats": r.config.views.repeats > 1,
        "data.order": r.get("data.order") == "blocks",
        "distill.teacher_cache": r.get("distill.teacher_cache") != "off",
        "distill.view_epochs": r.get("distill.view_epochs") not in ("auto", 0),
    }
    for name, is_wrong in wrong.items():
        if is_wrong:
            raise ConfigError(
                "BALANCE",
                f"{name}={r.get(name)}",
                "cannot be had with balanced sampling, which shows images several times an epoch",
                "leave it out, or use data.balance=logits",
            )
