"""deitkit cache"""

from __future__ import annotations

import json as json_module
import time
from typing import TYPE_CHECKING

from deitkit.data import printable
from deitkit.errors import ConfigError

if TYPE_CHECKING:
    from deitkit.api.cache_found import CacheCheck, CacheFound

ACTIONS = ("list", "verify", "prune")


def cache(
    action: str,
    folder: str | None = None,
    *,
    teacher: str | None = None,
    unused_days: float | None = None,
    max_gb: float | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Look after stored teacher logits and decoded images: list, verify every byte, prune.

    deitkit cache list
    deitkit cache verify
    deitkit cache prune unused_days=30 --dry-run
    deitkit cache prune max_gb=20

    prune removes caches that a later one replaced (of the same teacher and views, or of images of
    the same place decoded alike), or those that teacher, unused_days and max_gb name; never one in
    use. What is damaged needs no pruning: it is made again when it is next needed.

    Parameters
    ----------
    action
        list, verify or prune.
    folder
        Folder of caches; your own of both kinds where left out.
    teacher
        Prune caches of the teacher of this name, as list shows it.
    unused_days
        Prune caches that were last used so many days ago.
    max_gb
        Prune those used longest ago, until what is left takes so many GB.
    dry_run
        Say what prune would remove, and remove nothing.
    json
        Print JSON.
    """
    if action not in ACTIONS:
        raise ConfigError("ACTION", action, "no such action", f"use {', '.join(ACTIONS)}")
    chosen = (teacher, unused_days, max_gb)
    if action != "prune" and (dry_run or any(value is not None for value in chosen)):
        raise ConfigError(
            "USAGE",
            f"cache {action}",
            "teacher, unused_days, max_gb and dry_run are for prune",
            "leave them out",
        )
    if action == "list":
        return _list(folder, json)
    if action == "verify":
        return _verify(folder, json)
    from deitkit.api.cache import prune_caches

    removed, in_use = prune_caches(
        folder, teacher=teacher, unused_days=unused_days, max_gb=max_gb, dry_run=dry_run
    )
    return _show_pruned(removed, in_use, dry_run, json)


def _list(folder: str | None, json: bool) -> int:
    from deitkit.api.cache import list_caches

    found = list_caches(folder)
    if json:
        print(json_module.dumps([cache.to_dict() for cache in found], indent=1))
        return 0
    for cache in found:
        used = time.strftime("%Y-%m-%d", time.localtime(cache.last_used))
        state = ", in use" if cache.in_use else ""
        print(f"{printable(cache.folder)}\n  {_described(cache)}")
        print(f"  {cache.num_bytes / 1e6:,.1f} MB, last used {used}{state}")
    print(f"{len(found)} caches, {sum(c.num_bytes for c in found) / 1e6:,.1f} MB")
    return 0


def _described(cache: CacheFound) -> str:
    """What is in it, and what it was made from."""
    from deitkit.api.cache_found import IMAGES

    facts = cache.facts
    if cache.kind == IMAGES:
        if cache.source is None:
            return "decoded images: damaged header"
        side = "whole" if facts["side"] is None else f"reduced to {facts['side']}"
        return f"{cache.num_images:,} decoded images, {side}, of {printable(cache.source)}"
    name = "damaged header" if cache.teacher is None else printable(cache.teacher)
    what = f"{facts['num_view_epochs']} view epochs"
    if cache.num_images is not None:
        what += f" of {cache.num_images:,} images, {facts['num_classes']:,} classes"
        what += f", {facts['dtype']}"
    return f"{name}: {what}"


def _verify(folder: str | None, json: bool) -> int:
    """4 where anything is damaged, as `deitkit verify-resume`."""
    from deitkit.api.cache import verify_caches

    checks = verify_caches(folder)
    is_whole = all(check.is_whole for check in checks)
    if json:
        print(json_module.dumps([check.to_dict() for check in checks], indent=1))
        return 0 if is_whole else 4
    for check in checks:
        _show_check(check)
    print("whole" if is_whole else "DAMAGED: what is damaged is made again when it is next needed")
    return 0 if is_whole else 4


def _show_check(check: CacheCheck) -> None:
    from deitkit.api.cache_found import IMAGES

    num_good = sum(report.num_good for report in check.files.values())
    num_empty = sum(report.num_empty for report in check.files.values())
    what = "images" if check.kind == IMAGES else "records"
    print(
        f"{printable(check.folder)}: {num_good:,} {what} whole, "
        f"{num_empty:,} not yet written, {check.num_bad:,} damaged"
    )
    for problem in check.problems:
        print(f"  {printable(problem)}")
    for name, report in check.files.items():
        if not report.has_full_length:
            print(f"  {name} has not the length it should have")


def _show_pruned(
    removed: list[CacheFound], in_use: list[CacheFound], dry_run: bool, json: bool
) -> int:
    if json:
        shown = {
            "dry_run": dry_run,
            "removed": [str(cache.folder) for cache in removed],
            "in_use": [str(cache.folder) for cache in in_use],
            "bytes": sum(cache.num_bytes for cache in removed),
        }
        print(json_module.dumps(shown, indent=1))
        return 0
    for cache in removed:
        print(f"{'would remove' if dry_run else 'removed'} {printable(cache.folder)}")
    for cache in in_use:
        print(f"in use, kept: {printable(cache.folder)}")
    freed = sum(cache.num_bytes for cache in removed) / 1e6
    print(f"{len(removed)} caches, {freed:,.1f} MB")
    return 0
