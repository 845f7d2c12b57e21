"""deitkit train"""

from __future__ import annotations

import os
from typing import Any

from deitkit.cli.ranks import run_on_ranks
from deitkit.cli.tokens import read_pairs
from deitkit.config import SHORT_NAMES
from deitkit.config.help import settings_help
from deitkit.config.recipes import list_recipes


def train(
    *settings: str,
    data: str | None = None,
    out: str | None = None,
    model: str | None = None,
    teacher: str | None = None,
    teacher_cache: str | None = None,
    view_epochs: str | None = None,
    labels: str | None = None,
    unlabelled: str | None = None,
    folds: str | None = None,
    init: str | None = None,
    epochs: str | None = None,
    sizes: str | None = None,
    strengths: str | None = None,
    budget: str | None = None,
    strategy: str | None = None,
    batch_size: str | None = None,
    image_size: str | None = None,
    lr: str | None = None,
    seed: str | None = None,
    workers: str | None = None,
    ranks: str | None = None,
    device: str | None = None,
    overwrite: bool | None = None,
    recipe: str | None = None,
    config: str | None = None,
) -> int:
    given = {name: value for name, value in locals().items() if name != "settings"}
    values: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    values |= read_pairs(settings)
    code = run_on_ranks(values)
    if code is not None:
        return code

    from deitkit.api import fit
    from deitkit.reporting.console import TrainingConsole

    console = TrainingConsole(enabled=os.environ.get("RANK", "0") == "0")
    try:
        for event in fit(progress=console.progress, **values):
            console.show(event)
    finally:
        console.close()
    return 0


def _describe() -> str:
    """The help text: what train does, and the settings as the schema explains them."""
    explained = settings_help()
    lines = [
        "Train a classifier on images; the same command again goes on where it stopped.",
        "",
        "deitkit train data=photos/               chosen for you, at most 30 minutes",
        "deitkit train data=photos/ budget=2h     with more time",
        "deitkit train data=photos/ strategy=auto        tries what could win, keeps the best",
        "deitkit train data=photos/ teacher=auto         a CNN is trained first, and teaches",
        "deitkit train data=photos/ teacher=runs/teacher out=runs/student",
        "deitkit train data=photos/ teacher=timm:regnety_160   or hf:NAME, or .onnx",
        "deitkit train out=runs/student           goes on",
        "deitkit train data=photos/ folds=5       few images: each is held out once",
        "deitkit train data=photos/ init=timm:deit_tiny_patch16_224    from trained weights",
        "deitkit train data=photos/ recipe=deit_tiny                   like the paper",
        "deitkit train data=photos/ ranks=auto              one, or one a core or GPU",
        "",
        "photos/ holds train/ and val/ (and test/), or one folder a class; a CSV with path",
        "and label works too, and a folder of shards: Parquet, or tars in the WebDataset",
        "layout. All settings: `deitkit settings`.",
        "",
        "Parameters",
        "----------",
        "settings",
        "    Any other setting as section.field=value, for example distill.kind=hard.",
    ]
    for short, full in SHORT_NAMES.items():
        text = explained[full].text.replace(f" Short: {short}.", "")
        lines += [short, f"    {text}"]
    names = ", ".join(list_recipes())
    lines += ["recipe", f"    Settings under a name, or a YAML file of them: {names}."]
    lines += ["config", "    A YAML file of settings; what is given here comes before it."]
    return "\n".join(lines)


train.__doc__ = _describe()
