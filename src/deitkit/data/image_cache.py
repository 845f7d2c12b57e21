"""Images decoded once, reduced to what training views need, and kept on disk for all who train.

Filled before the first step by one process, while others wait; a process that dies leaves what it
wrote. What is damaged later is decoded again when it is met: the bytes are the same, so a run
depends neither on who filled a cache nor on when, nor on what became of it since.
"""

# Shapes: N images, M different contents, H height, W width, C channels, 2 (height, width).

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deitkit.data.image_cache_files import StoredImages
from deitkit.data.image_cache_folder import (
    CacheIdentity,
    cache_folders,
    cache_name,
    create_folder,
    read_layout,
    repair_folder,
)
from deitkit.data.image_cache_layout import Layout, layout_of
from deitkit.data.image_set import ImageSet
from deitkit.data.reduction import decoded_least, reduce_image
from deitkit.data.threads import map_rows, num_decode_threads
from deitkit.errors import ResourceError
from deitkit.runtime.disk_faults import disk_fault, free_space_bytes
from deitkit.runtime.disk_space import readable_bytes
from deitkit.runtime.shared_folder import SharedLock, filling, lock_folder, remove_unused
from deitkit.runtime.temporary_names import remove_leftovers

Tell = Callable[[str], None]
Progress = Callable[[str, int, int | None], None]

MAX_SHARE_GONE = 0.1
"""An earlier data set's cache is replaced where at most this share of its images is gone. One that
has more which the new one lacks stays: a run on a tenth of the data does not cost the whole."""
_DO = (
    "free some space, name a folder on another disk with data.image_cache_folder=, or set "
    "data.image_cache=off"
)


class ReducedImages:
    """A set's images, the larger ones reduced, made anew at every reading."""

    def __init__(self, images: ImageSet, side: int | None) -> None:
        self.images = images
        self.layout = layout_of(
            images.digests, images.sizes, channels=images.decode.channels, side=side
        )
        self.places = self.layout.places(images.digests)

    def make(self, index: int) -> np.ndarray:
        """uint8 [H, W, C] of an image as the cache stores it. Raises what `ImageSet.image` does."""
        size: tuple[int, int] = tuple(self.images.sizes[index].tolist())
        height, width, _ = self.layout.shape(int(self.places[index]))
        image_HWC = self.images.image_of_least(index, decoded_least(size, (height, width)))
        return reduce_image(image_HWC, (height, width))


class ImageCache:
    """The images of one set on disk. `num_remade` counts those decoded again since it was opened.

    Can be sent to loader workers, which then count for themselves.
    """

    def __init__(self, reduced: ReducedImages, stored: StoredImages | None, *, writable: bool):
        """Use `open_image_cache`."""
        self.reduced = reduced
        self.stored = stored
        self.num_remade = 0
        self._writable = writable

    def read(self, index: int) -> np.ndarray:
        """uint8 [H, W, C] of an image of the set; do not write to it.

        Raises what `ImageSet.image` does, where it has to be decoded.
        """
        place = int(self.reduced.places[index])
        with contextlib.suppress(OSError):
            # Whatever the disk says: the image itself is still there.
            found = None if self.stored is None else self.stored.read(place)
            if found is not None:
                return found
        image_HWC = self.reduced.make(index)
        self.num_remade += 1
        if self.stored is not None and self._writable:
            with contextlib.suppress(OSError):
                self.stored.write(place, image_HWC)
        return image_HWC


def open_image_cache(
    images: ImageSet,
    root: Path,
    *,
    side: int | None,
    source: str,
    tell: Tell,
    progress: Progress,
) -> tuple[ImageCache, SharedLock | None]:
    """Find or make the cache of these images in `root`, with every image in it.

    The lock keeps others from removing it. `tell` takes sentences for the user; `progress` is
    called while it is filled, here or by another process, and what it raises ends that.

    Raises:
        ResourceError: ENOSPC with the bytes needed; the disk's own faults. What is there stays.
        DataError: an image vanished or changed.
    """
    reduced = ReducedImages(images, side)
    layout = reduced.layout
    identity = CacheIdentity(decode=images.decode, side=side, source=source)
    place = root.expanduser() / cache_name(identity, layout)
    try:
        lock, writable = _locked_folder(place, identity, layout, tell)
        if lock is None:
            return ImageCache(reduced, None, writable=False), None
        stored = StoredImages(place, layout)
        try:
            if writable:
                _fill(stored, reduced, identity, tell, progress)
        except BaseException:
            lock.release()
            raise
        finally:
            # Loader workers open the files themselves.
            stored.close()
        return ImageCache(reduced, stored, writable=writable), lock
    except OSError as error:
        raise _fault(error, place, layout.num_bytes) from error


def num_missing(images: ImageSet, root: Path, *, side: int | None, source: str) -> int:
    """Different images that `open_image_cache` would have to decode; nothing is made or changed."""
    layout = ReducedImages(images, side).layout
    identity = CacheIdentity(decode=images.decode, side=side, source=source)
    place = root.expanduser() / cache_name(identity, layout)
    if not place.is_dir():
        return len(layout)
    try:
        with StoredImages(place, layout) as stored:
            return len(stored.missing())
    except OSError:
        return len(layout)


def _began(place: Path, identity: CacheIdentity, layout: Layout, tell: Tell) -> bool:
    """Make the folder; False where nothing can be written."""
    _check_space(place, layout.num_bytes)
    remove_leftovers(place.parent)
    try:
        create_folder(place, identity, layout)
    except (OSError, ResourceError) as error:
        if not _is_read_only(error):
            raise
        tell(
            f"{place.parent} cannot be written to: without an image cache each image is "
            "decoded whenever it is shown"
        )
        return False
    return True


def _locked_folder(
    place: Path, identity: CacheIdentity, layout: Layout, tell: Tell
) -> tuple[SharedLock | None, bool]:
    """The lock of the folder, made if it was not there, and whether it can be written to; no lock
    where it is not there and cannot be made."""
    lock = lock_folder(place, lambda: _began(place, identity, layout, tell))
    if lock is None:
        return None, False
    try:
        if repair_folder(place, identity, layout):
            tell(f"image cache {place}: its header or index was damaged and is written again")
        return lock, True
    except (OSError, ResourceError) as error:
        if not _is_read_only(error):
            lock.release()
            raise
        tell(f"image cache {place} cannot be written to: what it lacks is decoded when it is shown")
        return lock, False


def _is_read_only(error: OSError | ResourceError) -> bool:
    code = error.code if isinstance(error, ResourceError) else errno.errorcode.get(error.errno or 0)
    return code in ("EACCES", "EPERM", "EROFS")


def _fill(
    stored: StoredImages,
    reduced: ReducedImages,
    identity: CacheIdentity,
    tell: Tell,
    progress: Progress,
) -> None:
    """Decode what is not there, alone; or wait until another process has."""
    total = len(stored.layout)

    def waiting() -> None:
        what = "waiting for the image cache that another process fills"
        progress(what, total - len(stored.missing()), total)

    with stored, filling(stored.folder, waiting):
        missing = stored.missing()
        if len(missing) == 0:
            return
        _check_space(stored.folder, stored.layout.num_bytes - stored.allocated_bytes())
        size = readable_bytes(stored.layout.num_bytes)
        free = free_space_bytes(stored.folder)
        left = "" if free is None else f", {readable_bytes(free)} stay free"
        tell(f"image cache {stored.folder}: {size} for {total:,} images{left}")
        _take_over(stored, identity, tell)
        missing = stored.missing()
        index_of = dict(zip(reduced.places.tolist(), range(len(reduced.places)), strict=True))
        indices = [index_of[place] for place in missing.tolist()]
        threads = num_decode_threads() if reduced.images.can_decode_in_threads else 1
        made = map_rows(lambda row: reduced.make(indices[row]), len(missing), num_threads=threads)
        with contextlib.closing(made):
            for row, image_HWC in enumerate(made):
                stored.write(int(missing[row]), image_HWC)
                progress("filling the image cache", total - len(missing) + row + 1, total)
        stored.sync()


def _take_over(stored: StoredImages, identity: CacheIdentity, tell: Tell) -> None:
    """Copy what the cache of an earlier data set has of the same contents."""
    best: tuple[int, Path, Layout] | None = None
    for folder in cache_folders(stored.folder.parent):
        is_earlier = folder.name.startswith(identity.digest()) and folder != stored.folder
        layout = read_layout(folder, stored.layout.channels) if is_earlier else None
        if layout is None:
            continue
        num_kept = int((stored.layout.places(layout.entries_M["digest"]) >= 0).sum())
        if num_kept > (best[0] if best else 0):
            best = num_kept, folder, layout
    if best is None:
        return
    num_kept, folder, layout = best
    num_taken = 0
    try:
        lock = SharedLock(folder, counts=False)
    except FileNotFoundError:
        return
    try:
        places_M = stored.layout.places(layout.entries_M["digest"])
        with StoredImages(folder, layout) as earlier:
            for old in np.flatnonzero(places_M >= 0).tolist():
                image_HWC = earlier.read(old)
                if image_HWC is not None:
                    stored.write(int(places_M[old]), image_HWC)
                    num_taken += 1
    except FileNotFoundError:
        pass  # Somebody removed it by hand: the rest is decoded.
    finally:
        lock.release()
    stored.sync()
    num_gone = len(layout) - num_kept
    tell(
        f"the images changed: {num_taken:,} decoded images taken over, {num_gone:,} are gone, "
        f"{len(stored.layout) - num_kept:,} are new"
    )
    is_small = num_gone <= MAX_SHARE_GONE * len(layout)
    if not (is_small and remove_unused(folder)):
        tell(f"the earlier image cache stays in {folder}; remove the folder if it is not needed")


def _check_space(folder: Path, bytes_needed: int) -> None:
    """Refuse to begin what the disk cannot hold. Raises ResourceError ENOSPC."""
    free = free_space_bytes(folder)
    if free is not None and free < bytes_needed:
        why = f"the image cache needs {bytes_needed:,} more bytes, {free:,} are free"
        raise ResourceError("ENOSPC", folder, why, _DO)


def _fault(error: OSError, place: Path, bytes_needed: int) -> ResourceError:
    fault = disk_fault(error, place, bytes_needed=bytes_needed)
    do = _DO if fault.code in ("ENOSPC", "EDQUOT", "EFBIG") else fault.do.replace(" with out=", "")
    return ResourceError(fault.code, fault.subject, fault.why, do)
