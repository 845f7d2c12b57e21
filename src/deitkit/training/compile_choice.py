"""Whether the student is compiled."""

from __future__ import annotations

from collections.abc import Callable

from deitkit.models import name_facts
from deitkit.training.choice import Choice
from deitkit.training.resolution import Resolution

PAYS_FROM_S = 600.0
"""Seconds of training from which on about a minute of compiling is worth it: a tenth. A guess, as
no gain was measured on a GPU."""


def settle_compile(
    r: Resolution, *, device_type: str, step_s: float, fault: Callable[[], str | None]
) -> None:
    """Choose run.compile; `step_s` is a step's time uncompiled. `fault`, which takes some seconds,
    tells why nothing can be compiled here, and is asked last."""
    has_dropout = any(r.get(f"model.{name}") for name in ("attn_drop", "proj_drop"))
    r.settle(
        "run.compile",
        choose_compile(
            is_transformer=name_facts(r.get("model.name")).is_transformer,
            has_dropout=has_dropout,
            device_type=device_type,
            seconds=step_s * r.get("schedule.steps"),
            fault=fault,
        ),
    )


def choose_compile(
    *,
    is_transformer: bool,
    has_dropout: bool,
    device_type: str,
    seconds: float,
    fault: Callable[[], str | None],
) -> Choice:
    """On CUDA, where training takes `seconds` enough and it works."""
    if not is_transformer:
        return Choice(False, "only blocks of transformers are compiled")
    if has_dropout:
        return Choice(False, "dropout inside the blocks is drawn by the host")
    if device_type != "cuda":
        return Choice(False, f"a {device_type} is not faster for it, and takes about a minute")
    if seconds < PAYS_FROM_S:
        return Choice(False, f"about a minute of compiling for {seconds:.0f} s of training")
    if (why := fault()) is not None:
        return Choice(False, why)
    return Choice(True, f"about a minute of compiling for {seconds / 60:.0f} min of training")
