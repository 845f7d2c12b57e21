"""Looking after the caches of a user: what is there, is it whole, what can go.

Two kinds, answers of teachers and decoded images, in folders of their own; what differs between
them is in `cache_of_answers` and `cache_of_images`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from deitkit.api.cache_found import CacheCheck, CacheFound
from deitkit.errors import ConfigError

_S_PER_DAY = 86_400.0
_BYTES_PER_GB = 1e9


def list_caches(folder: str | Path | None = None) -> list[CacheFound]:
    """The caches in `folder` (the user's own where left out), the last used first.

    Raises ConfigError NO_FOLDER.
    """
    from deitkit.api.cache_of_answers import find_answers
    from deitkit.api.cache_of_images import find_images, is_image_cache

    found = [
        find_images(path) if is_image_cache(path) else find_answers(path)
        for path in _folders(folder)
    ]
    return sorted(found, key=lambda cache: -cache.last_used)


def verify_caches(folder: str | Path | None = None) -> list[CacheCheck]:
    """Check every byte of every cache in `folder`; nothing is changed.

    Raises:
        ConfigError: NO_FOLDER.
        ResourceError: the disk forbids reading.
    """
    from deitkit.api.cache_of_answers import check_answers
    from deitkit.api.cache_of_images import check_images, is_image_cache

    return [
        check_images(path) if is_image_cache(path) else check_answers(path)
        for path in _folders(folder)
    ]


def prune_caches(
    folder: str | Path | None = None,
    *,
    teacher: str | None = None,
    unused_days: float | None = None,
    max_gb: float | None = None,
    dry_run: bool = False,
) -> tuple[list[CacheFound], list[CacheFound]]:
    """Remove caches that are not needed; returns (removed, kept because they are in use).

    By default those that were replaced: of one teacher and its views, or of images decoded alike
    from one place, all but the last used. With `teacher` all of the teacher of that name, with
    `unused_days` all that were last used so long ago, with `max_gb` those used longest ago until
    the rest of all fills at most so many GB (1e9 bytes); of several, those to which all apply. What
    killed processes left unfinished goes too. `dry_run` removes nothing and says what would go.

    Raises:
        ConfigError: NO_FOLDER.
        ResourceError: the disk refused.
    """
    from deitkit.runtime.shared_folder import remove_unused
    from deitkit.runtime.temporary_names import remove_leftovers

    found = list_caches(folder)
    if teacher is None and unused_days is None and max_gb is None:
        newest = {cache.replaces: cache for cache in reversed(found)}
        doomed = [cache for cache in found if newest[cache.replaces] is not cache]
    else:
        before = time.time() - (unused_days or 0.0) * _S_PER_DAY
        doomed = [
            cache
            for cache in found
            if teacher in (None, cache.teacher)
            and (unused_days is None or cache.last_used <= before)
        ]
        if max_gb is not None:
            doomed = _oldest(doomed, sum(c.num_bytes for c in found) - max_gb * _BYTES_PER_GB)
    if dry_run:
        return [c for c in doomed if not c.in_use], [c for c in doomed if c.in_use]
    for root in _roots(folder):
        remove_leftovers(root)
    removed = [cache for cache in doomed if remove_unused(cache.folder)]
    return removed, [cache for cache in doomed if cache not in removed]


def _oldest(found: Sequence[CacheFound], excess: float) -> list[CacheFound]:
    """Those not in use and used longest ago, until `excess` bytes are gone."""
    gone: list[CacheFound] = []
    for cache in reversed(found):
        if sum(c.num_bytes for c in gone) >= excess:
            break
        if not cache.in_use:
            gone.append(cache)
    return gone[::-1]


def _folders(folder: str | Path | None) -> list[Path]:
    from deitkit.teachers.cache_folder import cache_folders

    # Both kinds give their folders names of one form.
    return [path for root in _roots(folder) for path in cache_folders(root)]


def _roots(folder: str | Path | None) -> list[Path]:
    from deitkit.runtime.user_cache import user_cache

    if folder is None:
        return [user_cache("teachers"), user_cache("images")]  # not there before the first cache
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise ConfigError(
            "NO_FOLDER", root, "there is no such folder", "name the folder of the caches"
        )
    return [root]
