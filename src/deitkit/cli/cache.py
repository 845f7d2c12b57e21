"""deitkit cache"""

from __future__ import annotations

import json as json_module
import time

from deitkit.errors import ConfigError

ACTIONS = ("list", "verify", "prune")


def cache(
    action: str,
    folder: str | None = None,
    *,
    teacher: str | None = None,
    unused_days: float | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Look after stored teacher logits: list them, verify every byte, prune what is not needed.

    deitkit cache list
    deitkit cache verify
    deitkit cache prune unused_days=30 --dry-run

    prune removes caches that another data set's cache of the same teacher and views replaced, or
    those that teacher and unused_days name; never one in use. Damaged records need no pruning:
    they are asked for again when they are next needed.

    Parameters
    ----------
    action
        list, verify or prune.
    folder
        Folder of the teacher caches; your own where left out.
    teacher
        Prune caches of the teacher of this name, as list shows it.
    unused_days
        Prune caches that were last used so many days ago.
    dry_run
        Say what prune would remove, and remove nothing.
    json
        Print JSON.
    """
    if action not in ACTIONS:
        raise ConfigError("ACTION", action, "no such action", f"use {', '.join(ACTIONS)}")
    if action != "prune" and (teacher is not None or unused_days is not None or dry_run):
        raise ConfigError(
            "USAGE",
            f"cache {action}",
            "teacher, unused_days and dry_run are for prune",
            "leave them out",
        )
    if action == "list":
        return _list(folder, json)
    if action == "verify":
        return _verify(folder, json)
    return _prune(folder, teacher, unused_days, dry_run, json)


def _list(folder: str | None, json: bool) -> int:
    from deitkit.api.cache import list_caches
    from deitkit.data import printable

    found = list_caches(folder)
    if json:
        print(json_module.dumps([cache.to_dict() for cache in found], indent=1))
        return 0
    for cache in found:
        name = "damaged header" if cache.teacher is None else printable(cache.teacher)
        used = time.strftime("%Y-%m-%d", time.localtime(cache.last_used))
        what = f"{cache.num_view_epochs} view epochs"
        if cache.num_images is not None:
            what += f" of {cache.num_images:,} images, {cache.num_classes:,} classes, {cache.dtype}"
        print(f"{printable(cache.folder)}\n  {name}: {what}")
        state = ", in use" if cache.in_use else ""
        print(f"  {cache.num_bytes / 1e6:,.1f} MB, last used {used}{state}")
    print(f"{len(found)} teacher caches, {sum(c.num_bytes for c in found) / 1e6:,.1f} MB")
    return 0


def _verify(folder: str | None, json: bool) -> int:
    """4 where anything is damaged, as `deitkit verify-resume`."""
    from deitkit.api.cache import verify_caches
    from deitkit.data import printable

    checks = verify_caches(folder)
    is_whole = all(check.is_whole for check in checks)
    if json:
        print(json_module.dumps([check.to_dict() for check in checks], indent=1))
        return 0 if is_whole else 4
    for check in checks:
        num_good = sum(report.num_good for report in check.files)
        num_empty = sum(report.num_empty for report in check.files)
        print(
            f"{printable(check.folder)}: {num_good:,} records whole, "
            f"{num_empty:,} not yet written, {check.num_bad:,} damaged"
        )
        for problem in check.problems:
            print(f"  {printable(problem)}")
        for report in check.files:
            if not report.has_full_length:
                print(f"  epoch-{report.epoch:05d}.bin has not the length it should have")
    print("whole" if is_whole else "DAMAGED: what is damaged is made again when it is next needed")
    return 0 if is_whole else 4


def _prune(
    folder: str | None, teacher: str | None, unused_days: float | None, dry_run: bool, json: bool
) -> int:
    from deitkit.api.cache import prune_caches
    from deitkit.data import printable

    removed, in_use = prune_caches(
        folder, teacher=teacher, unused_days=unused_days, dry_run=dry_run
    )
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
    print(f"{len(removed)} teacher caches, {freed:,.1f} MB")
    return 0
