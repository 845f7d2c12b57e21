"""What may differ between a run's config and a later command on the same folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from deitkit.config.loading import flatten
from deitkit.config.schema import RunConfig

FREE = {
    "data.path",
    "data.image_cache",
    "data.image_cache_folder",
    "data.remember_scan",
    "distill.cache_folder",
    "model.grad_checkpointing",
    "run.out",
    "run.workers",
    "run.ranks",
    "run.device",
    "run.overwrite",
    "run.accept_changes",
    "run.precision",
    "run.compile",
    "run.require_exact",
    "run.log_interval",
    "schedule.checkpoint_interval",
}
"""Settings that change no weight. The data are compared by content, not by path."""

NEEDS_FLAG = {"data.order", "data.window_mb"}
"""Settings of the data that leave the images what they are."""

FORBIDDEN_SECTIONS = ("model", "data")
"""Settings that make it another model or other images."""


class Change(NamedTuple):
    name: str
    before: Any
    now: Any
    kind: str
    """free, needs_flag or forbidden."""

    def __str__(self) -> str:
        return f"{self.name}: {self.before} -> {self.now}"


def find_changes(
    frozen: RunConfig, asked_before: Mapping[str, Any], asked_now: Mapping[str, Any]
) -> list[Change]:
    """What `asked_now` (dotted names) would change in a run; what it leaves out stays."""
    resolved = flatten(frozen)
    asked = {**flatten(RunConfig()), **asked_before}
    changes = []
    for name, value in asked_now.items():
        # The same as was asked, "auto" too, or the very value it became, is no change.
        if _plain(value) in (_plain(asked[name]), _plain(resolved[name])):
            continue
        before = asked_before.get(name, resolved[name])
        changes.append(Change(name, before, value, _kind(name, before, value)))
    return changes


def _kind(name: str, before: Any, now: Any) -> str:
    if name in FREE:
        return "free"
    if name == "schedule.epochs" and isinstance(before, int) and isinstance(now, int):
        return "free" if now > before else "needs_flag"
    if name in NEEDS_FLAG:
        return "needs_flag"
    return "forbidden" if name.partition(".")[0] in FORBIDDEN_SECTIONS else "needs_flag"


def _plain(value: Any) -> Any:
    """Values as they compare: a pair from YAML is a list, a square size one number."""
    if isinstance(value, list | tuple):
        members = tuple(value)
        return members[0] if len(set(members)) == 1 and len(members) == 2 else members
    return value
